"""Limits on the size of a request's body and on the time to read it.

This is a plain ASGI middleware: the framework's own base class for middleware triples the cost of a request.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.model.limits import BODY_MAX_BYTES, DISCARD_MAX_BYTES, END_BODY_MAX_BYTES

ENDS = ("/release", "/runninghub-queue-manager/finish", "/runninghub-webhook")
"""Ends of the paths of such requests."""
BODY_S = 10.0
"""Time from the end of the headers to the end of the body (s). It bounds how long a slow client occupies a request."""
CLOSE = {"Connection": "close"}
"""Headers of a refusal of a body that is not read to its end: the connection cannot be used again."""


class BodyLimit:
    """ASGI middleware that answers 413 to a body that is too large and 408 to one that takes too long.

    The size is counted while the body is read, so a chunked body without a length is limited too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its body limited.

        Raises:
            HTTPException: The body is too large (413), or is not complete in time (408).
        """
        size, whole, announced, most = 0, False, _announced(scope), max_bytes(scope["path"]) if "path" in scope else 0
        too_large = f"a body may have at most {most} bytes"
        loop = asyncio.get_running_loop()
        until = loop.time() + BODY_S

        async def counted() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()  # After the body comes only the client's disconnect. It has no deadline.
            if announced > most and (announced > DISCARD_MAX_BYTES or _waits_for_consent(scope)):
                raise HTTPException(413, too_large, CLOSE)  # Before the first read: it makes the server ask for the body.
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        message = await receive()
                except TimeoutError:
                    raise HTTPException(408, f"a body has to be here within {BODY_S:g} s", CLOSE) from None
                size += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if max(size, announced) <= most:
                    return message
                if whole or size > DISCARD_MAX_BYTES:
                    raise HTTPException(413, too_large, None if whole else CLOSE)

        await self._app(scope, counted, send)


def max_bytes(path: str) -> int:
    """Return the largest body (bytes) that a request to this path may have."""
    return END_BODY_MAX_BYTES if path.rstrip("/").endswith(ENDS) or path.startswith("/v1/webhooks/") else BODY_MAX_BYTES


def _waits_for_consent(scope: Scope) -> bool:
    """Whether the client sends the body only after an answer 100."""
    return any(name == b"expect" for name, _ in scope.get("headers", ()))


def _announced(scope: Scope) -> int:
    """Content-Length of a request (bytes); 0 when it has none."""
    headers = scope.get("headers", ())
    return next((int(value) for name, value in headers if name == b"content-length"), 0)
