"""Read the rows of `accounts`: what gate knows of each account's capacity, and how it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.job_rows import is_holding, is_unanswered
from gate.ledger.sql.tables import accounts, jobs, tasks

COUNTS_FOR_MS = 180_000
"""How long (ms) a count of the provider counts. After that it is forgotten."""


class AccountRow(NamedTuple):
    """A row of `accounts`. All times are of SQL's clock (ms since 1970).

    Attributes:
        provider: Name of the provider.
        name: Name of the account.
        pool: Pool whose tasks run on it.
        limit: Number of tasks that it is configured to take at once; None for any number.
        capacity: `follow`, `watch` or `off`.
        provider_limit: Number of tasks that the provider allows; None when it has not said so.
        strangers: Tasks on the account that are not gate's, at the last count; None before the first.
        room: Number of tasks that strangers leave to gate; None before the first count.
        seen_room: A smaller room that one count has shown; None without one. A second count has to confirm it.
        seen_at: When that was.
        looked_at: When the provider counted last.
        look_at: When it is asked to count again.
        refused_at: When the provider refused a task last; None if it never did.
        cooling_until: No grant chooses the account before this time; None for any time.
        down_since: When its key was refused or its wallet was empty; None when it is in order.
        why: The provider's words about that.
    """

    provider: str
    name: str
    pool: str
    limit: int | None
    capacity: str
    provider_limit: int | None
    strangers: int | None
    room: int | None
    seen_room: int | None
    seen_at: int | None
    looked_at: int | None
    look_at: int
    refused_at: int | None
    cooling_until: int | None
    down_since: int | None
    why: str | None

    def allowed(self, provider_limit: int | None) -> int | None:
        """Return the smaller one of the configured limit and this one of the provider; None without any."""
        return min((limit for limit in (self.limit, provider_limit) if limit is not None), default=None)

    def is_open(self, now: int) -> bool:
        """Return whether grants may choose the account at this time (ms)."""
        # A refusal later than now was written before SQL's clock was set back. Its cool-down would last for the whole step.
        went_back = (self.refused_at or 0) > now  # guard: cool-down-after-the-clock-went-back
        return self.down_since is None and (went_back or (self.cooling_until or 0) <= now)

    def room_now(self, now: int) -> int | None:
        """Return how many tasks of gate the account takes at this time (ms); None for any number."""
        if not self.is_open(now):
            return 0
        counts = self.capacity == "follow" and self.looked_at is not None
        if not counts or now - (self.looked_at or 0) > COUNTS_FOR_MS:  # guard: old-counts-are-forgotten
            return self.limit
        return min((room for room in (self.allowed(self.provider_limit), self.room) if room is not None), default=None)


@dataclass(slots=True)
class AccountUse:
    """How an account is used.

    Attributes:
        room: Number of tasks of gate that it takes now; None for any number.
        held: Jobs that hold a slot on it; and while their slots drain, tasks that are stopped and starts that were unanswered at the end.
        stops: Tasks on it that have to be stopped.
    """

    room: int | None
    held: int = 0
    stops: int = 0

    @property
    def is_full(self) -> bool:
        """Whether it takes no further task."""
        return self.room is not None and self.held >= self.room


_columns = [accounts.c[name] for name in AccountRow._fields]


def of_pools(connection: Connection, pools: Sequence[str]) -> list[AccountRow]:
    """Return the accounts of pools, those of one pool in order of their names."""
    query = sa.select(*_columns).where(accounts.c.pool.in_(pools)).order_by(accounts.c.provider, accounts.c.name)
    return [AccountRow(*row) for row in connection.execute(query)]


def find(connection: Connection, provider: str, name: str) -> AccountRow | None:
    """Return an account, locked until the transaction ends; None when there is none."""
    mine = (accounts.c.provider == provider) & (accounts.c.name == name) & accounts.c.pool.is_not(None)
    row = connection.execute(sa.select(*_columns).where(mine).with_for_update()).first()
    return None if row is None else AccountRow(*row)


def used(connection: Connection, pool: str, names: Sequence[str], ahead_ms: int) -> dict[str, AccountUse]:
    """Return how the accounts of a pool are used, in their order. A job without a known account counts for the first.

    Args:
        connection: A connection in a transaction.
        pool: The pool, locked.
        names: Its accounts.
        ahead_ms: How far (ms) the clock of Redis is ahead of the pool's, as SQL has it.
    """
    now = clock_ms(connection)
    rooms = {row.name: row.room_now(now) for row in of_pools(connection, [pool])}
    found = {name: AccountUse(rooms.get(name)) for name in names}
    leases = sa.select(jobs.c.account, sa.func.count()).where(jobs.c.pool == pool, is_holding).group_by(jobs.c.account)
    for name, count in connection.execute(leases):
        found.get(name or "", found[names[0]]).held += count
    drains = (tasks.c.stop_at > now - accounts.c.drain_ms) & (jobs.c.status != "expired")
    stops = (
        sa.select(tasks.c.account, sa.func.sum(sa.case((drains, 1), else_=0)), sa.func.count())
        .join(jobs, jobs.c.job_id == tasks.c.job_id)
        .join(accounts, (accounts.c.provider == tasks.c.provider) & (accounts.c.name == tasks.c.account))
        .where(tasks.c.ask_at.is_not(None), tasks.c.stop == "owed", accounts.c.pool == pool)
        .group_by(tasks.c.account)
    )
    for name, draining, owed in connection.execute(stops):
        if name in found:
            found[name].held += int(draining)  # guard: account-counts-drains
            found[name].stops += owed
    of_account = (accounts.c.provider == jobs.c.provider) & (accounts.c.name == jobs.c.account)
    unanswered = (
        sa.select(jobs.c.account, sa.func.count())
        .join(accounts, of_account)
        .where(jobs.c.pool == pool, is_unanswered, jobs.c.ended_at > now - ahead_ms - accounts.c.drain_ms)
        .group_by(jobs.c.account)
    )
    for name, count in connection.execute(unanswered):
        if name in found:
            found[name].held += count  # guard: account-counts-unanswered-starts
    return found
