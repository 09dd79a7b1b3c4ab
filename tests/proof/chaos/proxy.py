"""A TCP proxy: one address in front of a Redis, whatever stands behind it. Its target can be switched, and it can hold back."""

from __future__ import annotations

import asyncio
from typing import Self

from tests.support.servers import free_port


class Proxy:
    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._every = self.lost = self.passed = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flowing.set()
        self._server.close()
        self._cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def switch(self, target: int) -> None:
        """From now on this one answers; who was connected to the other has to come again."""
        self.target = target
        self._cut()

    def hold_back(self) -> None:
        """What the target says stays here; connections stay open."""
        self._flowing.clear()

    def let_flow(self) -> None:
        self._flowing.set()

    def lose_every(self, number: int) -> None:
        """What the target answers gets lost, one time in `number`, and the connection with it; 0: no more."""
        self._every = number

    def _loses(self) -> bool:
        if self._every and (self.passed + self.lost) % self._every == self._every - 1:
            self.lost += 1
            return True
        self.passed += bool(self._every)
        return False

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target
        try:
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, their_writer}
        self._open |= both
        try:
            if target == self.target:  # else it was switched meanwhile
                await asyncio.gather(
                    self._pump(reader, their_writer, back=False), self._pump(their_reader, writer, back=True)
                )
        finally:
            self._open -= both
            for one in both:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if back:
                    await self._flowing.wait()
                    if self._loses():
                        break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.transport.abort()
