"""A simulated provider: RunningHub's documented API on loopback, with tasks that behave as a test demands.

A call to `/task/openapi/run` (or `create`, `ai-app/run`) starts a task, and so does the newer form
`/openapi/v2/run/ai-app/{id}`.

`python -m gate.simulator --port 0 --limit 3` prints the address. A test uses `with Simulator(limit=3) as simulator:`.

`POST /control` with `{limit?, defaults?, next?, tasks?}` plans the behaviour of tasks. `defaults` is for all tasks from now
on. `next` is for the next runs, one by one. `tasks` is for tasks that run. The field `gateTest` in the body of a run plans
that run only. `GET /control` returns the tasks and callbacks so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import httpx2
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SUCCESS = {"code": 0, "msg": "success"}
"""Code and message of a success in the old shape."""
CALLBACK_S = 30
"""Time (s) to wait for the response to a callback."""
Odd = Literal[
    "results_file_url", "data_url", "data_object", "output_file_list", "results_object", "plain_results", "plain_data",
    "text", "long_address", "unknown",
]  # fmt: skip
"""Shapes of a success that are not documented. gate knows all of them but `unknown`."""
Busy = Literal[415, 421, 1003, 1011, 1520, 429, 500, 503]
"""Codes of a provider that cannot take a task now. 429, 500 and 503 are the HTTP status; the others are in the body."""
Form = Literal["v1", "v2"]
"""Form of the path of a run call. The response has the same form."""
LONG = 4_100
"""Characters of the address of `long_address`. It is longer than the error text that gate keeps."""
BUSY = {415: "TASK_INSTANCE_MAXED", 421: "TASK_QUEUE_MAXED", 1003: "rate limit", 1011: "system busy", 1520: "queue limit"}
"""Messages for the codes that are in the body."""


class Plan(BaseModel):
    """Behaviour of a task.

    Attributes:
        seconds: Time (s) that the task runs.
        outcome: Its outcome. `empty` is a success without output.
        error: Reason of a failure.
        shape: Shape of the callback's `eventData`.
        as_string: `eventData` is JSON in a string.
        callback: How often the callback is sent.
        late: Time (s) between the end of the task and its callback.
        early: The callback is sent before the response to the run call.
        refuse: The run call starts no task; the provider's queue is full.
        odd: Shape of a success instead of `shape`; None for `shape`.
        busy: The run call starts no task and returns this code, or this HTTP status for 429, 500 and 503.
        starting_s: Time (s) from the run call to its response. The task itself begins at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[float, Field(ge=0)] = 0.05
    outcome: Literal["completed", "failed", "empty"] = "completed"
    error: str = "it broke"
    shape: Literal["old", "new"] = "old"
    as_string: bool = True
    callback: Literal["once", "lost", "doubled"] = "once"
    late: Annotated[float, Field(ge=0)] = 0
    early: bool = False
    refuse: bool = False
    odd: Odd | None = None
    busy: Busy | None = None
    starting_s: Annotated[float, Field(ge=0)] = 0

    def changed(self, change: dict[str, Any]) -> Plan:
        """Return this plan with other values.

        Args:
            change: The values, by field.

        Raises:
            ValidationError: A field or a value is not valid.
        """
        return Plan.model_validate(self.model_dump() | change)


