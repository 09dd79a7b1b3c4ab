"""What a long queue costs: the same calls with 10 and with 10,000 waiting. In Redis's own microseconds a script, and for a caller."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
import uvloop

from bench import servers
from bench.load import LEASE, Connection, Shape, connect

POOLS = "".join(f"[pools.d{depth}]\nlimit = 3\nqueue_max = 20000\n" for depth in (10, 10_000))
Call = Callable[[Connection, Shape, str], Awaitable[None]]


async def _fill(port: int, shape: Shape, count: int, name: str) -> list[tuple[str, str]]:
    """Three that hold, and so many behind them; those that hold, with their leases."""
    held: list[tuple[str, str]] = []

    async def some(numbers: range) -> None:
        connection = await connect(port)
        for number in numbers:
            job = f"{name}-{number:05}"
            status, body = await connection.ask(shape.acquire(job))
            assert status in (200, 202), body
            if status == 200:
                held.append((job, LEASE.search(body)[1].decode()))

    await some(range(4))
    await asyncio.gather(*(some(range(start, count + 3, 16)) for start in range(4, 20)))
    return held


async def _measure(
    port: int, shape: Shape, depth: int, name: str, count: int, info: Callable[[], tuple[float, int]]
) -> dict[str, list[float]]:
    connection = await connect(port)
    held = await _fill(port, shape, depth, name)
    found: dict[str, list[float]] = {}

    async def timed(what: str, ask: Awaitable[tuple[int, bytes]], good: tuple[int, ...] = (200, 202)) -> bytes:
        began = time.perf_counter()
        status, body = await ask
        found.setdefault(what, []).append(time.perf_counter() - began)
        assert status in good, (what, status, body)
        return body

    async def of_redis(what: str, ask: Callable[[int], Awaitable[tuple[int, bytes]]]) -> None:
        before, calls = info()
        for number in range(count):
            await timed(what, ask(number))
        after, calls_after = info()
        found[f"{what}: µs of Redis"] = [(after - before) / max(calls_after - calls, 1)]

    path = f"/v1/pools/{shape.pool}/jobs/"
    await of_redis("enqueue", lambda number: connection.ask(shape.acquire(f"{name}-x{number}")))
    await of_redis("position, last", lambda number: connection.ask(shape.get(f"{path}{name}-x{number}")))
    await of_redis("renew", lambda number: connection.ask(shape.renew(*held[number % 3])))
    await of_redis("cancel, last", lambda number: connection.ask(shape.cancel(f"{name}-x{number}")))
    middle = [f"{name}-{depth // 2 + number:05}" for number in range(min(count, depth // 4))] or [f"{name}-00008"]
    await of_redis("position, middle", lambda number: connection.ask(shape.get(path + middle[number % len(middle)])))
    for number in range(min(count, depth // 2)):
        body = await timed("hand-over", connection.ask(shape.release(*held[number % 3])))
        waiting = f"{name}-{number + 3:05}"
        while True:
            status, body = await connection.ask(shape.get(path + waiting))
            if (lease := LEASE.search(body)) is not None:
                break
        status, body = await connection.ask(shape.claim(waiting, lease[1].decode()))
        assert status == 200, body
        held[number % 3] = (waiting, lease[1].decode())
    return found


def run(folder: Path, count: int = 100, deep: int = 10_000) -> dict[str, dict[int, float]]:
    """By what is asked and depth: milliseconds, medians; or microseconds of Redis, means."""
    found: dict[str, dict[int, float]] = {}
    with servers.gate("gate", folder / "depth", pools=POOLS) as server, redis.Redis.from_url(server.redis_url()) as client:

        def info() -> tuple[float, int]:
            one = client.info("commandstats")["cmdstat_evalsha"]
            return one["usec"], one["calls"]

        for depth in (10, deep):
            shape = Shape(pool=f"d{depth}", key=server.key, payload=False)
            for what, took in uvloop.run(_measure(server.port, shape, depth, f"q{depth}", count, info)).items():
                scale = 1.0 if "Redis" in what else 1000.0
                found.setdefault(what, {})[depth] = statistics.median(took) * scale
    return found
