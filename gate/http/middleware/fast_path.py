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

from gate.coordination.services import Services
from gate.http import jobs, problems, strict_json
from gate.http.auth import roles
from gate.http.auth.key_cache import KeyCache
from gate.http.middleware import body_limit
from gate.http.server.protocol import WHOLE
from gate.model.errors import GateError
from gate.model.job import JOB_ID, POOL_NAME

TAKEN = (jobs.acquire, jobs.claim, jobs.renew, jobs.release)
"""Each is a POST with a body, about a pool or about a job of it."""
UNUSUAL = frozenset({b"idempotency-key", b"content-encoding"})


@dataclass(frozen=True, slots=True)
class _Route:
    endpoint: Callable[..., Any]
    path: str
    body: Any
    services: dict[str, object]


def _routes(services: Services) -> dict[tuple[int, str], _Route]:
    """By the number of parts of their paths, and the last of them."""
    by_type: dict[object, object] = {type(service): service for service in (services.admission, services.jobs)}
    found = {}
    for route in jobs.router.routes:
        if isinstance(route, APIRoute) and route.endpoint in TAKEN:
            parts = route.path.split("/")
            hints = get_type_hints(route.endpoint)
            model = hints["body"].__pydantic_validator__
            asked = {name: by_type[kind] for name, kind in hints.items() if kind in by_type}
            found[len(parts), parts[-1]] = _Route(route.endpoint, route.path, model, asked)
    return found


class FastPath:
    """`long` takes what goes the long way."""

    def __init__(self, long: ASGIApp, services: Services, keyring: KeyCache) -> None:
        self._long, self._keyring = long, keyring
        self._routes = _routes(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if WHOLE not in scope or scope["method"] != "POST" or scope["query_string"]:
            return await self._long(scope, receive, send)
        parts = scope["path"].split("/")
        route = self._routes.get((len(parts), parts[-1]))
        names = _names(parts)
        if route is None or names is None:
            return await self._long(scope, receive, send)
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not headers.keys().isdisjoint(UNUSUAL):
            return await self._long(scope, receive, send)
        if headers.get(b"content-type", b"").partition(b";")[0] != b"application/json":
            return await self._long(scope, receive, send)
        message = await receive()
        try:
            asking = roles.caller(scope, headers, route.path, self._keyring)
            if len(message["body"]) > body_limit.BODY_MAX_BYTES:
                return await self._long(scope, _first(message, receive), send)
            body = route.body.validate_python(strict_json.loads(message["body"]))
        except (GateError, HTTPException, ValidationError, ValueError, KeyError):
            return await self._long(scope, _first(message, receive), send)
        try:
            answer = await route.endpoint(**names, **route.services, body=body, asking=asking)
        except GateError as error:
            answer = problems.refusal(Request(scope), error)
        await answer(scope, receive, send)


def _names(parts: list[str]) -> dict[str, str] | None:
    """/v1/pools/POOL/VERB, or /v1/pools/POOL/jobs/JOB_ID/VERB."""
    if len(parts) not in (5, 7) or parts[1:3] != ["v1", "pools"] or not POOL_NAME.fullmatch(parts[3]):
        return None
    if len(parts) == 5:
        return {"pool": parts[3]}
    if parts[4] == "jobs" and JOB_ID.fullmatch(parts[5]):
        return {"pool": parts[3], "job_id": parts[5]}
    return None


def _first(message: Message, receive: Receive) -> Receive:
    """What was received here is received again, then what comes after it."""
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
