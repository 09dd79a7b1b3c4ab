"""The access log: one line for each request, with caller, path, status and duration.

The query is left out, because it may hold tokens.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("gate.http")
ABOUT = re.compile(r"/v1/pools/(?P<pool>[^/]+)(?:/jobs/(?P<job_id>[^/]+))?")
"""Finds pool and job in a path, so that they are fields of the line."""


class AccessLog:
    """ASGI middleware that logs each request after its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, then log it. A request that raises is logged too, with the status that was sent or 0."""
        began, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            took_ms = round((time.monotonic() - began) * 1000, 1)
            caller = scope.get("state", {}).get("caller")
            found = ABOUT.match(scope["path"])
            about = {name: value for name, value in found.groupdict().items() if value} if found else {}
            log.info(
                "http.answered",
                method=scope["method"],
                path=scope["path"],
                status=status,
                took_ms=took_ms,
                key=caller,
                **about,
            )
