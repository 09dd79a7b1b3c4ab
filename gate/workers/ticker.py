"""The ticker. It reaps, grants and records in pools that no call reaches, at the earliest deadline of each.

Correctness does not need it, because every call reaps. Without it an expiry in a pool would wait for the next call.

A pool with jobs is ticked at least once a second, by the server that owns it. Once a second one query names the pools that have live
jobs in SQL, whichever process has put them there. A pool without jobs has nothing to reap or to grant, and is not ticked: `IdleLook`
finds what a killed process has left in Redis alone.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import TICK_EVERY_S, PoolRegistry
from gate.coordination.store_health import StoreHealth
from gate.model.errors import PoolUnknown, StoreDown

log = structlog.get_logger("gate.tick")

FIND_EVERY_S = 1.0
"""Pause (s) between two queries for the pools with jobs. A job of another process is ticked within the 2.5 s of an absence."""


class Ticker:
    """Ticks the pools of this server that have jobs."""

    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder, health: StoreHealth) -> None:
        self._pools, self._recorder, self._health = pools, recorder, health
        self._in_flight: set[str] = set()
        self._again: set[str] = set()
        """Pools that became due during their tick."""
        self._troubles: dict[str, str] = {}
        """The error of each pool whose last tick failed. One error of many pools is logged once."""

    async def keep(self) -> None:
        """Tick each pool when it is due, for ever."""
        async with asyncio.TaskGroup() as ticks:
            ticks.create_task(self._keep_finding())
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
            self._pools.next_tick(pool)

    async def _keep_finding(self) -> None:
        """Let each pool be ticked that has jobs in SQL."""
        while True:
            try:
                await self._pools.find_busy()
            except StoreDown as error:
                log.debug("ticker.sql_away", error=str(error))  # the ticks find the same, and log it
            await asyncio.sleep(FIND_EVERY_S)
