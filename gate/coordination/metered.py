"""The two faces towards Redis with a meter in them. What is measured is what every call passes through anyway; nothing is decided here."""

from __future__ import annotations

import time
from typing import Any

from gate.coordination.pool_registry import PoolRegistry
from gate.slots import UNDONE, RedisConnection, Semaphore
from gate.telemetry import counters


class MeteredSemaphore(Semaphore):
    """How long each script takes, which did nothing, and what rebuilds came to."""

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
    """How often SQL had another epoch than the one Redis answered under, or was asked too late."""

    def outdated(self, pool: str, epoch: int) -> None:
        counters.stale[pool] += 1
        super().outdated(pool, epoch)
