"""The fast path: calls the endpoints of the four busiest routes without the framework in between.

A route of the framework costs several times what the rest of an acquire and release costs (docs/performance.md). The
framework searches a list of routes, solves dependencies and wraps the answer. The fast path calls the same endpoint with the
same body model and the same check of roles.

A request that is invalid or unusual goes to the framework, from its first byte, and the framework refuses it. So each route
is defined once, each refusal is written once, and the document at /openapi.json holds for both paths.

Measured gain (`python -m bench ablation`): +247 % CPU for a pair without it on SQLite, +166 % on Postgres.
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

from gate.coordination.hang_up import HangUp
from gate.coordination.services import Services
from gate.http import jobs, problems, strict_json
from gate.http.auth import roles
from gate.http.auth.key_cache import KeyCache
from gate.http.server.protocol import WHOLE
from gate.http.services import hang_up
from gate.model.errors import GateError
from gate.model.job import JOB_ID, POOL_NAME
from gate.model.limits import BODY_MAX_BYTES

UNUSUAL = frozenset({b"idempotency-key", b"content-encoding"})
"""Headers that only the framework's path handles."""


@dataclass(frozen=True, slots=True)
class _Route:
    endpoint: Callable[..., Any]
    may: frozenset[str]
    body: Any
    services: dict[str, object]
    hang_up: str | None


def _routes(services: Services) -> dict[tuple[int, str], _Route]:
    """The routes that declare it, by the number of parts of their paths and the last part. Each is a POST with a body."""
    by_type: dict[object, object] = {type(service): service for service in (services.admission, services.jobs)}
    found = {}
    for route in jobs.router.routes:
        if isinstance(route, APIRoute) and (facts := roles.facts_of(route)).on_fast_path:
            parts = route.path.split("/")
            hints = get_type_hints(route.endpoint)
            model = hints["body"].__pydantic_validator__
            asked = {name: by_type[kind] for name, kind in hints.items() if kind in by_type}
            heard = next((name for name, kind in hints.items() if kind is HangUp), None)
            found[len(parts), parts[-1]] = _Route(route.endpoint, facts.may, model, asked, heard)
    return found


class FastPath:
    """ASGI application that answers the busiest routes itself and passes every other request on."""

    def __init__(self, long: ASGIApp, services: Services, keyring: KeyCache) -> None:
        """Look up the endpoints once.

        Args:
            long: The application that takes every other request.
            services: Services that the endpoints need.
            keyring: The keys that are valid.
        """
        self._long, self._keyring = long, keyring
        self._routes = _routes(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on the fast path, or pass it on with its body unread or put back."""
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
            asking = roles.caller(scope, headers, route.may, self._keyring)
            if len(message["body"]) > BODY_MAX_BYTES:
                return await self._long(scope, _first(message, receive), send)
            body = route.body.validate_python(strict_json.loads(message["body"]))
        except (GateError, HTTPException, ValidationError, ValueError, KeyError):
            return await self._long(scope, _first(message, receive), send)
        more = {route.hang_up: hang_up(scope)} if route.hang_up else {}
        try:
            answer = await route.endpoint(**names, **route.services, **more, body=body, asking=asking)
        except GateError as error:
            answer = problems.refusal(Request(scope), error)
        await answer(scope, receive, send)


def _names(parts: list[str]) -> dict[str, str] | None:
    """Pool, and job if any, of /v1/pools/POOL/VERB or /v1/pools/POOL/jobs/JOB_ID/VERB; None for another path."""
    if len(parts) not in (5, 7) or parts[1:3] != ["v1", "pools"] or not POOL_NAME.fullmatch(parts[3]):
        return None
    if len(parts) == 5:
        return {"pool": parts[3]}
    if parts[4] == "jobs" and JOB_ID.fullmatch(parts[5]):
        return {"pool": parts[3], "job_id": parts[5]}
    return None


def _first(message: Message, receive: Receive) -> Receive:
    """Put a message back: the next call receives it again, later calls receive what follows it."""
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
