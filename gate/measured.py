"""The two faces towards Redis with a meter in them. What is measured is what every call passes through anyway; nothing is decided here."""

from __future__ import annotations

import time
from typing import Any

from gate import metrics
from gate.keeper.pools import Pools
from gate.slots import UNDONE, Link, Semaphore


class MeasuredSemaphore(Semaphore):
    """How long each script takes, which did nothing, and what rebuilds came to."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        for verb in self._scripts:
            metrics.scripts.setdefault(verb, metrics.Histogram())

    async def _call(self, verb: str, pool: str, args: list[Any]) -> dict[str, Any]:
        began = time.monotonic()
        raw = await super()._call(verb, pool, args)
        metrics.scripts[verb].add(time.monotonic() - began)
        if (word := raw["word"]) in UNDONE:
            metrics.undone[word] += 1
        elif verb == "rebuild":
            metrics.rebuilds[pool, word] += 1
        return raw


class MeasuredPools(Pools):
    """How often SQL had another epoch than the one Redis answered under, or was asked too late."""

    def outdated(self, pool: str, epoch: int) -> None:
        metrics.stale[pool] += 1
        super().outdated(pool, epoch)
