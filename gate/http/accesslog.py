"""One line a request, when it is wanted: who asked what, and how it was answered. Never the query: tokens stand there."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("gate.http")


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
            log.info("answered", method=scope["method"], path=scope["path"], status=status, took_ms=took_ms, key=caller)
