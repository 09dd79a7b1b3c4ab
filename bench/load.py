"""The load: clients in a closed loop, each on one connection, each doing pairs: acquire, then release with the lease it got.

It has to cost less than what it measures. So it writes bytes and looks for the few that it needs in the answer; it is no
HTTP client. What it can do by itself is measured in each run, against a server that only writes bytes back.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
LEASE = re.compile(rb'"lease_id":"([^"]+)"')
NO_BODY = 204
GOOD = (200, NO_BODY)
AGAIN_S, PATIENCE_S = 0.01, 60.0
"""How soon whoever is refused comes again, and how long after the end of a round that may go on."""


@dataclass
class Samples:
    """What the clients of one round saw: seconds of each request, how many pairs, and how many requests were refused, by status."""

    acquire_s: list[float] = field(default_factory=list)
    release_s: list[float] = field(default_factory=list)
    pairs: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    took_s: float = 0.0

    def refuse(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1


class Connection(asyncio.Protocol):
    """One request at a time; `ask` returns status and body."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        status, length = int(head[9:12]), LENGTH.search(head)
        if status != NO_BODY and (length is None or len(body) < int(length[1])):
            return
        self._buffer = b""
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))


class Shape:
    """How a request is written. The same bytes go to gate and to the server that does nothing."""

    def __init__(self, pool: str = "bench", key: str = "", payload: bool = True, wait_s: float = 0) -> None:
        self._headers = f"Host: bench\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        self.pool, self.key = pool, key
        self._body = {"user": "ana", "tool": "upscaler"}
        if payload:
            self._body["payload"] = {"image": "https://files.example/in/1.png", "scale": 4, "model": "fine"}
        if wait_s:
            self._body["wait_seconds"] = wait_s

    def acquire(self, job_id: str | None = None, credits: int | None = None) -> bytes:
        body = self._body | ({"job_id": job_id} if job_id else {}) | ({"credits": credits} if credits else {})
        return self._post(f"/v1/pools/{self.pool}/acquire", body)

    def release(self, job_id: str, lease_id: str, outcome: str = "completed") -> bytes:
        return self._post(f"/v1/pools/{self.pool}/jobs/{job_id}/release", {"lease_id": lease_id, "outcome": outcome})

    def claim(self, job_id: str, lease_id: str) -> bytes:
        return self._post(f"/v1/pools/{self.pool}/jobs/{job_id}/claim", {"lease_id": lease_id})

    def renew(self, job_id: str, lease_id: str) -> bytes:
        return self._post(f"/v1/pools/{self.pool}/jobs/{job_id}/renew", {"lease_id": lease_id})

    def cancel(self, job_id: str) -> bytes:
        return self._post(f"/v1/pools/{self.pool}/jobs/{job_id}/cancel", {})

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode()

    def _post(self, path: str, body: dict) -> bytes:
        text = json.dumps(body, separators=(",", ":"))
        return f"POST {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(text)}\r\n\r\n{text}".encode()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def pairs(port: int, shape: Shape, clients: int, seconds: float, name: str) -> Samples:
    """`clients` at once for `seconds`. Every job has credits and an id of its own; a tenth of them fail, and are refunded."""
    samples = Samples()

    async def client(number: int) -> None:
        connection, count = await connect(port), 0

        async def answer(request: bytes) -> bytes:
            """Whoever is refused comes again on another connection; how long all of it took is what he sees."""
            nonlocal connection
            while True:
                try:
                    status, body = await connection.ask(request)
                except OSError:
                    status, body = 0, b""
                if status in GOOD:
                    return body
                samples.refuse(status)
                assert time.perf_counter() < ends + PATIENCE_S, f"refused without end: {samples.refused}, {body!r}"
                connection.close()
                await asyncio.sleep(AGAIN_S)
                connection = await connect(port)

        while time.perf_counter() < ends:
            count += 1
            job, outcome = f"{name}-{number}-{count}", "failed" if count % 10 == 0 else "completed"
            began = time.perf_counter()
            lease = LEASE.search(await answer(shape.acquire(job, 5)))
            taken = time.perf_counter()
            assert lease is not None, "no lease in the answer"
            await answer(shape.release(job, lease[1].decode(), outcome))
            samples.acquire_s.append(taken - began)
            samples.release_s.append(time.perf_counter() - taken)
            samples.pairs += 1
        connection.close()

    began = time.perf_counter()
    ends = began + seconds
    await asyncio.gather(*(client(number) for number in range(clients)))
    samples.took_s = time.perf_counter() - began
    return samples
