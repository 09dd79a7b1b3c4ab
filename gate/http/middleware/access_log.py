"""One line a request, when it is wanted: who asked what, and how it was answered. Never the query: tokens stand there."""

from __future__ import annotations

import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("gate.http")
ABOUT = re.compile(r"/v1/pools/(?P<pool>[^/]+)(?:/jobs/(?P<job_id>[^/]+))?")


class AccessLog:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            took_ms = round((time.monotonic() - began) * 1000, 1)
            caller = scope.get("state", {}).get("caller")
            found = ABOUT.match(scope["path"])
            about = {name: value for name, value in found.groupdict().items() if value} if found else {}
            log.info(
                "answered", method=scope["method"], path=scope["path"], status=status, took_ms=took_ms, key=caller, **about
            )
