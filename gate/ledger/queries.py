"""Read-only queries: jobs, ledger entries, the queue. They never use the writer's connection."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.admin import api_keys as keys
from gate.ledger.admin.api_keys import Key
from gate.ledger.admin.migrate import sqlite_file
from gate.ledger.commit.database import Database
from gate.ledger.commit.feed import Feed
from gate.ledger.reports import asked_tasks
from gate.ledger.reports.backlog import Backlog
from gate.ledger.reports.open_tasks import OpenTasks, open_tasks
from gate.ledger.reports.provider_troubles import ProviderTroubles, provider_troubles
from gate.ledger.reports.replication import Replication, replication
from gate.ledger.reports.statistics import Statistics
from gate.ledger.reports.timeline import Event as Event
from gate.ledger.reports.timeline import Timelines, happened
from gate.ledger.sql import drawn_ids
from gate.ledger.sql import pool_rows as pools
from gate.ledger.sql.job_rows import find, is_holding, is_live, job_of, jobs_with_refund
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.tables import events, jobs, ledger, tasks
from gate.ledger.sql.tables import pools as pool_table
from gate.ledger.transitions import capacity, hints, servers
from gate.ledger.transitions.servers import ServerRow
from gate.ledger.transitions.unread_callbacks import Unread as Unread
from gate.ledger.transitions.unread_callbacks import UnreadCallbacks
from gate.model.account import Accounts
from gate.model.job import LIVE, Job

_first = sa.select(sa.func.min(jobs.c.pool).label("pool")).where(jobs.c.ended_at.is_(None)).cte("busy", recursive=True)
_next = sa.select(sa.func.min(jobs.c.pool)).where(jobs.c.ended_at.is_(None), jobs.c.pool > _first.c.pool).correlate(_first)
_all_busy = _first.union_all(sa.select(_next.scalar_subquery()).where(_first.c.pool.is_not(None)))
_BUSY = sa.select(_all_busy.c.pool).where(_all_busy.c.pool.is_not(None))
"""The pools with a live job. `distinct` would read each of these jobs; this goes from pool to pool in the index."""

PAGE = 100
"""Ledger entries in one page."""
RUNS = 300
"""Completed runs from which the present length of a run is estimated."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the ledger.

    Attributes:
        id: ID. A page never ends behind an entry that is still to come with a lower one.
        at: When (ms since 1970).
        job_id: The job.
        user: Its user; None for a job without one.
        pool: Its pool.
        kind: `charge` or `refund`.
        amount: Credits.
    """

    id: int
    at: int
    job_id: str
    user: str | None
    pool: str
    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class InLine:
    """A job that holds a slot or waits for one.

    Attributes:
        job_id: The job.
        tool: Its tool; None when it has none.
        granted_at: When it got its slot (ms since 1970); None while it waits.
        due: Deadline of its lease (ms since 1970); None while it waits.
    """

    job_id: str
    tool: str | None
    granted_at: int | None
    due: int | None


@dataclass(frozen=True, slots=True)
class Balance:
    """Sums of a user's ledger entries, in credits.

    Attributes:
        charged: Sum of the charges.
        refunded: Sum of the refunds.
    """

    charged: int
    refunded: int


class LedgerQueries:
    """All queries of the ledger. Each raises StoreDown when SQL does not answer.

    Attributes:
        backlog: Refunds and calls that are not done.
        statistics: Numbers over time.
        timelines: All that is known of a job, of a user or of a pool's settings.
        unread: Callbacks that could not be read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.backlog, self.statistics, self.timelines = Backlog(database), Statistics(database), Timelines(database)
        self.unread, self._entries = UnreadCallbacks(database), Feed(database, ledger)

    async def pools(self) -> list[Pool]:
        """Return all pools, in order of their names."""
        return await self._database.read(pools.every)

    async def named(self, names: Collection[str]) -> dict[str, Pool]:
        """Return those of the pools that there are, by name."""
        return await self._database.read(lambda connection: pools.named(connection, names)) if names else {}

    async def pools_version(self) -> int:
        """Return the ID of the newest event about a pool itself. It is another one when a pool was made or deleted since."""
        return await self._database.read(pools.version)

    async def off_clock(self) -> set[str]:
        """Return the pools whose clock is not that of Redis, because the latter has stepped."""
        query = sa.select(pool_table.c.name).where(pool_table.c.clock_ahead_ms != 0, pool_table.c.deleted_at.is_(None))
        return await self._database.read(lambda c: set(c.execute(query).scalars()))

    async def pool(self, name: str) -> Pool | None:
        """Return a pool; None when there is none of this name."""
        return await self._database.read(lambda connection: pools.find(connection, name))

    async def newest(self) -> int:
        """Return the ID of the newest event; 0 without one. It never decreases, unless SQL has lost commits."""
        return await self._database.read(lambda c: c.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)

    async def held(self, names: Collection[str] | None = None) -> dict[str, Event]:
        """Return the pools that gate has paused because SQL has gone back, each with the event of its pause.

        Args:
            names: Names of the pools to look at; None for all.
        """
        since = sa.select(sa.func.max(events.c.id)).where(events.c.job_id.is_(None), events.c.kind.in_(("paused", "resumed")))
        query = sa.select(pool_table.c.name, *happened.selected_columns).join(events, events.c.pool == pool_table.c.name)
        query = query.where(
            pool_table.c.paused,
            pool_table.c.deleted_at.is_(None),
            events.c.id == since.where(events.c.pool == pool_table.c.name).correlate(pool_table).scalar_subquery(),
            events.c.kind == "paused",
            events.c.by == "gate",
        )
        if names is not None:
            query = query.where(pool_table.c.name.in_(names))
        return (
            await self._database.read(lambda c: {row[0]: Event(*row[1:]) for row in c.execute(query)}) if names != [] else {}
        )

    async def has_had(self, name: str) -> bool:
        """Return whether there is a pool of this name, or was one that was deleted."""
        return await self._database.read(lambda connection: pools.was_made(connection, name))

    async def job(self, job_id: str) -> Job | None:
        """Return a job; None when there is none of this id, in any pool."""
        return await self._database.read(lambda connection: find(connection, job_id))

    async def provider_troubles(self, lately_ms: int) -> ProviderTroubles:
        """Return what is wrong between gate and the providers that it asks. Stops and ends count up to this age (ms)."""
        return await self._database.read(lambda connection: provider_troubles(connection, lately_ms))

    async def accounts(self) -> dict[str, list[capacity.AccountState]]:
        """Return the accounts of each pool whose grants choose among accounts, by the pool's name."""
        return await self._database.read(capacity.states)

    async def open_tasks(self, pool: str) -> OpenTasks:
        """Return the tasks of a pool that gate asks about now, and those that are being stopped."""
        return await self._database.read(lambda connection: open_tasks(connection, pool))

    async def asked(self, job: Job) -> asked_tasks.Asked | None:
        """Return what the provider says of the current task of a job; None when gate does not ask about it."""
        if job.account is None or job.provider is None or job.task_id is None:
            return None
        provider, task_id = job.provider, job.task_id
        return await self._database.read(lambda connection: asked_tasks.asked(connection, provider, task_id))

    async def orphan_tasks(self, accounts: Accounts) -> list[asked_tasks.OrphanTasks]:
        """Return the tasks that no configured account can be asked about, as `orphan_tasks` does."""
        return await self._database.read(lambda connection: asked_tasks.orphan_tasks(connection, accounts))

    async def hint_use(self, pool: str, provider: str, task_id: str) -> hints.HintUse:
        """Return what a hint about a task would change, by reads alone, as `hints.use_of` does."""
        return await self._database.read(lambda connection: hints.use_of(connection, pool, provider, task_id))

    async def pool_of_task(self, provider: str, task_id: str) -> str | None:
        """Return the pool of the job that is bound to this task; None when no job is."""
        query = sa.select(jobs.c.pool).join(tasks, tasks.c.job_id == jobs.c.job_id)
        query = query.where(tasks.c.provider == provider, tasks.c.task_id == task_id)
        return await self._database.read(lambda connection: connection.execute(query).scalar())

    async def jobs(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the jobs that SQL has, of those asked for, by job_id."""

        def work(connection: Connection) -> dict[str, Job]:
            rows = connection.execute(jobs_with_refund.where(jobs.c.job_id.in_(job_ids)))
            return {row.job_id: job_of(row) for row in rows}

        return await self._database.read(work) if job_ids else {}

    async def statuses(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the statuses of the jobs that SQL has, of those asked for, by job_id."""
        query = sa.select(jobs.c.job_id, jobs.c.status).where(jobs.c.job_id.in_(job_ids))
        return await self._database.read(lambda c: {row.job_id: row.status for row in c.execute(query)}) if job_ids else {}

    async def live(self, pool: str) -> dict[str, Job]:
        """Return the live jobs of a pool, by job_id."""
        query = jobs_with_refund.where(jobs.c.pool == pool, is_live)
        return await self._database.read(lambda c: {row.job_id: job_of(row) for row in c.execute(query)})

    async def busy(self) -> set[str]:
        """Return the pools that have a live job. It costs a look into an index for each of them, however many jobs they have."""
        return await self._database.read(lambda c: set(c.execute(_BUSY).scalars()))

    async def servers(self) -> list[ServerRow]:
        """Return the servers of this ledger, in the order of their starts."""
        dead_after_s = servers.DEAD_AFTER_ALONE_S if sqlite_file(self._database.url) is not None else servers.DEAD_AFTER_S
        return await self._database.read(lambda connection: servers.every(connection, dead_after_s))

    async def holders(self) -> dict[str, str]:
        """Return one job that holds a slot, by pool, of each pool that has one."""
        query = sa.select(jobs.c.pool, sa.func.min(jobs.c.job_id)).where(is_holding).group_by(jobs.c.pool)
        return await self._database.read(lambda c: {pool: job_id for pool, job_id in c.execute(query)})

    async def history(self, job_id: str) -> list[Event]:
        """Return the events of a job, the oldest first."""
        query = happened.where(events.c.job_id == job_id).order_by(events.c.id)
        return await self._database.read(lambda c: [Event(*row) for row in c.execute(query)])

    async def runs(self, pool: str) -> list[tuple[str | None, int]]:
        """Return tool and duration (ms) of the newest completed runs of a pool, RUNS at most."""
        return await self._database.read(lambda c: _runs(c, pool))

    async def runs_by_pool(self, names: Collection[str]) -> dict[str, list[tuple[str | None, int]]]:
        """Return what `runs` returns for each of these pools, by one read."""
        return await self._database.read(lambda c: {pool: _runs(c, pool) for pool in names}) if names else {}

    async def line(self, pool: str, most: int) -> list[InLine]:
        """Return the jobs that hold a slot, then those that wait, in order of their tickets.

        Args:
            pool: Name of the pool.
            most: Number of waiters at most.
        """
        query = sa.select(jobs.c.job_id, jobs.c.tool, jobs.c.granted_at, jobs.c.expires_at).where(jobs.c.pool == pool)
        held = query.where(is_holding)
        waits = query.where(jobs.c.ended_at.is_(None), jobs.c.status == "queued").order_by(jobs.c.ticket).limit(most)
        return await self._database.read(lambda c: [InLine(*row) for part in (held, waits) for row in c.execute(part)])

    async def waiting(self, pool: str, session: str | None, user: str | None) -> list[str]:
        """Return the job_ids of the queued jobs of a session or of a user, the last in the queue first.

        Args:
            pool: Name of the pool.
            session: The session; None to search by user.
            user: The user, used only without a session.
        """
        query = sa.select(jobs.c.job_id).where(jobs.c.pool == pool, jobs.c.ended_at.is_(None), jobs.c.status == "queued")
        query = query.where(jobs.c.session == session if session is not None else jobs.c.user == user)
        query = query.order_by(jobs.c.ticket.desc())
        return await self._database.read(lambda c: list(c.execute(query).scalars()))

    async def active(self, user: str) -> Job | None:
        """Return a live job of the user: one that holds a slot before one that waits, and an older before a newer.

        Returns:
            None when the user has no live job.
        """
        waits = sa.case((jobs.c.status == "queued", 1), else_=0)
        query = jobs_with_refund.where(jobs.c.user == user, is_live).order_by(waits, jobs.c.enqueued_at).limit(1)
        return await self._database.read(lambda c: job_of(row) if (row := c.execute(query).first()) else None)

    async def recent(self, pool: str, status: str | None, user: str | None, most: int) -> list[Job]:
        """Return jobs of a pool, the newest first.

        Args:
            pool: Name of the pool.
            status: Only jobs with this status; None for all.
            user: Only jobs of this user; None for all.
            most: Number of jobs at most.
        """
        query = jobs_with_refund.where(jobs.c.pool == pool)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if user is not None:
            query = query.where(jobs.c.user == user)
        came_at: sa.ColumnElement[int] = jobs.c.enqueued_at
        if status in LIVE:
            query, came_at = (
                query.where(jobs.c.ended_at.is_(None)),
                came_at + 0,
            )  # by the index of the live jobs, not in the order of all
        query = query.order_by(came_at.desc(), jobs.c.ticket.desc()).limit(most)
        return await self._database.read(lambda c: [job_of(row) for row in c.execute(query)])

    async def entries(
        self,
        *,
        user: str | None = None,
        job_id: str | None = None,
        kind: str | None = None,
        after: int = 0,
        most: int = PAGE,
    ) -> tuple[list[Entry], int | None]:
        """Return a page of the ledger, the oldest entry first.

        Args:
            user: Only entries of this user; None for all.
            job_id: Only entries of this job; None for all.
            kind: `charge` or `refund`; None for both.
            after: ID of the last entry of the page before; 0 for the first page.
            most: Number of entries at most.

        Returns:
            The entries, and `after` for the next page. It is None on the last page. Entries that come later have higher ids
            than all entries of the page.
        """
        query = sa.select(ledger)
        for column, value in ((ledger.c.user, user), (ledger.c.job_id, job_id), (ledger.c.kind, kind)):
            if value is not None:
                query = query.where(column == value)
        rows, following = await self._entries.page(query, after, most, one_job=job_id is not None)
        return [Entry(*row) for row in rows], following

    async def balance(self, user: str) -> Balance:
        """Return the sums of a user's charges and refunds."""
        query = sa.select(ledger.c.kind, sa.func.sum(ledger.c.amount)).where(ledger.c.user == user).group_by(ledger.c.kind)
        sums = await self._database.read(lambda c: {kind: int(total) for kind, total in c.execute(query)})
        return Balance(sums.get("charge", 0), sums.get("refund", 0))

    async def open_longest(self) -> tuple[int, float] | None:
        """Return the Postgres process id and the age (s) of gate's oldest open transaction that writes; None without one."""
        return await self._database.read(drawn_ids.open_longest)

    async def replication(self) -> Replication | None:
        """Return what Postgres does with a commit before it answers; None on SQLite."""
        return await self._database.read(replication)

    async def keys(self) -> list[Key]:
        """Return all API keys, in order of their creation."""
        return await self._database.read(keys.every)

    async def ping(self) -> None:
        """Return when SQL answers. Raises StoreDown when it does not."""
        await self._database.read(lambda c: c.execute(sa.select(1)).scalar())


def _runs(connection: Connection, pool: str) -> list[tuple[str | None, int]]:
    query = sa.select(jobs.c.tool, jobs.c.ended_at - jobs.c.granted_at)
    query = query.where(jobs.c.pool == pool, jobs.c.status == "completed", jobs.c.granted_at.is_not(None))
    return [(row[0], row[1]) for row in connection.execute(query.order_by(jobs.c.ended_at.desc()).limit(RUNS))]
