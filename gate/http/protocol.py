"""uvicorn's HTTP protocol, with bounds on the head of a request: how large it may be, and how long it may take to come.

Without them whoever opens connections and says nothing, or never stops saying headers, holds memory for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES = 64 * 1024
"""Request line and headers."""
HEAD_S = 10.0
"""From the first byte of a request (or from the connection) to the end of its headers."""
REST_MAX_BYTES = 2 * 1024 * 1024
"""All that comes behind the headers, trailers too: more than any body that is read."""
REST_S = 30.0
"""And for how long it may come."""
WHOLE = "gate.whole"
"""In the scope of a request that is here to its last byte: reading it takes no time."""


class BoundedProtocol(HttpToolsProtocol):
    _head_bytes = 0
    _in_head = True
    _in_rest = False
    _rest_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        elif self._in_rest:
            self._rest_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_MAX_BYTES:
            self._turn_away(431)
        elif self._in_rest and self._rest_bytes > REST_MAX_BYTES:
            self._cut()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._in_rest, self._rest_bytes = False, 0
        self._await_head()

    def on_headers_complete(self) -> None:
        self._have_head()
        self._in_rest = True
        self._timer = self.loop.call_later(REST_S, self._cut)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.scope[WHOLE] = True
        self._in_rest = False
        self._have_head()
        super().on_message_complete()

    def _cut(self) -> None:
        """Whoever is still sending by now has his answer, or never reads one."""
        self._in_rest = False
        self._have_head()
        self.transport.abort()

    def _await_head(self) -> None:
        self._have_head()
        self._in_head = True
        self._timer = self.loop.call_later(HEAD_S, self._turn_away, 408)

    def _have_head(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn_away(self, status: int) -> None:
        """Nothing of this request has reached the application: there is no answer to mix up with."""
        self._have_head()
        if not self.transport.is_closing():
            reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()
