"""uvicorn's HTTP protocol, with bounds on a request: how large it may be, and how long it may take to come.

Without them whoever opens connections and says nothing, or never stops saying headers, holds memory for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

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
    _garbage = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        one_write = _OneWrite(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, one_write))
        self._await(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
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
        else:
            self._time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._garbage and not self.transport.is_closing():
            self.send_400_response(self._garbage)
        self._time()

    def send_400_response(self, msg: str) -> None:
        """Behind the answers to what came before it: in their place it would be taken for one of them."""
        under_way = self.cycle is not None and not self.cycle.response_complete
        # In the rest of a request it is of one that waits for its answer itself.
        if bool(self.pipeline) if self._in_rest else under_way:
            self._garbage = msg
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await(None)
        self._in_head, self._head_bytes = True, 0
        self._in_rest, self._rest_bytes = False, 0

    def on_headers_complete(self) -> None:
        self._await(None)
        self._in_head, self._in_rest = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._await(None)
        self._in_rest = False
        self.scope[WHOLE] = True  # type: ignore[literal-required]  # ASGI allows keys that the server's TypedDict lacks
        super().on_message_complete()

    def _time(self) -> None:
        """A request that came whole needs no time; nor does one behind another that is still being answered: it is not even read."""
        if self._timer is not None:
            return
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._await(HEAD_S)
        elif self._in_rest and not self.pipeline:
            self._await(REST_S)

    def _await(self, within_s: float | None) -> None:
        """The rest of a head, or of what is behind it; None: nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if within_s is not None:
            self._timer = self.loop.call_later(within_s, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._in_rest:
            self._cut()
        else:
            self._turn_away(408)

    def _cut(self) -> None:
        """Whoever is still sending by now has his answer, or never reads one."""
        self._await(None)
        self._in_rest = False
        self.transport.abort()

    def _turn_away(self, status: int) -> None:
        """Nothing of this request has reached the application: there is no answer to mix up with."""
        self._await(None)
        self._in_head = False
        if not self.transport.is_closing():
            reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()


class _OneWrite:
    """A transport that sends in one piece what is written within one turn of the loop. The server writes the head and the body of an
    answer apart, and each sending wakes whoever reads it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
