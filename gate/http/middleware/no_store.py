"""The header `Cache-Control: no-store` of each answer that has no `Cache-Control` of its own.

An answer about a job or a pool is true for a moment only, and may hold a lease id. Without the header a proxy or a browser may keep it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME: Final = b"cache-control"
NO_STORE: Final = (NAME, b"no-store")


class NoStore:
    """ASGI middleware that adds the header when an answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request. Neither this nor its `send` is `async`, which saves two coroutines."""

        def marked(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if not any(name == NAME for name, _ in headers):
                    message["headers"] = [*headers, NO_STORE]
            return send(message)

        return self._app(scope, receive, marked)
