"""The gauges and counters that a scrape reads from both stores at once. If a store is away, its figures are left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
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
POOLS_SHOWN = 200
"""Pools whose figures are reported one by one, by default. A pool has some 80 time series, which Prometheus has to keep."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Figures of one scrape.

    Attributes:
        redis: Gauges of Redis by pool; None when Redis did not answer.
        sql: Gauges of SQL; None when SQL did not answer.
        counted: Counters by pool. While SQL is away they keep their last values.
        total: Counters of all pools together.
        shown: Pools whose figures are reported one by one. The others are in the totals alone.
        refusing: Stores that answer and take no writes.
    """

    redis: dict[str, in_redis.RedisGauges] | None
    sql: LedgerGauges | None
    counted: dict[str, PoolCounters] = field(default_factory=dict)
    total: PoolCounters = field(default_factory=PoolCounters)
    shown: frozenset[str] = frozenset()
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
        most_shown: Number of pools whose figures are reported one by one, at most.
    """

    most_shown = POOLS_SHOWN

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
        refusing = frozenset(one.store for one in self._health.troubles.values() if one.refuses)
        figures = Scrape(redis, sql, counted, self.tally.total, refusing=refusing)
        return replace(figures, shown=_busiest(figures, self.most_shown))

    async def _redis(self) -> dict[str, in_redis.RedisGauges]:
        names = self._known.names
        if not names:
            await self._semaphore.ping()
        return await in_redis.read(self._semaphore.link, names)

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


def _busiest(figures: Scrape, most: int) -> frozenset[str]:
    """Choose the pools to report one by one: those with a trouble first, then those with the most live jobs, then the most used.

    Alerts are about troubles, so these must not be left out.
    """
    if len(figures.counted) <= most:
        return frozenset(figures.counted)

    def rank(pool: str) -> tuple[bool, int, int, str]:
        here, counted = (figures.redis or {}).get(pool), figures.counted[pool]
        there = figures.sql.pools.get(pool) if figures.sql is not None else None
        troubled = here is not None and bool(
            here.overdue or here.paused or here.cooling_s or here.tools_down_s or here.aside_s or here.clock_ahead_s
            or here.outbox or here.draining or (here.queued and here.free)
        )  # fmt: skip
        troubled = troubled or (there is not None and bool(there.owed or there.overdue_s))
        live = here.running + here.granted + here.queued if here is not None else 0
        return not troubled, -live, -counted.grants - sum(counted.admitted.values()), pool

    return frozenset(sorted(figures.counted, key=rank)[:most])
