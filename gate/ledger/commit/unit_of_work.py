"""One transaction of the writer, for many requests.

Each row is read once and changed in memory. At the end all changes are written, table by table. So a large batch takes hardly
more statements than one request, and statements are nearly the whole cost of SQL (docs/performance.md).

A direct use of `connection` first writes the pending changes. A query therefore sees the same rows as without this class.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql import account_rows, job_rows, pool_rows
from gate.ledger.sql.account_rows import AccountUse
from gate.ledger.sql.engines import begin, commit
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.statements import BulkWrite, together
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed
from gate.model.job import HOLDING, Job, now_ms

ADDED = {
    ledger: ("at", "job_id", "user", "pool", "kind", "amount"),
    owed: ("job_id", "user", "pool", "amount", "since", "due_at", "attempts"),
    deliveries: ("webhook_id", "job_id", "tool", "kind", "type", "fence", "body", "at", "due_at", "attempts"),
    events: ("at", "pool", "job_id", "kind", "fence", "by", "why"),
}
"""Tables to which rows are only added, in the order of writing, with the columns that are set at first."""


class UnitOfWork:
    """The reads and writes of one transaction.

    Attributes:
        now_ms: Says what the clock of a pool shows (ms since 1970). All times of a job are by it, because the clock of this machine may
            be another, or may be set while the job runs.
        wrote: Whether rows were written so far, apart from statements on `connection`.
    """

    def __init__(
        self,
        connection: Connection,
        ahead: Iterable[tuple[str, str]] = (),
        clock: Callable[[str], int] = lambda pool: now_ms(),
    ) -> None:
        """Start on a connection whose transaction `open` begins, or that has one.

        Args:
            connection: An open connection.
            ahead: Pool and job_id of the jobs that will be read. The job_id is empty when it is not known.
            clock: Says what the clock of a pool shows (ms since 1970); by default what this machine's shows.
        """
        self._connection, self.now_ms = connection, clock
        self._ahead: defaultdict[str, set[str]] = defaultdict(set)
        for pool, job_id in ahead:
            self.expect(pool, [job_id] if job_id else [])
        self._jobs: dict[str, Job | None] = {}
        self._pools: dict[str, Pool] = {}
        self._held: dict[str, int] = {}
        self._used: dict[str, dict[str, AccountUse]] = {}
        self._taken_since_flush: defaultdict[str, int] = defaultdict(int)
        """Slots taken minus slots given up since the last flush, by pool. SQL's own count does not have them yet."""
        self._new: dict[str, Job] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._added: defaultdict[sa.Table, list[list[Any]]] = defaultdict(list)
        self.wrote = False

    def open(self, lock_ms: int) -> None:
        """Begin the transaction, lock the rows of all expected pools in order, and read the expected jobs.

        On Postgres all of that is one round trip.

        Args:
            lock_ms: How long to wait for a row (ms), on Postgres only.

        Raises:
            SQLAlchemyError: A statement was refused, or a row was not free in time.
        """
        asked = [(name, sorted(self._ahead[name])) for name in sorted(filter(None, self._ahead))]
        with together(self._connection):
            begin(self._connection, lock_ms)
            answers = [
                (pool_rows.LOCK.run(self._connection, [name]), job_rows.LOOK.ask(self._connection, name, job_ids))
                for name, job_ids in asked
            ]
        for (name, job_ids), (locking, looking) in zip(asked, answers, strict=True):
            if (pool := pool_rows.locked(locking)) is not None:
                self._pools[name] = pool
                self._keep(name, job_ids, *job_rows.seen(self._connection, looking))
                self._ahead[name].clear()

    @property
    def connection(self) -> Connection:
        """The connection, for statements of any kind.

        Pending changes are written first. Pool rows are read anew afterwards, since the statement may change them.
        """
        self.flush()
        self._pools.clear()
        return self._connection

    def pool(self, name: str) -> Pool:
        """Return the pool's row, and lock it until the transaction ends.

        Raises:
            PoolUnknown: There is no pool of this name.
        """
        if name not in self._pools:
            self._pools[name] = pool_rows.lock(self._connection, name)
        return self._pools[name]

    def expect(self, pool: str, job_ids: Iterable[str]) -> None:
        """Announce jobs that will be read. The next `job` of this pool reads them all in one statement.

        Args:
            pool: Name of the pool.
            job_ids: The jobs.
        """
        self._ahead[pool].update(job_ids)

    def job(self, pool: str, job_id: str) -> Job | None:
        """Return the job of this id. Call `pool(pool)` first.

        A row that was read before the lock may have changed since. For the same reason a job of another pool is not cached.

        Args:
            pool: Pool whose row is locked.
            job_id: The job, of any pool.

        Returns:
            None when there is no such job.
        """
        if job_id in self._jobs:
            return self._jobs[job_id]
        asked = (self._ahead.pop(pool, set()) | {job_id}) - self._jobs.keys()
        found, held = job_rows.look(self._connection, pool, sorted(asked))
        self._keep(pool, asked, found, held)
        return found.get(job_id)

    def _keep(self, pool: str, asked: Iterable[str], found: dict[str, Job], held: int) -> None:
        self._held.setdefault(pool, held + self._taken_since_flush[pool])
        self._jobs.update({one: found.get(one) for one in asked if one not in found or found[one].pool == pool})

    def held(self, pool: str) -> int:
        """Return how many slots of the pool are held by SQL's count: granted and running jobs."""
        if pool not in self._held:
            self._held[pool] = job_rows.look(self._connection, pool, [])[1] + self._taken_since_flush[pool]
        return self._held[pool]

    def used(self, pool: Pool) -> dict[str, AccountUse]:
        """Return how the accounts of a pool are used, in their order.

        Args:
            pool: The pool, locked, with two accounts or more.
        """
        if pool.name not in self._used:
            self._used[pool.name] = account_rows.used(self.connection, pool.name, pool.accounts, pool.clock_ahead_ms)
        return self._used[pool.name]

    def forget_use(self, pool: str) -> None:
        """Read the use of a pool's accounts again, because a stop or a refusal has changed it."""
        self._used.pop(pool, None)

    def insert(self, job: Job) -> None:
        """Add the row of a new job."""
        self._count(None, job)
        self._jobs[job.job_id] = job
        self._new[job.job_id] = job

    def put(self, job: Job, **values: Any) -> Job:
        """Change fields of a job.

        Args:
            job: The job as it is now.
            **values: New values by field.

        Returns:
            The changed job.
        """
        now = job._replace(**values)
        self._count(job, now)
        self._jobs[job.job_id] = now
        if job.job_id in self._new:
            self._new[job.job_id] = now
        else:
            self._changed.setdefault(job.job_id, {}).update(job_rows.as_columns(values))
        return now

    def add(self, table: sa.Table, **row: object) -> None:
        """Add a row. The rows of one table are written in the order of these calls.

        Args:
            table: One of ADDED.
            **row: A value for each of its columns there.
        """
        self._added[table].append([row[name] for name in ADDED[table]])

    def book(self, job_id: str, user: str | None, pool: str, kind: str, amount: int, at: int) -> None:
        """Add an entry to the ledger.

        Args:
            job_id: The job.
            user: Its user; None for a job without one.
            pool: Its pool.
            kind: `charge` or `refund`.
            amount: Credits, above 0.
            at: When (ms since 1970).
        """
        self.add(ledger, at=at, job_id=job_id, user=user, pool=pool, kind=kind, amount=amount)

    def event(
        self, pool: str, job_id: str, kind: str, by: str, at: int, fence: int | None = None, why: str | None = None
    ) -> None:
        """Add an event to the history of a job.

        Args:
            pool: Its pool.
            job_id: The job.
            kind: What happened.
            by: Actor.
            at: When (ms since 1970).
            fence: Fence of the grant; None for none.
            why: Reason.
        """
        self.add(events, at=at, pool=pool, job_id=job_id, kind=kind, fence=fence, by=by, why=why)

    def flush(self) -> None:
        """Write the pending changes."""
        if writes := self._take_pending():
            with together(self._connection):
                for many, rows in writes:
                    many.run(self._connection, rows)

    def finish(self) -> None:
        """Write the pending changes and commit, on Postgres in one round trip."""
        writes = self._take_pending()
        with together(self._connection):
            for many, rows in writes:
                many.run(self._connection, rows)
            commit(self._connection)

    def _take_pending(self) -> list[tuple[BulkWrite, list[list[Any]]]]:
        """Return the writes that are pending, in their order. They are no longer pending then."""
        by_columns: defaultdict[tuple[str, ...], list[list[Any]]] = defaultdict(list)
        for job_id, values in self._changed.items():
            by_columns[tuple(values)].append([*values.values(), job_id])
        writes = [(_update(columns), changed) for columns, changed in by_columns.items()]
        if self._new:
            writes.insert(0, (_insert(jobs), [job_rows.row_of(job) for job in self._new.values()]))
        writes += [(_insert(table), self._added[table]) for table in ADDED if table in self._added]
        self.wrote = self.wrote or bool(writes)
        self._clear_pending()
        return writes

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Run the block in a savepoint. An error inside undoes the block alone."""
        self.flush()
        try:
            with self._connection.begin_nested():
                yield
                self.flush()
        except BaseException:
            self._jobs.clear()
            self._held.clear()
            self._used.clear()
            self._clear_pending()
            raise

    def _clear_pending(self) -> None:
        self._new.clear()
        self._changed.clear()
        self._taken_since_flush.clear()
        self._added.clear()

    def _count(self, before: Job | None, after: Job) -> None:
        more = (after.status in HOLDING) - (before is not None and before.status in HOLDING)
        if more:
            self._taken_since_flush[after.pool] += more
            if after.pool in self._held:
                self._held[after.pool] += more
        if after.pool in self._used:
            for job, one in ((before, -1), (after, 1)):
                if job is not None and job.status in HOLDING:
                    used = self._used[after.pool]
                    used.get(job.account or "", next(iter(used.values()))).held += one


@cache
def _update(columns: tuple[str, ...]) -> BulkWrite:
    """Return the statement for these columns. Few combinations exist, so all are cached."""
    return BulkWrite(jobs, columns, "job_id")


@cache
def _insert(table: sa.Table) -> BulkWrite:
    return BulkWrite(table, job_rows.FIELDS if table is jobs else ADDED[table])
