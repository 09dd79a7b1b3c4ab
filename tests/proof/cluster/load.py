"""Callers of many pools at once, and what each of them was answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gate.model.errors import GateError
from gate.model.job import Request
from gate.runtime.wiring import RunningGate

LIMIT = 2
CALLERS = 3
"""Callers of each pool: one more than its slots, so that each waits in turn."""


@dataclass
class Load:
    """Pairs of acquire and release.

    Attributes:
        pairs: Pairs that went well, by pool.
        failed: Calls that failed: when, by `time.monotonic()`, the pool, and the error.
    """

    gates: Sequence[RunningGate]
    pairs: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[float, str, str]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def pair(self, gate: RunningGate, pool: str) -> None:
        job = await gate.services.admission.acquire(pool, Request(f"{pool}-{next(self._numbers)}", credits=1), 20)
        assert job.lease_id is not None, f"{job.job_id} is {job.status}"
        await gate.services.jobs.release(pool, job.job_id, job.lease_id, "completed")
        self.pairs[pool] = self.pairs.get(pool, 0) + 1

    async def _calls(self, gate: RunningGate, pool: str, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                await self.pair(gate, pool)
            except (GateError, AssertionError) as error:
                self.failed.append((time.monotonic(), pool, f"{type(error).__name__}: {error}"))
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def on(self, pools: Sequence[str]) -> AsyncIterator[None]:
        """Load on these pools for the length of a block, the callers of each spread over the gates."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as callers:
            for pool in pools:
                for number in range(CALLERS):
                    callers.create_task(self._calls(self.gates[number % len(self.gates)], pool, over))
            try:
                yield
            finally:
                over.set()

    def failures(self, pools: Sequence[str]) -> list[tuple[float, str, str]]:
        return [one for one in self.failed if one[1] in pools]

    async def served(self, pools: Sequence[str], within_s: float) -> float:
        """Wait until each pool has served a pair from now on. Returns how long that took (s)."""
        before, began = dict(self.pairs), time.monotonic()
        while any(self.pairs.get(pool, 0) <= before.get(pool, 0) + CALLERS for pool in pools):
            took = time.monotonic() - began
            assert took < within_s, f"{pools} are not served after {took:.1f} s: {self.failed[-3:]}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began
