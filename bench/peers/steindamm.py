"""steindamm's semaphore on a Valkey, used as its page says: `async with` one semaphore, one client library with a pool of connections.

It keeps nothing in SQL and has no HTTP, no lease, no queue that can be asked and no record of who holds what.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import uvloop
from redis.asyncio import Redis
from steindamm import AsyncSemaphore

from bench.load import Samples
from bench.peers.library import serve

SLOTS = 200


async def _pairs(url: str, clients: int, seconds: float) -> Samples:
    samples = Samples()
    async with Redis.from_url(url) as redis:
        semaphore = AsyncSemaphore.create(name="bench", capacity=SLOTS, connection=redis)

        async def client(ends: float) -> None:
            while time.perf_counter() < ends:
                began = time.perf_counter()
                async with semaphore:
                    taken = time.perf_counter()
                samples.acquire_s.append(taken - began)
                samples.release_s.append(time.perf_counter() - taken)

        await asyncio.gather(*(client(time.perf_counter() + 0.05) for _ in range(clients)))  # opens the connections
        samples.acquire_s, samples.release_s = [], []
        began = time.perf_counter()
        await asyncio.gather(*(client(began + seconds) for _ in range(clients)))
        samples.took_s = time.perf_counter() - began
    samples.pairs = len(samples.release_s)
    return samples


if __name__ == "__main__":
    logging.disable(logging.INFO)
    serve(lambda clients, seconds: uvloop.run(_pairs(sys.argv[1], clients, seconds)))
