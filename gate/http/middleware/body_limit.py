"""How much of a body is read, and for how long. Pure ASGI: the framework's own base class for middleware triples a request's
cost.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX_BYTES = 256 * 1024
"""A payload, with room to spare."""
END_MAX_BYTES = 8 * 1024 * 1024
"""Of a request that ends a job: callers send the provider's whole callback with it, and an end is not refused for its size."""
ENDS = ("/release", "/runninghub-queue-manager/finish", "/runninghub-webhook")
BODY_S = 10.0
"""From the end of the headers to the end of the body."""
CLOSE = {"Connection": "close"}
"""What is still to come of such a body is not waited for."""


class BodyLimit:
    """Answers 413 to a body that is too large, however it is sent, and 408 to one that takes too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, whole, announced, most = 0, False, _announced(scope), max_bytes(scope["path"]) if "path" in scope else 0
        too_large = f"a body may have at most {most} bytes"
        loop = asyncio.get_running_loop()
        until = loop.time() + BODY_S

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()  # that the caller has gone
            if announced > most:  # the caller is not asked to send it
                raise HTTPException(413, too_large, CLOSE)
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"a body has to be here within {BODY_S:g} s", CLOSE) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > most:
                raise HTTPException(413, too_large, CLOSE)
            return message

        await self._app(scope, counted, send)


def max_bytes(path: str) -> int:
    """How large the body of a request to this path may be."""
    return END_MAX_BYTES if path.rstrip("/").endswith(ENDS) or path.startswith("/v1/webhooks/") else BODY_MAX_BYTES


def _announced(scope: Scope) -> int:
    """Bytes of its body; 0 of one that does not say."""
    headers = scope.get("headers", ())
    return next((int(value) for name, value in headers if name == b"content-length"), 0)
