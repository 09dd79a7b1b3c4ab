"""Read the present state of SQL as numbers: what is owed and since when, the oldest waiter. For monitoring."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.sql import pool_rows as pools
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import deliveries, jobs, owed
from gate.ledger.transitions import capacity
from gate.ledger.transitions import unread_callbacks as unread
from gate.ledger.transitions.capacity import AccountState
from gate.model.job import now_ms

KINDS = ("start", "event")
"""Kinds of calls to tools."""
UNREAD_MS = 7 * 24 * 3_600_000
"""Age (ms) above which a callback that could not be read is no longer counted."""


@dataclass(slots=True)
class PoolGauges:
    """State of a pool. An age is 0 when there is nothing.

    Attributes:
        queue_max: Number of jobs that may wait.
        max_hold_s: How long a job may hold a slot in all (s).
        oldest_wait_s: Age of the oldest waiting job (s).
        overdue_s: Time since the earliest expired deadline of a job that holds a slot (s).
        owed: Refunds that the owner's function has not paid.
        owed_credits: Their credits.
        oldest_owed_s: Age of the oldest of them (s).
    """

    queue_max: int
    max_hold_s: float
    oldest_wait_s: float = 0.0
    overdue_s: float = 0.0
    owed: int = 0
    owed_credits: int = 0
    oldest_owed_s: float = 0.0


@dataclass(slots=True)
class Calls:
    """Calls to tools that are not done.

    Attributes:
        count: How many.
        oldest_s: Age of the oldest (s).
    """

    count: int = 0
    oldest_s: float = 0.0


@dataclass(slots=True)
class LedgerGauges:
    """State of the ledger.

    Attributes:
        pools: Gauges by pool.
        calls: Calls by kind.
        unread: Callbacks by provider that could not be read, and that an operator has to look at.
        accounts: Accounts at providers by pool, where grants choose among them.
    """

    pools: dict[str, PoolGauges] = field(default_factory=dict)
    calls: dict[str, Calls] = field(default_factory=lambda: {kind: Calls() for kind in KINDS})
    unread: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, list[AccountState]] = field(default_factory=dict)


async def read(database: Database) -> LedgerGauges:
    """Read the gauges.

    Args:
        database: The ledger's database.

    Raises:
        StoreDown: SQL does not answer.
    """
    return await database.read(_read)


def _read(connection: Connection) -> LedgerGauges:
    now, clock = now_ms(), clock_ms(connection)
    every = pools.every(connection)
    ahead_ms = {one.name: one.clock_ahead_ms for one in every}
    found = LedgerGauges({one.name: PoolGauges(one.settings.queue_max, one.settings.max_hold_ms / 1000) for one in every})
    for pool, status, enqueued_at, due in connection.execute(_live):
        if (of_pool := found.pools.get(pool)) is None:
            continue  # the pool was created after the query for the pools
        if status == "queued":
            of_pool.oldest_wait_s = _age_s(now - ahead_ms[pool], enqueued_at)
        else:
            of_pool.overdue_s = max(of_pool.overdue_s, _age_s(now - ahead_ms[pool], due))
    for pool, count, credits_, since in connection.execute(_owed):
        if (of_pool := found.pools.get(pool)) is not None:
            of_pool.owed, of_pool.owed_credits, of_pool.oldest_owed_s = count, int(credits_), _age_s(now, since)
    for kind, count, since in connection.execute(_calls):
        found.calls[kind] = Calls(count, _age_s(clock, since))
    found.accounts = capacity.states(connection)
    found.unread = unread.waiting(connection, now - UNREAD_MS)
    return found


def _age_s(now: int, at: int) -> float:
    return max(now - at, 0) / 1000


_live = (
    sa.select(jobs.c.pool, jobs.c.status, sa.func.min(jobs.c.enqueued_at), sa.func.min(jobs.c.expires_at))
    .where(jobs.c.ended_at.is_(None))
    .group_by(jobs.c.pool, jobs.c.status)
)
_owed = sa.select(owed.c.pool, sa.func.count(), sa.func.sum(owed.c.amount), sa.func.min(owed.c.since)).group_by(owed.c.pool)
_calls = (
    sa.select(deliveries.c.kind, sa.func.count(), sa.func.min(deliveries.c.at))
    .where(deliveries.c.done_at.is_(None))
    .group_by(deliveries.c.kind)
)
