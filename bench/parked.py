"""Ten thousand who wait: what each costs in memory, and what they cost the others.

They cannot be sent away and called back in each round, so what the others do before and while they wait is set against a route that
does nothing, measured beside it: what the machine does meanwhile falls out.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import uvloop

from bench import servers
from bench.load import Connection, Shape, connect, pairs
from bench.medians import middle
from bench.progress import say

POOLS = "[pools.bench]\nlimit = 200\n[pools.parked]\nlimit = 0\nqueue_max = 20000\n"
WAIT_S, CLIENTS, SETTLED_S = 60, 32, 3


async def _rates(server: servers.Server, noop: servers.Server, rounds: int, seconds: float, name: str) -> list[float]:
    """Pairs a second of gate, of those of the no-op in the same round."""
    found = []
    for number in range(rounds):
        mine = await pairs(server.port, Shape(key=server.key), CLIENTS, seconds, f"{name}{number}")
        theirs = await pairs(noop.port, Shape(), CLIENTS, seconds / 2, f"{name}{number}")
        found.append((mine.pairs / mine.took_s) / (theirs.pairs / theirs.took_s))
    return found


async def _park(server: servers.Server, count: int) -> list[tuple[Connection, asyncio.Future[tuple[int, bytes]]]]:
    waits = Shape(pool="parked", key=server.key, payload=False, wait_s=WAIT_S)
    waiting = []
    for number in range(count):
        connection = await connect(server.port)
        waiting.append((connection, connection.ask(waits.acquire(f"parked-{number}"))))
        if number % 500 == 499:
            await asyncio.sleep(0.3)
    return waiting


async def _beside(server: servers.Server, noop: servers.Server, count: int, rounds: int, seconds: float) -> dict[str, Any]:
    await _rates(server, noop, 1, min(seconds, 1.0), "warm")
    without = await _rates(server, noop, rounds, seconds, "before")
    before, before_stores = server.rss_bytes()
    say(f"{count:,} park")
    waiting = await _park(server, count)
    await asyncio.sleep(min(SETTLED_S, seconds * 2))
    after, after_stores = server.rss_bytes()
    beside = await _rates(server, noop, rounds, seconds, "beside")
    assert not any(answer.done() for _, answer in waiting), "somebody was let go too soon"
    for connection, answer in waiting:
        answer.cancel()
        connection.close()
    return {
        "count": count,
        "gate_bytes_each": (after - before) / count,
        "valkey_bytes_each": (after_stores - before_stores) / count,
        "without": without,
        "beside": beside,
        "others": middle(beside) / middle(without),
    }


def run(folder: Path, count: int = 10_000, rounds: int = 4, seconds: float = 2.0) -> dict[str, Any]:
    """Bytes each, of gate and of its Valkey; and the others' throughput of what it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count + 1000), hard), hard))
    with servers.gate("gate", folder / "gate", pools=POOLS) as server, servers.python("noop", "bench.peers.noop") as noop:
        return uvloop.run(_beside(server, noop, count, rounds, seconds))
