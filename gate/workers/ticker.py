"""The ticker. It reaps, grants and records in pools that no call reaches, at the earliest deadline of each.

Correctness does not need it, because every call reaps. Without it an expiry in an idle pool would wait for the next call.

A pool with jobs is ticked at least once a second. An idle pool has nothing to reap or to grant, so two cheap commands a second
look whether another server or a command has put a job into it. These looks are one round trip for all idle pools.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import TICK_EVERY_S, PoolRegistry
from gate.coordination.store_health import StoreHealth
from gate.model.errors import PoolUnknown, StoreDown

log = structlog.get_logger("gate.tick")

LOOK_EVERY_S = 1.0
"""Pause (s) between two looks at the idle pools. A job that a killed server leaves is ticked within the 2.5 s of an absence."""
IDLE_EVERY_S = 6.0
"""Longest pause (s) between two ticks of an idle pool. After 10 s without a call a gate with another ledger may take the pool."""
GRID_S = 0.1
"""Ticks without a deadline are due at multiples of this time (s), so that many pools share a round trip."""
LOOKS_MAX = 500
"""Pools that one round trip looks at. More would keep the event loop for milliseconds."""


class Ticker:
    """Ticks all pools."""

    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder, health: StoreHealth) -> None:
        self._pools, self._recorder, self._health = pools, recorder, health
        self._in_flight: set[str] = set()
        self._again: set[str] = set()
        """Pools that became due during their tick."""
        self._troubles: dict[str, str] = {}
        """The error of each pool whose last tick failed. One error of many pools is logged once."""

    async def keep(self) -> None:
        """Tick each pool when it is due, for ever."""
        for pool in self._pools.names:
            self._pools.due_within(pool, 0)
        async with asyncio.TaskGroup() as ticks:
            ticks.create_task(self._keep_looking())
            while True:
                for pool in await self._pools.due.take():
                    if pool in self._in_flight:
                        self._again.add(pool)
                    else:
                        self._in_flight.add(pool)
                        ticks.create_task(self._tick(pool))

    async def _tick(self, pool: str) -> None:
        try:
            await self._pools.pool(pool).tick()  # guard: tick-an-idle-pool
            await self._recorder.run(pool)
            self._troubles.pop(pool, None)
        except PoolUnknown:
            self._again.discard(pool)
            return
        except StoreDown as error:
            if await self._health.look() and str(error) not in self._troubles.values():  # else it is logged already
                log.warning("ticker.store_away", pool=pool, error=str(error))
            self._troubles[pool] = str(error)
            await asyncio.sleep(TICK_EVERY_S)
        except Exception:
            log.exception("ticker.failed", pool=pool)  # one pool must not stop the others
            await asyncio.sleep(TICK_EVERY_S)
        finally:
            self._in_flight.discard(pool)
        self._schedule(pool)

    def _schedule(self, pool: str) -> None:
        if pool in self._again:
            self._again.discard(pool)
            self._pools.due_within(pool, 0)
        else:
            at = time.monotonic() + (IDLE_EVERY_S if self._pools.is_idle(pool) else TICK_EVERY_S)
            self._pools.due.by(pool, at // GRID_S * GRID_S)

    async def _keep_looking(self) -> None:
        """Let each idle pool be ticked at once into which another process has put a job."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            idle = [pool for pool in self._pools.names if self._pools.is_idle(pool)]
            try:
                for first in range(0, len(idle), LOOKS_MAX):
                    for pool in await self._pools.holding(idle[first : first + LOOKS_MAX]):
                        self._pools.due_within(pool, 0)  # guard: look-at-idle-pools
            except StoreDown:
                continue  # the ticks find the same, and log it
