"""The ticker. It reaps, grants and records in idle pools, at the earliest deadline of each and at least once a second.

Correctness does not need it, because every call reaps. Without it an expiry in an idle pool would wait for the next call.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.store_health import StoreHealth
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.tick")

AT_LEAST_EVERY_S = 1.0
"""Longest pause (s) between two ticks of a pool. After 2.5 s without a call the scripts assume that gate was away."""


class Ticker:
    """Ticks pools."""

    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder, health: StoreHealth) -> None:
        self._pools, self._recorder, self._health = pools, recorder, health

    async def keep(self, pool: str) -> None:
        """Tick a pool, for ever."""
        trouble = None
        while True:
            try:
                await self._pools.pool(pool).tick()  # guard: tick-an-idle-pool
                await self._recorder.run(pool)
                trouble = None
            except StoreDown as error:
                if await self._health.look() and str(error) != trouble:  # else it is logged already, once for all pools
                    log.warning("ticker.store_away", pool=pool, error=str(error))
                trouble = str(error)
                await asyncio.sleep(AT_LEAST_EVERY_S)
            await self._pools.sleep_until_due(pool, AT_LEAST_EVERY_S)
