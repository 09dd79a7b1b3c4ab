"""How much of a request is read. Pure ASGI: the framework's own base class for middleware triples a request's cost."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX_BYTES = 256 * 1024
"""A payload and an output, with room to spare."""


class BodyLimit:
    """Stops reading a body that is too large, however it is sent, and answers 413 (through the table of errors)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_MAX_BYTES:
                raise HTTPException(413, f"a body may have at most {BODY_MAX_BYTES} bytes")
            return message

        await self._app(scope, counted, send)
