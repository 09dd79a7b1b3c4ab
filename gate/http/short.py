"""The short way: the routes that carry nearly all requests, without the framework's steps between.

A route of the framework costs several times what the rest of a pair does (docs/performance.md): it is looked for in a list, its
dependencies are solved, its answer is wrapped. Here what is in order goes straight to the same endpoint, with the same model and the
same door. Whatever is not in order, or unusual, goes the long way from its first byte, and is told there what is wrong with it:
so each route is defined once, each refusal written once, and the document at /openapi.json is true of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.errors import GateError
from gate.http import doors, jobs, problems, strict
from gate.jobs import JOB_ID, POOL_NAME

TAKEN = (jobs.acquire, jobs.claim, jobs.renew, jobs.release)
"""Each is a POST with a body, about a pool or about a job of it."""
UNUSUAL = frozenset({b"idempotency-key", b"content-encoding"})


@dataclass(frozen=True, slots=True)
class _Route:
    endpoint: Callable[..., Any]
    path: str
    body: Any


def _routes() -> dict[tuple[int, str], _Route]:
    """By the number of parts of their paths, and the last of them."""
    found = {}
    for route in jobs.router.routes:
        if isinstance(route, APIRoute) and route.endpoint in TAKEN:
            parts = route.path.split("/")
            model = get_type_hints(route.endpoint)["body"].__pydantic_validator__
            found[len(parts), parts[-1]] = _Route(route.endpoint, route.path, model)
    return found


class ShortWay:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes = _routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return await self._app(scope, receive, send)
        parts = scope["path"].split("/")
        route = self._routes.get((len(parts), parts[-1]))
        names = _names(parts)
        if route is None or names is None:
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not headers.keys().isdisjoint(UNUSUAL):
            return await self._app(scope, receive, send)
        if headers.get(b"content-type", b"").partition(b";")[0] != b"application/json":
            return await self._app(scope, receive, send)
        try:
            message = await receive()
        except HTTPException as error:
            return await self._app(scope, _first(error, receive), send)
        try:
            asking = doors.caller(scope, headers, route.path)
            body = route.body.validate_python(strict.loads(message["body"]))
            whole = not message.get("more_body")
        except (GateError, HTTPException, ValidationError, ValueError, KeyError, RecursionError):
            whole = False
        if not whole:
            return await self._app(scope, _first(message, receive), send)
        try:
            answer = await route.endpoint(**names, body=body, keeper=scope["app"].state.gatekeeper, asking=asking)
        except GateError as error:
            answer = problems.refusal(Request(scope), error)
        await answer(scope, receive, send)


def _names(parts: list[str]) -> dict[str, str] | None:
    """/v1/pools/POOL/VERB, or /v1/pools/POOL/jobs/JOB_ID/VERB."""
    if parts[1:3] != ["v1", "pools"] or not POOL_NAME.fullmatch(parts[3]):
        return None
    if len(parts) == 5:
        return {"pool": parts[3]}
    if len(parts) == 7 and parts[4] == "jobs" and JOB_ID.fullmatch(parts[5]):
        return {"pool": parts[3], "job_id": parts[5]}
    return None


def _first(met: Message | HTTPException, receive: Receive) -> Receive:
    """What was met here is met again, then what comes after it."""
    waiting = [met]

    async def again() -> Message:
        if not waiting:
            return await receive()
        first = waiting.pop()
        if isinstance(first, HTTPException):
            raise first
        return first

    return again
