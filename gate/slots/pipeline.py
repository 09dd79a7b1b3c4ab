"""A pipeline: one connection to Redis that all callers of a process share.

Commands that are sent within two turns of the event loop go out in one write. Redis sends the replies in the same order.

redis-py's own calls hold a connection each until the reply is there. They cost several times what Redis needs for the script
(docs/performance.md has the figures). redis-py still makes the connection (address, TLS, password, identity check) and names
the errors. After that, this module uses the transport of the connection directly.

Measured gain (`python -m bench ablation`): +31 % CPU for a pair without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from gate.model.time_limit import limit


class CommandPipeline:
    """Sends commands over one connection, and opens a new one when it is closed.

    A command is sent once more when its connection is dead. That is safe, because each script is idempotent by
    (job_id, lease_id).
    """

    def __init__(self, make: Callable[[], Any], reply_timeout_s: float) -> None:
        """Prepare a pipeline; its first command opens the connection.

        Args:
            make: Makes a connection of redis.asyncio that is not connected yet.
            reply_timeout_s: Time (s) to wait for a reply. After it the connection is closed for all that wait.
        """
        self._make, self._timeout_s = make, reply_timeout_s
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[_Stream] | None = None

    async def ask(self, *words: bytes | str | int | float) -> Any:
        """Send a command and return the reply of Redis.

        Args:
            words: The command and its arguments.

        Raises:
            RedisError: The reply is an error, or there is none. Without a reply the command may have run all the same.
        """
        packed = hiredis.pack_command(words)  # type: ignore[arg-type]  # the stub says a tuple of exactly one
        try:
            return await (self._live or await self._open()).ask(packed)
        except ConnectionError:
            return await (self._live or await self._open()).ask(packed)

    async def ask_all(self, commands: Sequence[Sequence[bytes | str | int | float]]) -> list[Any]:
        """Send many commands in one write, and return their replies in order. A command that Redis refuses has its error there.

        Args:
            commands: The commands, each with its arguments. They must be safe to send twice.

        Raises:
            RedisError: Redis did not answer all of them.
        """
        packed = b"".join([hiredis.pack_command(tuple(words)) for words in commands])  # type: ignore[arg-type]
        if not packed:
            return []
        try:
            return await (self._live or await self._open()).ask_all(packed, len(commands))
        except ConnectionError:
            return await (self._live or await self._open()).ask_all(packed, len(commands))

    def part(self) -> None:
        """Send the next command on a new connection. Commands in flight still get their replies on the present one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.leave()

    @property
    def _live(self) -> _Stream | None:
        """Stream in use; None when there is none, or when it is closed."""
        stream = self._stream
        return None if stream is None or stream.closed else stream

    async def _open(self) -> _Stream:
        """Open a stream once for all callers that come meanwhile. A failure reaches all of them at once.

        If each caller opened a stream itself, each would wait for the timeout of the one before it too.
        """
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
            opening.exception()  # marks it as read: asyncio would log an error that no caller waits for any more


class _Replies:
    """Collects the replies to many commands. It stands in the queue of a stream once for each of them, in place of a future.

    Attributes:
        all: Has the replies when the last one is there.
    """

    def __init__(self, all: asyncio.Future[list[Any]], count: int) -> None:
        self.all = all
        self._count = count
        self._replies: list[Any] = []

    def done(self) -> bool:
        return self.all.done()

    def set_result(self, reply: Any) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._count:
            self.all.set_result(self._replies)

    def set_exception(self, error: BaseException) -> None:
        if isinstance(error, ResponseError):
            self.set_result(error)
        else:
            self.all.set_exception(error)


_Answer = asyncio.Future[Any] | _Replies
"""Where a stream puts a reply."""


class _Stream(asyncio.Protocol):
    """Protocol on the transport of a connection that redis-py has made.

    Attributes:
        closed: No command can be sent any more.
    """

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection  # kept, because redis-py closes the transport when the connection is collected
        self._transport = connection._writer.transport
        self._reader = hiredis.Reader(replyError=connection._parser.parse_error)
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Answer] = deque()
        self._unsent: list[bytes] = []
        self._timeout_s = timeout_s
        self._leaving = False
        self.closed = self._transport.is_closing()
        self._transport.set_protocol(self)

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Send a command. Raises ConnectionError when the stream was closed meanwhile."""
        if self.closed:
            raise ConnectionError("closed before anything was asked")
        answer = self._loop.create_future()
        self._put(packed, answer, [answer])
        return answer

    def ask_all(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send `count` commands. Raises ConnectionError when the stream was closed meanwhile."""
        if self.closed:
            raise ConnectionError("closed before anything was asked")
        answers = _Replies(self._loop.create_future(), count)
        self._put(packed, answers.all, [answers] * count)
        return answers.all

    def _put(self, packed: bytes, answer: asyncio.Future[Any], asked: list[_Answer]) -> None:
        self._asked.extend(asked)
        limit(answer, self._timeout_s, self._be_late)
        if not self._unsent:
            self._loop.call_soon(self._loop.call_soon, self._send)  # a turn later, so that more commands join this write
        self._unsent.append(packed)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.closed:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                continue  # no command waits for it
            answer = self._asked.popleft()
            if answer.done():
                continue  # its caller was cancelled
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        if self._leaving and not self._asked:
            self._end(ConnectionError("left"))

    def _be_late(self) -> None:
        """End the whole stream because one reply is late: all commands wait for the same Redis."""
        self._end(TimeoutError(f"no answer for {self._timeout_s:g} s"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(f"Redis closed the connection: {exc or 'no reason given'}"))

    def leave(self) -> None:
        self._leaving = True
        if not self._asked:
            self._end(ConnectionError("left"))

    def _end(self, error: Exception) -> None:
        self.closed = True
        self._transport.abort()
        self._connection._writer = None  # its transport is closed, so redis-py has nothing left to close or to warn of
        asked, self._asked = self._asked, deque()
        for answer in asked:
            if not answer.done():
                answer.set_exception(error)