class Control(BaseModel):
    """Body of `POST /control`.

    Attributes:
        limit: Tasks that may run at once; None for no change.
        defaults: Changes of the plan of all later tasks.
        next: Plans of the next runs, one for each.
        tasks: Changes of the plans of tasks, by their ids.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=0)] | None = None
    defaults: dict[str, Any] = {}
    next: list[dict[str, Any]] = []
    tasks: dict[str, dict[str, Any]] = {}


@dataclass(slots=True)
class _Task:
    task_id: str
    plan: Plan
    webhook_url: str | None
    started: float = field(default_factory=time.monotonic)
    status: str = "RUNNING"
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def results(self) -> list[str]:
        return [] if self.plan.outcome == "empty" else [f"https://files.invalid/{self.task_id}.png"]

    def old(self) -> dict[str, Any]:
        """Make the old shape. The outputs call returns it too."""
        if self.status == "SUCCESS":
            one = {"fileType": "png", "taskCostTime": round(self.plan.seconds), "nodeId": "9"}
            return SUCCESS | {"data": [{"fileUrl": url} | one for url in self.results()]}
        return {"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR", "data": {"failedReason": self.reason()}}

    def new(self) -> dict[str, Any]:
        body: dict[str, Any] = {"taskId": self.task_id, "status": self.status, "usage": {"consumeCoins": 1}}
        if self.status == "SUCCESS":
            results = [{"url": url, "outputType": "png"} for url in self.results()]
            return body | {"results": results, "errorMessage": "", "errorCode": "", "failedReason": {}}
        why = {"errorMessage": "APIKEY_TASK_STATUS_ERROR", "errorCode": "805", "failedReason": self.reason()}
        return body | {"results": None} | why

    def odd(self, shape: Odd) -> dict[str, Any]:
        """Make a success that has its output elsewhere than the documentation says."""
        (url,) = self.results()
        new, old = {"taskId": self.task_id, "status": "SUCCESS", "usage": {"consumeCoins": "1"}}, SUCCESS
        text = {"url": None, "outputType": "txt", "text": f"a text of {self.task_id}"}
        shapes: dict[Odd, dict[str, Any]] = {
            "results_file_url": new | {"results": [{"fileUrl": url, "fileType": "png"}]},
            "data_url": old | {"data": [{"url": url, "outputType": "png"}]},
            "data_object": old | {"data": {"fileUrl": url, "fileType": "png"}},
            "output_file_list": old | {"data": {"outputFileList": [{"fileUrl": url, "fileType": "png"}]}},
            "results_object": new | {"results": {"url": url, "outputType": "png"}},
            "plain_results": new | {"results": [url]},
            "plain_data": old | {"data": [url]},
            "text": new | {"results": [text]},
            "long_address": new | {"results": [{"url": f"{url}?{'x' * (LONG - len(url) - 1)}", "outputType": "png"}]},
            "unknown": new | {"results": {"picture": {"at": url}}},
        }
        return shapes[shape]

    def reason(self) -> dict[str, Any]:
        message = "cancelled" if self.cancelled else self.plan.error
        return {"node_name": "KSampler", "exception_message": message, "traceback": "[]", "node_id": "3"}

    def callback(self) -> dict[str, Any]:
        data = self.old() if self.plan.shape == "old" else self.new()
        if self.plan.odd is not None and self.status == "SUCCESS" and self.plan.outcome == "completed":
            data = self.odd(self.plan.odd)
        return {"event": "TASK_END", "taskId": self.task_id, "eventData": json.dumps(data) if self.plan.as_string else data}


class _Provider:
    """The tasks of one simulator. Call everything but `seen` on the simulator's own event loop."""

    def __init__(self, limit: int, defaults: Plan) -> None:
        self.limit, self.defaults = limit, defaults
        self.next: deque[dict[str, Any]] = deque()
        self.tasks: dict[str, _Task] = {}
        self.callbacks: list[dict[str, Any]] = []
        self.most = self.refused = 0
        self._numbers = itertools.count(1_900_000_000_000_000_000 + secrets.randbelow(10**16) * 10)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, body: dict[str, Any], form: Form) -> JSONResponse:
        webhook_url, own = body.get("webhookUrl"), body.get("gateTest", {})
        if not isinstance(webhook_url, str | None) or not isinstance(own, dict):
            return _refused(form, 301, "PARAMS_INVALID")
        if self.running() >= self.limit:
            self.refused += 1
            return _busy(form, 421)
        plan = self._plan(own)
        if plan.refuse or plan.busy is not None:
            self.refused += 1
            await asyncio.sleep(plan.starting_s)
            return _busy(form, plan.busy or 421)
        task = _Task(str(next(self._numbers)), plan, webhook_url)
        self.tasks[task.task_id] = task
        self.most = max(self.most, self.running())
        run = asyncio.create_task(self._run_task(task))
        self._running.add(run)
        run.add_done_callback(self._running.discard)
        await asyncio.sleep(plan.starting_s)
        if plan.early:
            await asyncio.wait([run])
        return _started(form, task.task_id)

    def _plan(self, own: dict[str, Any]) -> Plan:
        return self.defaults.changed(self.next.popleft() if self.next else {}).changed(own)

    async def _run_task(self, task: _Task) -> None:
        while not task.cancelled and (left := task.started + task.plan.seconds - time.monotonic()) > 0:
            task.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task.changed.wait(), left)
        task.status = "FAILED" if task.cancelled or task.plan.outcome == "failed" else "SUCCESS"
        if task.webhook_url is None or task.plan.callback == "lost":
            return
        await asyncio.sleep(task.plan.late)
        await asyncio.gather(*(self._call_back(task) for _ in range(2 if task.plan.callback == "doubled" else 1)))

    async def _call_back(self, task: _Task) -> None:
        assert task.webhook_url is not None
        body = task.callback()
        # Without the query, which contains the token.
        sent: dict[str, Any] = {"taskId": task.task_id, "url": task.webhook_url.split("?")[0], "body": body, "answer": None}
        with contextlib.suppress(httpx2.HTTPError, httpx2.InvalidURL):
            async with httpx2.AsyncClient(timeout=CALLBACK_S) as client:
                sent["answer"] = (await client.post(task.webhook_url, json=body)).status_code
        self.callbacks.append(sent)  # after the response, because a test that waits for a callback reads its response

    def status(self, task_id: Any) -> dict[str, Any]:
        task = self._task(task_id)
        return SUCCESS | {"data": task.status} if task else _unknown()

    def outputs(self, task_id: Any) -> dict[str, Any]:
        task = self._task(task_id)
        if task is None:
            return _unknown()
        if task.status == "RUNNING":
            return {"code": 804, "msg": "APIKEY_TASK_IS_RUNNING", "data": None}
        return task.old()

    def cancel(self, task_id: Any) -> dict[str, Any]:
        task = self._task(task_id)
        if task is None:
            return _unknown()
        if task.status == "RUNNING":
            task.cancelled = True
            task.status = "FAILED"
            task.changed.set()
        return SUCCESS | {"data": None}

    def control(self, wanted: Control) -> None:
        """Apply all changes, or none when one of them is not valid."""
        defaults = self.defaults.changed(wanted.defaults)
        for change in wanted.next:
            defaults.changed(change)
        plans = {task_id: self.tasks[task_id].plan.changed(change) for task_id, change in wanted.tasks.items()}
        self.limit = self.limit if wanted.limit is None else wanted.limit
        self.defaults = defaults
        self.next.extend(wanted.next)
        for task_id, plan in plans.items():
            self.tasks[task_id].plan = plan
            self.tasks[task_id].changed.set()

    def running(self) -> int:
        return sum(task.status == "RUNNING" for task in list(self.tasks.values()))

    def seen(self) -> dict[str, Any]:
        tasks = [
            {"taskId": task.task_id, "status": task.status, "cancelled": task.cancelled} for task in list(self.tasks.values())
        ]
        return {"limit": self.limit, "running": self.running(), "most_running": self.most, "refused": self.refused,
                "tasks": tasks, "callbacks": [dict(sent) for sent in self.callbacks]}  # fmt: skip

    async def close(self) -> None:
        for run in list(self._running):
            run.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _task(self, task_id: Any) -> _Task | None:
        return self.tasks.get(str(task_id))


