"""The gauges and counters that a scrape reads from both stores at once. If a store is away, its figures are left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.store_health import StoreHealth
from gate.ledger import Database
from gate.ledger.reports import gauges as in_sql
from gate.ledger.reports.counters import EventCounters, PoolCounters
from gate.ledger.reports.gauges import LedgerGauges
from gate.model.errors import StoreDown
from gate.slots import Semaphore
from gate.slots import gauges as in_redis

log = structlog.get_logger("gate.figures")

ANSWER_S = 3.0
"""Longest wait (s) for a store. Prometheus gives a whole scrape 10 s."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Figures of one scrape.

    Attributes:
        redis: Gauges of Redis by pool; None when Redis did not answer.
        sql: Gauges of SQL; None when SQL did not answer.
        counted: Counters by pool. While SQL is away they keep their last values.
        refusing: Stores that answer and take no writes.
    """

    redis: dict[str, in_redis.RedisGauges] | None
    sql: LedgerGauges | None
    counted: dict[str, PoolCounters] = field(default_factory=dict)
    refusing: frozenset[str] = frozenset()

    @property
    def up(self) -> dict[str, bool]:
        """Whether each store answered this scrape and takes writes."""
        answered = {"redis": self.redis is not None, "sql": self.sql is not None}
        return {store: there and store not in self.refusing for store, there in answered.items()}


class Scraper:
    """Reads the figures of both stores.

    Attributes:
        tally: Counters of events in SQL.
    """

    def __init__(self, semaphore: Semaphore, known: PoolRegistry, database: Database, health: StoreHealth) -> None:
        self._semaphore, self._known, self._database, self._health = semaphore, known, database, health
        self.tally = EventCounters(database)
        self._deleted: set[str] = set()
        known.on_forgotten.append(self._deleted.add)
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def read(self) -> Scrape:
        """Read both stores. A store that fails raises nothing; its part of the reply is None."""
        redis, sql = await asyncio.gather(self._ask("redis", self._redis), self._ask("sql", self._sql))
        counted = {name: self.tally.pools.get(name, PoolCounters()) for name in self._known.names}
        return Scrape(redis, sql, counted, frozenset(one.store for one in self._health.troubles.values() if one.refuses))

    async def _redis(self) -> dict[str, in_redis.RedisGauges]:
        names = self._known.names
        if not names:
            await self._semaphore.ping()
        read = await asyncio.gather(*(in_redis.read(self._semaphore.link, name) for name in names), return_exceptions=True)
        figures = {name: one for name, one in zip(names, read, strict=True) if isinstance(one, in_redis.RedisGauges)}
        for error in read:  # in a cluster, the pools of a primary that is away are left out
            if isinstance(error, BaseException) and not (figures and isinstance(error, StoreDown)):
                raise error
        return figures

    async def _sql(self) -> LedgerGauges:
        await self.tally.count()
        for pool in self._deleted.difference(self._known.names):  # after the count, which meets their last events
            self.tally.pools.pop(pool, None)
        self._deleted.clear()
        return await in_sql.read(self._database)

    async def _ask(self, store: str, question: Callable[[], Awaitable[Any]]) -> Any:
        """Ask a store; None when it fails or is too slow. If a question hangs, the next scrape waits for the same answer."""
        asking = self._asking.get(store)
        if asking is None:
            asking = self._asking[store] = asyncio.ensure_future(question())
            asking.add_done_callback(lambda done: self._log_failure(store, done))
        await asyncio.wait({asking}, timeout=ANSWER_S)
        return None if not asking.done() or asking.exception() is not None else asking.result()

    def _log_failure(self, store: str, asking: asyncio.Task[Any]) -> None:
        del self._asking[store]
        if asking.cancelled() or (error := asking.exception()) is None:
            return
        if isinstance(error, StoreDown):
            log.warning("scrape.store_away", store=store, error=str(error))
        else:
            log.error("scrape.failed", store=store, exc_info=error)
