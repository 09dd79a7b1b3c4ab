"""Everything that a scrape asks the two stores, side by side. A store that is away is said to be, and what it would have told is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import Database
from gate.ledger.reports import gauges as in_sql
from gate.ledger.reports.counters import EventCounters, PoolCounters
from gate.ledger.reports.gauges import LedgerGauges
from gate.model.errors import StoreDown
from gate.slots import Semaphore
from gate.slots import gauges as in_redis

log = structlog.get_logger("gate.figures")

ANSWER_S = 3.0
"""How long a scrape waits for a store: Prometheus gives it 10 s in all."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """`redis` by pool, and `sql`, are None when that store did not answer; `counted` is then what it was."""

    redis: dict[str, in_redis.RedisGauges] | None
    sql: LedgerGauges | None
    counted: dict[str, PoolCounters] = field(default_factory=dict)


class Scraper:
    """`known` are the pools by name, `tally` the ledger's own account."""

    def __init__(self, semaphore: Semaphore, known: PoolRegistry, database: Database) -> None:
        self._semaphore, self._known, self._database = semaphore, known, database
        self.tally = EventCounters(database)
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def read(self) -> Scrape:
        """Raises nothing of the stores'."""
        redis, sql = await asyncio.gather(self._ask("redis", self._redis), self._ask("sql", self._sql))
        return Scrape(redis, sql, {name: self.tally.pools.get(name, PoolCounters()) for name in self._known.names})

    async def _redis(self) -> dict[str, in_redis.RedisGauges]:
        names = self._known.names
        if not names:
            await self._semaphore.ping()
        read = await asyncio.gather(*(in_redis.read(self._semaphore.link, name) for name in names))
        return dict(zip(names, read, strict=True))

    async def _sql(self) -> LedgerGauges:
        await self.tally.count()
        return await in_sql.read(self._database)

    async def _ask(self, store: str, question: Callable[[], Awaitable[Any]]) -> Any:
        """None when the store is away, or too slow. What hangs is asked once: the next scrape waits for the same answer."""
        asking = self._asking.get(store)
        if asking is None:
            asking = self._asking[store] = asyncio.ensure_future(question())
            asking.add_done_callback(lambda done: self._heard(store, done))
        await asyncio.wait({asking}, timeout=ANSWER_S)
        return None if not asking.done() or asking.exception() is not None else asking.result()

    def _heard(self, store: str, asking: asyncio.Task[Any]) -> None:
        del self._asking[store]
        if asking.cancelled() or (error := asking.exception()) is None:
            return
        if isinstance(error, StoreDown):
            log.warning("not seen by a scrape", store=store, error=str(error))
        else:
            log.error("a scrape fell", store=store, exc_info=error)
