"""The tick: an idle pool reaps, promotes and records by itself. Armed for the earliest deadline, at least each second.

Safety never needs it (every call reaps); promptness does, and so does the last job of the day.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.tick")

AT_LEAST_EVERY_S = 1.0


class Ticker:
    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder) -> None:
        self._pools, self._recorder = pools, recorder

    async def keep(self, pool: str) -> None:
        """For ever."""
        trouble = None
        while True:
            try:
                await self._pools.pool(pool).tick()  # guard: tick-an-idle-pool
                await self._recorder.run(pool)
                trouble = None
            except StoreDown as error:
                if str(error) != trouble:
                    log.warning("a store is away", pool=pool, error=str(error))
                trouble = str(error)
                await asyncio.sleep(AT_LEAST_EVERY_S)
            await self._pools.sleep_until_due(pool, AT_LEAST_EVERY_S)
