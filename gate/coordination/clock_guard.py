"""The clock guard. It tells a step of Redis's clock from an absence of gate, and keeps the clocks of the pools where they were.

A script that finds a gap since the last call does nothing, unless its caller expects that gap by its monotonic clock. Then this
module decides. By a step, the pool's clock is set back to where it was, so that every deadline is as far away as before. By an
absence, the call is made again, and the script gives grace. Several servers may see one step: `shift` counts it once.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from gate.ledger import Ledger
from gate.model.errors import StoreDown
from gate.slots import Semaphore, ShiftResult, Stepped
from gate.telemetry import counters

log = structlog.get_logger("gate.clock")

ASK_OTHERS_S = 1.2
"""How long (s) a process that expects nothing yet waits for a tick of another server, which comes once a second."""


class ClockGuard:
    """Judges gaps in the clocks of pools."""

    def __init__(self, semaphore: Semaphore, ledger: Ledger) -> None:
        self._semaphore, self._ledger = semaphore, ledger

    async def judge(self, pool: str, epoch: int, found: Stepped) -> None:
        """Put the clock of a pool in order, after which the call that met the gap can be made again.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the script answered.
            found: Its answer.

        Raises:
            NotDone: Redis does not have the pool under that epoch any more.
            StoreDown: Redis does not answer.
        """
        clock = self._semaphore.clock_of(pool)
        step_ms = clock.step_ms(found)
        if step_ms is None and found.now_ms < found.seen_at_ms:
            step_ms = found.now_ms - found.seen_at_ms  # no clock shows an earlier time than it has shown before
        elif step_ms is None:
            # A step forward looks like an absence to a process that has just started. A living server knows better.
            await asyncio.sleep(ASK_OTHERS_S)  # guard: newcomer-asks-the-others
        if not step_ms or await self._shift(pool, epoch, step_ms, found.ahead_ms) is ShiftResult.RESET:
            clock.learn(found.asked, found.heard, found.now_ms)

    async def measured(self, pool: str, recorded_ms: int) -> int:
        """Say how far the clock of this Redis is ahead of a pool that is going to be loaded there.

        Args:
            pool: Name of the pool.
            recorded_ms: How far that of the former Redis was, as SQL has it.

        Returns:
            `recorded_ms`, unless this process knows better: the clock of another Redis may be another one.

        Raises:
            StoreDown: Redis does not answer.
        """
        seen = await self._semaphore.clock(pool, recorded_ms)
        return recorded_ms + (self._semaphore.clock_of(pool).step_ms(seen) or 0)

    async def _shift(self, pool: str, epoch: int, step_ms: int, ahead_ms: int) -> ShiftResult:
        reply = await self._semaphore.shift(pool, epoch, step_ms, ahead_ms)
        if reply.result is ShiftResult.SHIFTED:
            await self._tell(pool, epoch, step_ms, reply.ahead_ms)
        return reply.result

    async def loaded(self, pool: str, epoch: int, recorded_ms: int, ahead_ms: int) -> None:
        """Tell what `measured` found, after the pool was loaded under this epoch. Does not raise."""
        if ahead_ms != recorded_ms:
            await self._tell(pool, epoch, ahead_ms - recorded_ms, ahead_ms)

    async def _tell(self, pool: str, epoch: int, step_ms: int, ahead_ms: int) -> None:
        counters.clock_steps[pool, "forward" if step_ms > 0 else "back"] += 1
        log.error("clock.stepped", pool=pool, step_s=step_ms / 1000, redis_ahead_s=ahead_ms / 1000)
        with contextlib.suppress(StoreDown):  # the reconciler records it then
            await self._ledger.record_clock(pool, epoch, ahead_ms, step_ms)
