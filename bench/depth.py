"""What a long queue costs: the same calls with few and with very many waiting. For a caller, and in Redis's own time for a script.

Every depth is a pool of its own on one gate. Each is measured in each round, and stays as deep as it is: who is enqueued is cancelled
again, and for each who leaves the line at its head another has come.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import Any

import redis
import uvloop

from bench import servers
from bench.load import LEASE, Connection, Shape, connect
from bench.medians import middle
from bench.progress import say

LIMIT, WAIT_S = 3, 30
DEPTHS = (10, 100, 1000, 10_000)


class Line:
    """One pool: who holds its slots, and who waits, in order. `ms` and `redis_us` are what was found, by what was asked."""

    def __init__(self, server: servers.Server, depth: int, account: redis.Redis) -> None:
        self._port, self._account, self.depth = server.port, account, depth
        self._shape = Shape(pool=f"d{depth}", key=server.key, payload=False)
        self._held: deque[tuple[str, str]] = deque()
        self._line: deque[str] = deque()
        self._named = 0
        self.ms: dict[str, list[float]] = {}
        self.redis_us: dict[str, list[float]] = {}

    def _next_name(self) -> str:
        self._named += 1
        return f"q{self.depth}-{self._named}"

    async def fill(self, heads: int) -> None:
        """The first `heads` come one after another, so that it is known who is next; those behind them all at once."""
        connection = await connect(self._port)
        for _ in range(LIMIT):
            job = self._next_name()
            status, body = await connection.ask(self._shape.acquire(job))
            assert status == 200, body
            self._held.append((job, LEASE.search(body)[1].decode()))
        connection.close()
        self._line.extend(self._next_name() for _ in range(self.depth))

        async def come(names: list[str]) -> None:
            mine = await connect(self._port)
            for name in names:
                status, body = await mine.ask(self._shape.acquire(name))
                assert status == 202, body
            mine.close()

        names = list(self._line)
        await come(names[:heads])
        await asyncio.gather(*(come(names[heads + start :: 16]) for start in range(16)))

    async def measure(self, count: int) -> None:
        """`count` times: somebody comes and goes at the end, the holder renews, somebody comes and the head is served."""
        connection, waiter = await connect(self._port), await connect(self._port)
        for _ in range(count):
            await self._at_the_end(connection)
            await self._hand_over(connection, waiter)
        connection.close()
        waiter.close()

    async def _at_the_end(self, connection: Connection) -> None:
        job, path = self._next_name(), f"/v1/pools/{self._shape.pool}/jobs/"
        await self._asked("enqueue", connection, self._shape.acquire(job))
        await self._asked("position", connection, self._shape.get(path + job))
        await self._asked("renew", connection, self._shape.renew(*self._held[0]))
        await self._asked("cancel", connection, self._shape.cancel(job))

    async def _asked(self, what: str, connection: Connection, request: bytes) -> None:
        before_us, before = self._of_redis()
        began = time.perf_counter()
        status, body = await connection.ask(request)
        self.ms.setdefault(what, []).append((time.perf_counter() - began) * 1000)
        assert status in (200, 202), (what, status, body)
        after_us, after = self._of_redis()
        if after > before:
            self.redis_us.setdefault(what, []).append((after_us - before_us) / (after - before))

    def _of_redis(self) -> tuple[float, int]:
        """Microseconds of all scripts so far, and how many they were."""
        one = self._account.info("commandstats")["cmdstat_evalsha"]
        return one["usec"], one["calls"]

    async def _hand_over(self, connection: Connection, waiter: Connection) -> None:
        """From the release sent to the answer of whoever is next; only the head waits in a call."""
        self._line.append(self._next_name())
        status, body = await connection.ask(self._shape.acquire(self._line[-1]))
        assert status == 202, body
        head = self._line.popleft()
        waiting = waiter.ask(self._shape.get(f"/v1/pools/{self._shape.pool}/jobs/{head}?wait_seconds={WAIT_S}&status=queued"))
        await asyncio.sleep(0.005)
        began = time.perf_counter()
        releasing = connection.ask(self._shape.release(*self._held.popleft()))
        _, body = await waiting
        self.ms.setdefault("hand-over", []).append((time.perf_counter() - began) * 1000)
        await releasing
        lease = LEASE.search(body)
        assert lease is not None, body
        self._held.append((head, lease[1].decode()))
        status, body = await connection.ask(self._shape.claim(*self._held[-1]))
        assert status == 200, body


def run(folder: Path, rounds: int = 5, count: int = 20, depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    """By depth and what is asked: medians over all calls, milliseconds for the caller and microseconds of Redis for a script."""
    pools = "".join(f"[pools.d{depth}]\nlimit = {LIMIT}\nqueue_max = 20000\n" for depth in depths)
    with (
        servers.gate("gate", folder / "gate", pools=pools) as server,
        redis.Redis.from_url(server.store("redis_url")) as account,
    ):
        lines = [Line(server, depth, account) for depth in depths]
        say(f"{sum(depths):,} stand in line")
        for line in lines:
            uvloop.run(line.fill((rounds + 1) * count))
            uvloop.run(line.measure(count))  # warm
            line.ms, line.redis_us = {}, {}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for line in lines:
                uvloop.run(line.measure(count))
    return {
        "rounds": rounds,
        "calls": rounds * count,
        "depths": {
            str(line.depth): {
                "ms": {what: middle(took) for what, took in line.ms.items()},
                "redis_us": {what: middle(took) for what, took in line.redis_us.items()},
            }
            for line in lines
        },
    }
