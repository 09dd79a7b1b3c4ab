"""uvicorn's HTTP protocol with limits on the size of a request and on the time that it may take to arrive.

Without them, a client that opens connections and sends nothing, or never ends its headers, holds memory without limit.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gate.coordination.hang_up import HangUp
from gate.model.limits import DISCARD_MAX_BYTES

HEAD_MAX_BYTES = 64 * 1024
"""Largest request line and headers together (bytes). It bounds the memory of an unfinished head."""
HEAD_S = 10.0
"""Time to the end of the headers (s), from the first byte of a request or from the connection. It ends silent connections."""
BODY_CUT_BYTES = DISCARD_MAX_BYTES + 1024 * 1024
"""Largest body (bytes). It is above what the application reads, so it cuts only endless bodies."""
REST_MAX_BYTES = 2 * 1024 * 1024
"""Most that comes beside the body after the headers (bytes): the sizes of its chunks, and trailers. Trailers stay in memory."""
REST_S = 30.0
"""Time from the end of the headers to the end of body and trailers (s)."""
WHOLE = "gate.whole"
"""Scope key of a request that has arrived completely. The fast path takes no other, because it never waits for a body."""

HANG_UP = "gate.hang_up"
"""Scope key of the `HangUp` of the request's connection."""
FIRST_HEAD_S = 1.0
"""Time (s) that a connection without a request has for its first head when the server stops. A proxy opens a connection for a request, and may
not send it again elsewhere once it has sent it."""


class Connections(ServerState):
    """The connections of a server.

    Attributes:
        are_closing: The server is about to stop, so each answer closes its connection.
    """

    are_closing = False

    def close_by_answer(self) -> None:
        """From now on each answer is the last of its connection, and says so."""
        self.are_closing = True
        for one in self.connections:
            if (cycle := getattr(one, "cycle", None)) is not None:
                cycle.keep_alive = False


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers 408 or 431 to a head and aborts the connection of a body that exceeds a limit.

    It also tells a request when its connection is lost. The framework tells that only to the reader of the request's body.
    """

    _head_bytes = 0
    _in_head = True
    _in_rest = False
    _rest_bytes = 0
    _body_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _garbage = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer of the first head."""
        self._hang_up = HangUp()
        super().connection_made(cast(asyncio.Transport, transport))
        self._await(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and tell the requests that are not answered."""
        self._await(None)
        self._hang_up.happen()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count and parse bytes, and refuse the request when it exceeds a limit."""
        if self._in_head:
            self._head_bytes += len(data)
        elif self._in_rest:
            self._rest_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_MAX_BYTES:
            self._turn_away(431)
        elif self._in_rest and (self._rest_bytes - self._body_bytes > REST_MAX_BYTES or self._body_bytes > BODY_CUT_BYTES):
            self._cut()
        else:
            self._time()

    def on_response_complete(self) -> None:
        """Send a 400 that waited for this response, and start the timer of the next request."""
        super().on_response_complete()
        if self._garbage and not self.transport.is_closing():
            self.send_400_response(self._garbage)
        self._time()

    def send_400_response(self, msg: str) -> None:
        """Send a 400 after the responses to all earlier requests. Else the client takes it for one of those responses.

        Args:
            msg: The body of the response.
        """
        under_way = self.cycle is not None and not self.cycle.response_complete
        # Inside a body the 400 is the response to the current request. Only the requests before it have to be answered first.
        if bool(self.pipeline) if self._in_rest else under_way:
            self._garbage = msg
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Reset the counters for a new request."""
        super().on_message_begin()
        self.scope[HANG_UP] = self._hang_up  # type: ignore[literal-required]  # as for WHOLE
        self._await(None)
        self._in_head, self._head_bytes = True, 0
        self._in_rest, self._rest_bytes, self._body_bytes = False, 0, 0

    def on_headers_complete(self) -> None:
        """Stop the timer of the head, and count what follows as the body."""
        self._await(None)
        self._in_head, self._in_rest = False, True
        super().on_headers_complete()
        if getattr(self.server_state, "are_closing", False):
            self.cycle.keep_alive = False  # guard: answers-of-a-stop-close-their-connection

    def on_body(self, body: bytes) -> None:
        """Count the bytes of the body itself."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timer of the body, and mark the request as complete."""
        self._await(None)
        self._in_rest = False
        self.scope[WHOLE] = True  # type: ignore[literal-required]  # ASGI allows keys that the server's TypedDict lacks
        super().on_message_complete()

    def shutdown(self) -> None:
        """Close the connection, or close it after the answer to the request that is arriving or being answered."""
        if self._in_head:  # guard: stop-reads-the-head-that-is-on-its-way
            self._await(FIRST_HEAD_S)
        else:
            super().shutdown()

    def _time(self) -> None:
        """Start the timer of an unfinished head or body, unless a timer runs.

        A request behind one that is still being answered gets none: uvicorn does not read it yet.
        """
        if self._timer is not None:
            return
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._await(HEAD_S)
        elif self._in_rest and not self.pipeline:
            self._await(REST_S)

    def _await(self, within_s: float | None) -> None:
        """Replace the timer. `within_s` is the time (s) for the rest of a head or body; None only stops the timer."""
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
        """Abort the connection of a body that is too long. Its client has its answer already, or never reads one."""
        self._await(None)
        self._in_rest = False
        self.transport.abort()

    def _turn_away(self, status: int) -> None:
        """Answer a bad head, and close. The application has nothing of this request, so no other answer to it exists."""
        self._await(None)
        self._in_head = False
        if not self.transport.is_closing():
            reason = {408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()
