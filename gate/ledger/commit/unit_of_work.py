"""One transaction of the writer, for as many requests as came together: each row is read once, changed in memory, and all that
changed is written at the end, table by table.

So a batch of many costs hardly more statements than one request does, and nearly all that SQL costs is statements
(docs/performance.md). Whatever asks the connection itself asks behind what is written by then: nobody can tell the difference.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql import job_rows, pool_rows
from gate.ledger.sql.engines import begin, commit
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.statements import BulkWrite, together
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed
from gate.model.job import HOLDING, Job

ADDED = {
    ledger: ("at", "job_id", "user", "pool", "kind", "amount"),
    owed: ("job_id", "user", "pool", "amount", "since", "due_at", "attempts"),
    deliveries: ("webhook_id", "job_id", "tool", "kind", "type", "fence", "body", "at", "due_at", "attempts"),
    events: ("at", "pool", "job_id", "kind", "fence", "by", "why"),
}
"""Tables whose rows are only added here, in the order in which they are written, and what a row begins with."""


class UnitOfWork:
    """`ahead` are (pool, job_id) that will be asked for, '' where nobody knows."""

    def __init__(self, connection: Connection, ahead: Iterable[tuple[str, str]] = ()) -> None:
        self._connection = connection
        self._ahead: defaultdict[str, set[str]] = defaultdict(set)
        for pool, job_id in ahead:
            self.expect(pool, [job_id] if job_id else [])
        self._jobs: dict[str, Job | None] = {}
        self._pools: dict[str, Pool] = {}
        self._held: dict[str, int] = {}
        self._began: defaultdict[str, int] = defaultdict(int)
        """Slots taken less slots given up since the last flush, by pool."""
        self._new: dict[str, Job] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._added: dict[sa.Table, list[list[Any]]] = {table: [] for table in ADDED}

    def open(self, lock_ms: int) -> None:
        """Begins, takes the rows of all pools, in order, and reads the jobs that will be asked for behind them: one journey to
        Postgres, where `lock_ms` is how long a row may be waited for. Raises what SQLAlchemy raises.
        """
        asked = [(name, sorted(self._ahead[name])) for name in sorted(filter(None, self._ahead))]
        with together(self._connection):
            begin(self._connection, lock_ms)
            answers = [
                (pool_rows.locking(self._connection, name), job_rows.looking(self._connection, name, job_ids))
                for name, job_ids in asked
            ]
        for (name, job_ids), (locking, looking) in zip(asked, answers, strict=True):
            if (pool := pool_rows.locked(locking)) is not None:
                self._pools[name] = pool
                self._keep(name, job_ids, *job_rows.seen(self._connection, looking))
                self._ahead[name].clear()

    @property
    def connection(self) -> Connection:
        """For everything else. What waits is written first; a pool's row may change then, and is read anew."""
        self.flush()
        self._pools.clear()
        return self._connection

    def pool(self, name: str) -> Pool:
        """The pool's row, which this transaction holds from then on. Raises PoolUnknown."""
        if name not in self._pools:
            self._pools[name] = pool_rows.lock(self._connection, name)
        return self._pools[name]

    def expect(self, pool: str, job_ids: Iterable[str]) -> None:
        self._ahead[pool].update(job_ids)

    def job(self, pool: str, job_id: str) -> Job | None:
        """The job of that id, in whatever pool; None when there is none. Only after `pool(pool)`: what was read before the row was
        held may have changed since, and so what lives in another pool is not kept.
        """
        if job_id in self._jobs:
            return self._jobs[job_id]
        asked = (self._ahead.pop(pool, set()) | {job_id}) - self._jobs.keys()
        found, held = job_rows.look(self._connection, pool, sorted(asked))
        self._keep(pool, asked, found, held)
        return found.get(job_id)

    def _keep(self, pool: str, asked: Iterable[str], found: dict[str, Job], held: int) -> None:
        self._held.setdefault(pool, held + self._began[pool])
        self._jobs.update({one: found.get(one) for one in asked if one not in found or found[one].pool == pool})

    def held(self, pool: str) -> int:
        """How many slots SQL says are held: granted and running."""
        if pool not in self._held:
            self._held[pool] = job_rows.look(self._connection, pool, [])[1] + self._began[pool]
        return self._held[pool]

    def insert(self, job: Job) -> None:
        self._count(None, job)
        self._jobs[job.job_id] = job
        self._new[job.job_id] = job

    def put(self, job: Job, **values: Any) -> Job:
        """The job with these of its fields changed."""
        now = job._replace(**values)
        self._count(job, now)
        self._jobs[job.job_id] = now
        if job.job_id in self._new:
            self._new[job.job_id] = now
        else:
            self._changed.setdefault(job.job_id, {}).update(job_rows.as_columns(values))
        return now

    def add(self, table: sa.Table, **row: object) -> None:
        """Rows of one table are added in the order of the calls."""
        self._added[table].append([row[name] for name in ADDED[table]])

    def flush(self) -> None:
        """Writes what waits."""
        if self._new or self._changed or any(self._added.values()):
            with together(self._connection):
                self._write()

    def finish(self) -> None:
        """Writes what waits, and commits in the same journey."""
        with together(self._connection):
            self._write()
            commit(self._connection)

    def _write(self) -> None:
        by_columns: defaultdict[tuple[str, ...], list[list[Any]]] = defaultdict(list)
        for job_id, values in self._changed.items():
            by_columns[tuple(values)].append([*values.values(), job_id])
        writes = [(_update(columns), changed) for columns, changed in by_columns.items()]
        if self._new:
            writes.insert(0, (_insert(jobs), [job_rows.row_of(job) for job in self._new.values()]))
        writes += [(_insert(table), added) for table, added in self._added.items() if added]
        for many, lines in writes:
            many.run(self._connection, lines)
        self._clear_pending()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done inside is kept or undone by itself."""
        self.flush()
        try:
            with self._connection.begin_nested():
                yield
                self.flush()
        except BaseException:
            self._jobs.clear()
            self._held.clear()
            self._clear_pending()
            raise

    def _clear_pending(self) -> None:
        self._new.clear()
        self._changed.clear()
        self._began.clear()
        for added in self._added.values():
            added.clear()

    def _count(self, before: Job | None, after: Job) -> None:
        more = (after.status in HOLDING) - (before is not None and before.status in HOLDING)
        if more:
            self._began[after.pool] += more
            if after.pool in self._held:
                self._held[after.pool] += more


@cache
def _update(columns: tuple[str, ...]) -> BulkWrite:
    """Few: the code changes fields in the same combinations."""
    return BulkWrite(jobs, columns, "job_id")


@cache
def _insert(table: sa.Table) -> BulkWrite:
    return BulkWrite(table, job_rows.FIELDS if table is jobs else ADDED[table])
