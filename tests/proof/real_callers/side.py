"""The owner's side: what gate's start calls and events reach, and what starts at the provider.

It is what the owner's functions have to be: it believes only what is signed, starts once for each webhook-id however often it is
called, and cancels at the provider what gate has given up. How a start call is answered is on demand.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any, Literal, Self

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.proof.real_callers.account import Account, Refused, Started, Task

MAXED = 421
Answer = Literal["starts", "fails", "refuses", "breaks", "loses", "hangs"]
"""fails: 400, for good · refuses: it has no room · breaks: 500, nothing was done · loses: it has started, and its answer is
a 500 · hangs: it starts, and answers, when it is let go."""
Decision = tuple[int, dict[str, Any]]


class Side:
    """Listens on a free loopback port, in a thread of its own.

    A call is answered as the job's payload says (`answers`, one for each call), else as the next of `answers`. Each start of a job
    takes the next of its payload's `plans` to the simulator, the last for all that follow; `plan` is what they leave open.
    """

    def __init__(self, provider_url: str, **plan: Any) -> None:
        self.provider_url, self.callback_url, self.plan = provider_url, "", plan
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        self.account = Account()
        self.answers: deque[Answer] = deque()
        self._calls, self._begun = Counter[str](), Counter[str]()
        self._decisions: dict[str, asyncio.Task[Decision]] = {}
        self._gone = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app(), log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: self._server.run(sockets=[self._socket]), name="owner", daemon=True)
        self._http: httpx2.AsyncClient

    def _app(self) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            async with httpx2.AsyncClient(base_url=self.provider_url, timeout=60, trust_env=False) as self._http:
                yield

        app = FastAPI(title="the owner's side", lifespan=lifespan)

        @app.exception_handler(WebhookVerificationError)
        async def forged(_request: Any, error: Exception) -> JSONResponse:
            self.account.wrong.append(f"not signed as agreed: {error}")
            return JSONResponse({"error": str(error)}, 401)

        @app.post("/start")
        async def start(request: Request) -> Any:
            webhook_id, kind, job = await self._read(request)
            if kind != "job.start":
                self.account.wrong.append(f"{kind} came to /start")
            call = Started(webhook_id, job)
            self.account.starts.append(call)
            call.answered, call.said = await self._answer(call)
            return JSONResponse(call.said, call.answered)

        @app.post("/events")
        async def event(request: Request) -> Any:
            webhook_id, kind, job = await self._read(request)
            status = kind.removeprefix("job.")
            if status == "late":  # the row stays as it is
                self.account.late[webhook_id] = job
                return {}
            self.account.hear(webhook_id, status, job)
            if status in ("cancelled", "expired") and job["task"]:
                await self._cancel(job["task"]["task_id"])
            return {}

        return app

    async def _read(self, request: Request) -> tuple[str, str, dict[str, Any]]:
        """Raises WebhookVerificationError."""
        try:
            said = Webhook(self.secret).verify(await request.body(), dict(request.headers))
        except ValueError as error:
            raise WebhookVerificationError(str(error)) from error
        return request.headers["webhook-id"], said["type"], said["data"]

    async def _answer(self, call: Started) -> Decision:
        payload, number = call.job["payload"] or {}, self._calls[call.job_id]
        self._calls[call.job_id] += 1
        left = deque[Answer](payload.get("answers", [])[number:]) or self.answers
        answer = left.popleft() if left else "starts"
        if answer == "hangs":
            await self._gone.wait()
        if answer == "breaks":
            return 500, {"error": "the owner's side is not well"}
        if call.webhook_id not in self._decisions:  # a repeat joins the first, while that is on its way too
            self._decisions[call.webhook_id] = asyncio.create_task(self._decide(call, answer))
        decision = await asyncio.shield(self._decisions[call.webhook_id])
        return (500, {"error": "the answer is lost"}) if answer == "loses" else decision

    async def _decide(self, call: Started, answer: Answer) -> Decision:
        if answer == "fails":
            return 400, {"error": "these are no arguments"}
        if answer == "refuses":
            return 200, {"outcome": "refused"}
        plans = (call.job["payload"] or {}).get("plans", [{}])
        plan = self.plan | plans[min(self._begun[call.job_id], len(plans) - 1)]
        self._begun[call.job_id] += 1
        sent = time.time()
        answer = await self._run(plan)
        said = answer.json()
        if answer.status_code != 200 or said["code"] != 0:
            planned = plan.get("refuse", False) or plan.get("busy") is not None
            self.account.refusals.append(Refused(call.job_id, sent, time.time(), planned))
            # Tools say it in their own words, or pass on what the provider said.
            return (200, {"outcome": "refused"}) if said.get("code") == MAXED else (answer.status_code, said)
        task = Task(said["data"]["taskId"], call.job_id, plan, sent, time.time())
        self.account.tasks[task.task_id] = task
        return 200, {"task_id": task.task_id}

    async def _cancel(self, task_id: str) -> None:
        if task_id not in self.account.tasks:
            self.account.wrong.append(f"asked to cancel {task_id}, which no tool started")
            return
        await self._ask("cancel", taskId=task_id)

    async def _run(self, plan: dict[str, Any]) -> httpx2.Response:
        body = {"apiKey": "k", "webhookUrl": self.callback_url, "gateTest": plan}
        return await self._http.post("/task/openapi/run", json=body)

    async def _ask(self, verb: str, **body: Any) -> Any:
        return (await self._http.post(f"/task/openapi/{verb}", json={"apiKey": "k"} | body)).json()

    def let_go(self) -> None:
        """Let hanging calls go on."""
        self._loop.call_soon_threadsafe(self._gone.set)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
