"""The semaphore and the pool registry with counters. These classes add counters and nothing else."""

from __future__ import annotations

import time
from typing import Any

from gate.coordination.pool_registry import PoolRegistry
from gate.slots import UNDONE, RedisConnection, Semaphore
from gate.telemetry import counters


class MeteredSemaphore(Semaphore):
    """Counts the duration of each script, the calls that did nothing, and the results of rebuilds."""

    def __init__(self, link: RedisConnection) -> None:
        super().__init__(link)
        for verb in self._scripts:
            counters.scripts.setdefault(verb, counters.Histogram())

    async def _call(self, verb: str, pool: str, args: list[Any]) -> dict[str, Any]:
        began = time.monotonic()
        raw = await super()._call(verb, pool, args)
        counters.scripts[verb].add(time.monotonic() - began)
        if (word := raw["word"]) in UNDONE:
            counters.undone[word] += 1
        elif verb == "rebuild":
            counters.rebuilds[pool, word] += 1
        return raw


class MeteredPoolRegistry(PoolRegistry):
    """Counts the answers of Redis that SQL did not record: their epoch was another, or they came too late."""

    def outdated(self, pool: str, epoch: int) -> None:
        """Count the call, then do what `PoolRegistry.outdated` does."""
        counters.stale[pool] += 1
        super().outdated(pool, epoch)

    def _forget(self, pool: str) -> None:
        super()._forget(pool)
        counters.stale.pop(pool, None)
        for of_pools in (counters.rebuilds, counters.clock_steps):
            for key in [key for key in of_pools if key[0] == pool]:
                del of_pools[key]
