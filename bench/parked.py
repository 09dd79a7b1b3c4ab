"""Ten thousand who wait: what each costs in memory, and what they cost the others."""

from __future__ import annotations

import asyncio
import resource
import statistics
from pathlib import Path

import uvloop

from bench import servers
from bench.load import Shape, connect, pairs

POOLS = "[pools.bench]\nlimit = 200\n[pools.parked]\nlimit = 0\nqueue_max = 20000\n"


async def _beside(
    port: int, shape: Shape, waits: Shape, count: int, rounds: int, seconds: float, server: servers.Server
) -> dict[str, float]:
    async def rate(name: str) -> float:
        samples = await pairs(port, shape, 32, seconds, name)
        return samples.pairs / samples.took_s

    await rate("warm")
    without = [await rate(f"a{number}") for number in range(rounds)]
    before = server.rss_bytes()
    waiting, connections = [], []
    for start in range(0, count, 500):
        for number in range(start, min(start + 500, count)):
            connection = await connect(port)
            connections.append(connection)
            waiting.append(asyncio.ensure_future(connection.ask(waits.acquire(f"parked-{number}"))))
        await asyncio.sleep(0.3)
    await asyncio.sleep(3)
    each = (server.rss_bytes() - before) / count
    assert not any(one.done() for one in waiting), "somebody was let go too soon"
    beside = [await rate(f"b{number}") for number in range(rounds)]
    for one in waiting:
        one.cancel()
    return {"bytes each": each, "others' throughput": statistics.median(beside) / statistics.median(without)}


def run(folder: Path, count: int = 10_000, rounds: int = 3, seconds: float = 2.0) -> dict[str, float]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count + 1000), hard), hard))
    with servers.gate("gate", folder / "parked", pools=POOLS) as server:
        waits = Shape(pool="parked", key=server.key, payload=False, wait_s=60)
        return uvloop.run(_beside(server.port, Shape(key=server.key), waits, count, rounds, seconds, server))