def _unknown() -> dict[str, Any]:
    return {"code": 807, "msg": "APIKEY_TASK_NOT_FOUND", "data": None}


def _started(form: Form, task_id: str) -> JSONResponse:
    if form == "v2":
        quiet = {"errorCode": "", "errorMessage": "", "results": None}
        return JSONResponse({"taskId": task_id, "status": "RUNNING", **quiet})
    data = {"taskId": task_id, "taskStatus": "RUNNING", "clientId": "simulator", "netWssUrl": None}
    return JSONResponse(SUCCESS | {"data": data})


def _refused(form: Form, code: int, why: str) -> JSONResponse:
    if form == "v2":
        return JSONResponse({"taskId": "", "status": "FAILED", "errorCode": code, "errorMessage": why, "results": None})
    return JSONResponse({"code": code, "msg": why, "data": None})


def _busy(form: Form, code: int) -> JSONResponse:
    if code in BUSY:
        return _refused(form, code, BUSY[code])
    return JSONResponse({"error": "the provider is busy"}, code)


def _app(provider: _Provider) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await provider.close()

    app = FastAPI(title="provider simulator", lifespan=lifespan)

    @app.exception_handler(ValidationError)
    async def not_a_plan(_request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    _tasks_of(app, provider)
    _control_of(app, provider)
    return app


def _tasks_of(app: FastAPI, provider: _Provider) -> None:
    """Add the routes of the provider."""

    @app.post("/task/openapi/run")
    @app.post("/task/openapi/create")
    @app.post("/task/openapi/ai-app/run")
    async def run(body: dict[str, Any]) -> Any:
        return await provider.run(body, "v1")

    @app.post("/openapi/v2/run/ai-app/{app_id}")
    async def run_v2(app_id: str, body: dict[str, Any]) -> Any:
        return await provider.run(body, "v2")

    @app.post("/task/openapi/status")
    async def status(body: dict[str, Any]) -> Any:
        return provider.status(body.get("taskId"))

    @app.post("/task/openapi/outputs")
    async def outputs(body: dict[str, Any]) -> Any:
        return provider.outputs(body.get("taskId"))

    @app.post("/task/openapi/cancel")
    async def cancel(body: dict[str, Any]) -> Any:
        return provider.cancel(body.get("taskId"))


def _control_of(app: FastAPI, provider: _Provider) -> None:
    """Add the routes by which a test looks at the provider, and steers it."""

    @app.get("/control")
    async def seen() -> Any:
        return provider.seen()

    @app.post("/control")
    async def control(wanted: Control) -> Any:
        unknown = set(wanted.tasks) - set(provider.tasks)
        if unknown:
            return JSONResponse({"detail": f"no such task: {', '.join(sorted(unknown))}"}, 404)
        provider.control(wanted)
        return provider.seen()


class Simulator:
    """A simulated provider on a loopback port, in a thread of its own. So a test may block its own thread.

    Attributes:
        url: Address of the simulator.
    """

    def __init__(self, limit: int = 3, port: int = 0, **defaults: Any) -> None:
        """Open the port; the context manager starts the thread.

        Args:
            limit: Tasks that may run at once.
            port: Port on loopback; 0 for a free one.
            defaults: Fields of the plan of all tasks.

        Raises:
            ValidationError: A field of `defaults` is not valid.
            OSError: The port is not free.
        """
        self._provider = _Provider(limit, Plan(**defaults))
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(_app(self._provider), log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.serve, name="simulator", daemon=True)

    def seen(self) -> dict[str, Any]:
        """Return the same as `GET /control`: the limit, the tasks and the callbacks so far."""
        return self._provider.seen()

    def control(self, **wanted: Any) -> dict[str, Any]:
        """Plan the behaviour of tasks, as `POST /control` does.

        Args:
            wanted: Fields of `Control`.

        Returns:
            What `seen` returns.

        Raises:
            ValueError: A field is not valid, or there is no such task.
        """
        answer = httpx2.post(f"{self.url}/control", json=wanted)
        if answer.status_code != 200:
            raise ValueError(answer.text)
        state: dict[str, Any] = answer.json()
        return state

    def serve(self) -> None:
        """Serve requests until `stop`, or until a signal ends the process."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End the thread and close the port."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Self:
        self._thread.start()  # the socket already accepts connections, so no caller has to wait for the thread
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.to_thread(self.stop)


def main() -> None:
    """Run a simulator from the command line until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m gate.simulator", description="A provider to try gate against.")
    parser.add_argument("--port", type=int, default=0, help="0 is a free one")
    parser.add_argument("--limit", type=int, default=3, help="tasks at once")
    wanted = parser.parse_args()
    simulator = Simulator(wanted.limit, wanted.port)
    print(simulator.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        simulator.serve()
