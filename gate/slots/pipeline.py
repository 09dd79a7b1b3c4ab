"""One connection to Redis that everybody shares: what is asked within two turns of the event loop goes out in one write, and the
answers come back in the order of the questions.

Why not the library's own calls: each holds a connection until it is answered, and costs several times what Redis needs for the
script (docs/performance.md has the figures). The library still makes the connection (address, TLS, password, the look at who
answers) and names the errors; from then on its transport is used here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, TimeoutError

from gate.model.deadline_queue import DeadlineQueue


class CommandPipeline:
    """`make` gives a connection of redis.asyncio that is not connected yet. A question is asked once more when the connection
    turns out to be dead: safe, each script being idempotent by (job_id, lease_id).
    """

    def __init__(self, make: Callable[[], Any], reply_timeout_s: float) -> None:
        self._make, self._timeout_s = make, reply_timeout_s
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[_Stream] | None = None

    async def ask(self, *words: bytes | str | int | float) -> Any:
        """What Redis answers. Raises what redis.exceptions has for it; a question may have been done then all the same."""
        packed = hiredis.pack_command(words)  # type: ignore[arg-type]  # the stub says a tuple of exactly one
        try:
            return await (self._live or await self._open()).ask(packed)
        except ConnectionError:
            return await (self._live or await self._open()).ask(packed)

    def part(self) -> None:
        """The next question goes out on a new connection; what is asked already is answered on this one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.leave()

    @property
    def _live(self) -> _Stream | None:
        """The stream in use; None when there is none, or when it is closed."""
        stream = self._stream
        return None if stream is None or stream.closed else stream

    async def _open(self) -> _Stream:
        """Once for all who come meanwhile, and so is its failure: in turn each would wait as long as the one before."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _connect(self) -> _Stream:
        connection = self._make()
        await connection.connect()
        self._stream = _Stream(connection, self._timeout_s)
        return self._stream

    def _opened(self, opening: asyncio.Task[_Stream]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # whoever asked hears of it, if he is still there


class _Stream(asyncio.Protocol):
    """The transport of a connection that redis-py has made. `closed`: nothing can be asked any more."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection  # it closes its transport when nobody knows it any more
        self._transport = connection._writer.transport
        self._reader = hiredis.Reader(replyError=connection._parser.parse_error)
        self._loop = asyncio.get_running_loop()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        # One that is let go lets all go: they wait for the same Redis.
        self._patience = DeadlineQueue(timeout_s, lambda _: self._end(TimeoutError(f"no answer for {timeout_s:g} s")))
        self._leaving = False
        self.closed = self._transport.is_closing()
        self._transport.set_protocol(self)

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Raises ConnectionError when it was closed since it was looked at."""
        if self.closed:
            raise ConnectionError("closed before anything was asked")
        answer = self._loop.create_future()
        self._asked.append(answer)
        self._patience.watch(answer)
        if not self._unsent:
            self._loop.call_soon(self._loop.call_soon, self._send)  # in the next turn: who comes in this one goes along
        self._unsent.append(packed)
        return answer

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.closed:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                continue  # nobody asked
            answer = self._asked.popleft()
            if answer.done():
                continue  # whoever asked has gone
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        if self._leaving and not self._asked:
            self._end(ConnectionError("left"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(f"Redis closed the connection: {exc or 'no reason given'}"))

    def leave(self) -> None:
        self._leaving = True
        if not self._asked:
            self._end(ConnectionError("left"))

    def _end(self, error: Exception) -> None:
        self.closed = True
        self._transport.abort()
        self._patience.stop()
        asked, self._asked = self._asked, deque()
        for answer in asked:
            if not answer.done():
                answer.set_exception(error)
