"""Silent connections: one whose peer is gone is closed, and an idle one does not delay a stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gate.runtime import listener
from tests.support.gate_process import Served

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="the options and the filter are Linux's")]
SO_ATTACH_FILTER = 26
KEEPALIVE_TIMER = 2
"""The kind of timer in /proc/net/tcp."""


def deafen(client: socket.socket) -> None:
    """Let the kernel drop whatever comes for this socket. Its peer gets no acknowledgement and no reset, as if it had lost power."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(drop_all)))


@contextlib.asynccontextmanager
async def connected(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[socket.socket, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client, and the server's end of its connection, with limits of a second or two."""
    for name, value in {"PROBE_AFTER_S": 1, "PROBE_EVERY_S": 1, "PROBES_MAX": 1, "UNACKNOWLEDGED_MS": 1000}.items():
        monkeypatch.setattr(listener, name, value)
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), sock=listener.listen("127.0.0.1", 0))
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        reader, writer = await accepted.get()
        yield client, reader, writer
        writer.close()
    server.close()


async def test_a_silent_peer_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(monkeypatch) as (client, reader, _):
        deafen(client)
        with pytest.raises(OSError, match="timed out"):
            await asyncio.wait_for(reader.read(), 8)


async def test_a_peer_that_is_gone_while_data_is_sent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat of a stream is such data. While it is under way, the kernel asks nothing."""
    async with connected(monkeypatch) as (client, reader, writer):
        deafen(client)
        writer.write(b": still here\n\n")
        with pytest.raises(OSError, match="timed out"):
            await asyncio.wait_for(reader.read(), 8)


def test_gate_has_its_connections_probed(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        kind, due_s = _timer(int(port), client.getsockname()[1])
        assert kind == KEEPALIVE_TIMER and due_s <= listener.PROBE_AFTER_S


def _timer(local_port: int, remote_port: int) -> tuple[int, float]:
    """Kind of the timer of a socket, and when it fires (s)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1][-4:], fields[2][-4:]) == (f"{local_port:04X}", f"{remote_port:04X}"):
            kind, _, jiffies = fields[5].partition(":")
            return int(kind, 16), int(jiffies, 16) / 100
    raise AssertionError("the kernel has no such connection")


def test_a_stop_does_not_wait_for_idle_connections(tmp_path: Path) -> None:
    own = Served(tmp_path, on_defaults=True)
    with own, contextlib.ExitStack() as closing:
        host, _, port = own.url.removeprefix("http://").rpartition(":")
        for _ in range(20):
            client = closing.enter_context(socket.create_connection((host, int(port))))
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert own.stop() == 0
        assert time.monotonic() - began < 4
        own.start()
