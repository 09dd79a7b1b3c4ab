"""How much of a body is read, and for how long. Pure ASGI: the framework's own base class for middleware triples a request's
cost.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX_BYTES = 256 * 1024
"""A payload and an output, with room to spare."""
TOO_LARGE = f"a body may have at most {BODY_MAX_BYTES} bytes"
BODY_S = 10.0
"""From the end of the headers to the end of the body."""
CLOSE = {"Connection": "close"}
"""What is still to come of such a body is not waited for."""


class BodyLimit:
    """Answers 413 to a body that is too large, however it is sent, and 408 to one that takes too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, whole, announced = 0, False, _announced(scope)
        loop = asyncio.get_running_loop()
        until = loop.time() + BODY_S

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()  # that the caller has gone
            if announced > BODY_MAX_BYTES:  # nobody is asked to send it
                raise HTTPException(413, TOO_LARGE, CLOSE)
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"a body has to be here within {BODY_S:g} s", CLOSE) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > BODY_MAX_BYTES:
                raise HTTPException(413, TOO_LARGE, CLOSE)
            return message

        await self._app(scope, counted, send)


def _announced(scope: Scope) -> int:
    """Bytes of its body; 0 of one that does not say."""
    headers = scope.get("headers", ())
    return next((int(value) for name, value in headers if name == b"content-length"), 0)
