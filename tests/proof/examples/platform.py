"""A stand-in for the owner's Supabase: one address with the functions, the tables behind PostgREST, and who is signed in.

Of PostgREST it speaks what the functions use, each request in one step as a statement would be. The provider stands behind the
same address, where it may be told to hang or to fail.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ANON_KEY, SERVICE_KEY = "the-public-anon-key", "the-service-role-key"
TABLES = (
    "upscaler_jobs", "pose_changer_jobs", "veste_ai_jobs", "video_upscaler_jobs", "arcano_cloner_jobs",
    "character_generator_jobs", "flyer_maker_jobs", "bg_remover_jobs", "image_generator_jobs", "video_generator_jobs",
    "movieled_maker_jobs",
)  # fmt: skip
DEFAULTS = {
    "session_id": None, "status": "pending", "position": None, "task_id": None, "output_url": None, "error_message": None,
    "late_output_url": None, "job_payload": None, "credits_charged": False, "credits_refunded": False, "rh_cost": None,
    "waited_in_queue": False, "queue_wait_seconds": 0, "started_at": None, "completed_at": None, "cancel_asked_at": None,
    "user_credit_cost": 0, "refunded_credits": 0, "start_id": "", "gate_at": "1970-01-01T00:00:00.000Z",
}  # fmt: skip
NOT_PASSED = {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "date", "server"}
Row = dict[str, Any]


class Platform:
    """`functions` is where each of them listens; `changes` every row as it was written, in order; `asked` what browsers and
    others asked the functions for; `full` tables take no new row; `provider_hook` may answer in the provider's place."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.functions: dict[str, str] = {}
        self.tables: dict[str, dict[str, Row]] = {name: {} for name in TABLES}
        self.balances: dict[str, int] = {}
        self.users: dict[str, str] = {}
        self.full = False
        self.changes: list[tuple[str, str]] = []
        self.asked: list[Request] = []
        self.provider_hook: Callable[[str, Any], Any] | None = None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            Route("/functions/v1/{path:path}", self._function, methods=["GET", "POST", "OPTIONS"]),
            Route("/rest/v1/rpc/{name}", self._procedure, methods=["POST"]),
            Route("/rest/v1/{table}", self._table, methods=["GET", "POST", "PATCH"]),
            Route("/auth/v1/user", self._user),
            Route("/task/openapi/{path:path}", self._provider, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning", timeout_graceful_shutdown=1, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="platform", daemon=True)

    def row(self, job_id: str, table: str = "upscaler_jobs") -> Row:
        return dict(self.tables[table][job_id])

    def insert(self, job_id: str, table: str = "upscaler_jobs", **values: Any) -> None:
        self.tables[table][job_id] = DEFAULTS | {"id": job_id} | values

    def seen(self, job_id: str) -> list[str]:
        """The statuses of the row as they were written, each once in a row."""
        statuses = [status for written, status in self.changes if written == job_id]
        return [status for n, status in enumerate(statuses) if n == 0 or statuses[n - 1] != status]

    # ---- the functions

    async def _function(self, request: Request) -> Response:
        self.asked.append(request)
        path = request.path_params["path"]
        name = path.split("/")[0]
        if name not in self.functions:
            return JSONResponse({"code": "NOT_FOUND", "message": "Requested function was not found"}, 404)
        return await self._passed(request, f"{self.functions[name]}/{path}?{request.url.query}")

    async def _provider(self, request: Request) -> Response:
        """The simulator has the run of an app under a name of its own."""
        path = request.path_params["path"]
        if self.provider_hook is not None:
            said = self.provider_hook(path, await request.json())
            if asyncio.iscoroutine(said):
                said = await said
            if said is not None:
                return JSONResponse(said)
        return await self._passed(request, f"{self.provider}/task/openapi/{path.removeprefix('ai-app/')}")

    async def _passed(self, request: Request, url: str) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in NOT_PASSED}
        async with httpx2.AsyncClient(timeout=70) as client:
            answer = await client.request(request.method, url, headers=headers, content=await request.body())
        kept = {name: value for name, value in answer.headers.items() if name not in NOT_PASSED}
        return Response(answer.content, answer.status_code, kept)

    # ---- the tables

    async def _table(self, request: Request) -> Response:
        if request.headers.get("apikey") != SERVICE_KEY:
            return JSONResponse({"code": "42501", "message": "permission denied"}, 401)
        rows = self.tables[request.path_params["table"]]
        if request.method == "POST" and self.full:
            return JSONResponse({"code": "53100", "message": "could not extend file"}, 500)
        if request.method == "POST":
            new = await request.json()
            self.insert(new["id"], request.path_params["table"], **new)
            return Response(status_code=201)
        values = await request.json() if request.method == "PATCH" else {}
        query = [(name, value) for name, value in request.query_params.multi_items() if name not in ("select", "columns")]
        found = [row for row in rows.values() if all(holds(row[name], condition) for name, condition in query)]
        assert not values.keys() - DEFAULTS.keys(), "a column that is not there"
        for row in found:
            row.update(values)
            if "status" in values:
                self.changes.append((row["id"], row["status"]))
        if request.method == "PATCH" and "return=representation" not in request.headers.get("prefer", ""):
            return Response(status_code=204)
        names = request.query_params["select"].split(",")
        return JSONResponse([{name: row[name] for name in names} for row in found])

    async def _procedure(self, request: Request) -> Response:
        if request.headers.get("apikey") != SERVICE_KEY:
            return JSONResponse({"code": "42501", "message": "permission denied"}, 401)
        return JSONResponse(getattr(self, request.path_params["name"])(**await request.json()))

    def consume_upscaler_credits(self, _user_id: str, _amount: int, _description: str) -> bool:
        if self.balances.get(_user_id, 0) < _amount:
            return False
        self.balances[_user_id] -= _amount
        return True

    def refund_upscaler_credits(self, _user_id: str, _amount: int, _description: str) -> None:
        self.balances[_user_id] = self.balances.get(_user_id, 0) + _amount

    def rows_left(self, p_pending_seconds: int, p_most: int) -> list[Row]:
        return []

    def set_queue_positions(self, p_places: list[dict[str, Any]]) -> None:
        for place in p_places:
            row = self.tables[place["table_name"]].get(place["id"])
            if row is not None and row["status"] == "queued":
                row["position"] = place["position"]

    async def _user(self, request: Request) -> Response:
        user = self.users.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if user is None:
            return JSONResponse({"code": 403, "error_code": "bad_jwt", "msg": "invalid JWT"}, 403)
        return JSONResponse({"id": user, "aud": "authenticated", "role": "authenticated"})

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        self._thread.start()  # the socket takes callers already
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def holds(value: Any, condition: str) -> bool:
    """`eq.x`, `neq.x`, `lte.x`, `not.in.(a,b)`, as PostgREST reads them; texts and times compare as texts here."""
    word, _, wanted = condition.partition(".")
    if word == "not":
        return not holds(value, wanted)
    if word == "in":
        return str(value) in re.findall(r"[^(),]+", wanted)
    compare = {"eq": str.__eq__, "neq": str.__ne__, "lte": str.__le__}[word]
    return value is not None and compare(str(value), wanted)
