"""The connections between the nodes of a cluster, from which single nodes can be cut off. Clients are not affected.

Each node announces a port of this relay as its bus port, and makes its own connections from an address of its own on loopback. So the
relay knows both ends of each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any


class ClusterBus:
    """A relay in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._cut: set[str] = set()
        self._open: dict[asyncio.StreamWriter, tuple[str, str]] = {}
        self._servers: list[asyncio.Server] = []

    def relay(self, to: str, bus_port: int) -> int:
        """Listen on behalf of the node that connects from the address `to`. Returns the port to announce."""
        return int(self._run(self._relay(to, bus_port)))

    async def _relay(self, to: str, bus_port: int) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ends = (str(writer.get_extra_info("peername")[0]), to)
            with contextlib.suppress(OSError, asyncio.CancelledError):  # a task of a stream may not end in an error
                if self._cut.isdisjoint(ends):
                    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", bus_port)
                    self._open |= {writer: ends, far_writer: ends}
                    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
                    self._open.pop(far_writer, None)
            self._open.pop(writer, None)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def cut_off(self, node: str) -> None:
        """Close all connections of a node, and let it make none."""
        self._run(self._change(lambda: self._cut.add(node)))

    def rejoin(self, node: str) -> None:
        """Let a node connect again."""
        self._run(self._change(lambda: self._cut.discard(node)))

    async def _change(self, change: Callable[[], None]) -> None:
        change()
        for writer, ends in list(self._open.items()):
            if not self._cut.isdisjoint(ends):
                writer.close()

    def stop(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
