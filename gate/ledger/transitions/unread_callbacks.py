"""Callbacks with the right secret that could not be read, kept until an operator applies them to a job or dismisses them.

A body is recognised by its hash. So a repeat adds to `times`, and to nothing else. The number of callbacks is bounded. Writes
hold the row of the pool, as every change that may end a job does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.feed import Feed
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import ApplyResult, Change
from gate.ledger.sql.tables import jobs, tasks, unread_callbacks
from gate.ledger.transitions import inbox
from gate.model.errors import PoolUnknown
from gate.model.job import EndStatus, now_ms
from gate.model.limits import CALLBACK_KEPT_MAX
from gate.model.messages import Outcome, ProviderReport

PENDING_MAX = 1_000
"""Callbacks of one provider and pool that may wait for an operator. A provider with a new format must not fill the disk."""
PAGE_MAX = 100
"""Most callbacks in one answer. Each may have a long body."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A callback that could not be read. Its last five attributes are None until an operator applies or dismisses it.

    Attributes:
        id: ID of the callback.
        at: Time (ms since 1970) at which it first came.
        last_at: Time (ms since 1970) at which the same body last came.
        times: How often the same body came.
        provider: The provider, by its name.
        pool: The pool that it names.
        task_id: The task that it names; None if none was found.
        body: The body as text, cut at CALLBACK_KEPT_MAX.
        why: What could not be read.
        applied_at: Time (ms since 1970) at which it was applied or dismissed.
        applied_by: Name of the operator's key.
        job_id: The job that it was applied to; None if it was dismissed.
        outcome: The outcome that it was applied with, or `dismissed`.
        reason: The operator's reason.
    """

    id: int
    at: int
    last_at: int
    times: int
    provider: str
    pool: str
    task_id: str | None
    body: str
    why: str
    applied_at: int | None
    applied_by: str | None
    job_id: str | None
    outcome: EndStatus | None
    reason: str | None


_columns = [unread_callbacks.c[name] for name in Unread.__slots__]
_pending = unread_callbacks.c.applied_at.is_(None)
_of_an_ended_job = (
    sa.exists()
    .where(tasks.c.provider == unread_callbacks.c.provider, tasks.c.task_id == unread_callbacks.c.task_id)
    .where(jobs.c.job_id == tasks.c.job_id, jobs.c.ended_at.is_not(None))
)
_waits = _pending & ~_of_an_ended_job
"""Callbacks that an operator has to look at. The jobs of the others have ended without them."""
DISMISSED = "dismissed"
"""Outcome of a callback that was settled without a job."""


class UnreadCallbacks:
    """The unread callbacks in SQL. Every method raises StoreDown if SQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database, self._feed = database, Feed(database, unread_callbacks)

    async def keep(self, pool: str, provider: str, raw: bytes, text: str, task_id: str | None, why: str) -> bool:
        """Record a callback, or count it again.

        Args:
            pool: Name of the pool that the callback names.
            provider: The provider, by its name.
            raw: The body as it came. Its hash identifies repeats.
            text: The body as text that SQL takes.
            task_id: The task that it names; None if a search found none.
            why: What could not be read.

        Returns:
            False when there is no pool of that name. Nothing is kept then.

        Raises:
            StoreDown: SQL does not take it.
        """
        digest = hashlib.sha256(raw).hexdigest()

        def work(batch: UnitOfWork) -> bool:
            try:
                batch.pool(pool)  # guard: unread-callback-of-a-known-pool
            except PoolUnknown:
                return False
            _keep(batch.connection, pool, provider, digest, {"task_id": task_id, "body": _cut(text), "why": why})
            return True

        return await self._database.write(pool, "", work)

    async def one(self, callback_id: int) -> Unread | None:
        """Read a callback; None if there is none of this ID."""
        query = sa.select(*_columns).where(unread_callbacks.c.id == callback_id)
        found = await self._database.read(lambda c: c.execute(query).first())
        return Unread(*found) if found is not None else None

    async def page(self, after: int = 0, most: int = PAGE_MAX) -> tuple[list[Unread], int | None]:
        """Read a page of callbacks, oldest first.

        Args:
            after: ID of the callback after which the page begins; 0 for the first page.
            most: Most callbacks in the page.

        Returns:
            The callbacks, and the `after` of the next page. That is None on the last page.
        """
        rows, following = await self._feed.page(sa.select(*_columns), after, most)
        return [Unread(*row) for row in rows], following

    async def pending(self, pool: str, most: int) -> list[Unread]:
        """Read the newest `most` callbacks of a pool that an operator has to look at, the newest first."""
        query = sa.select(*_columns).where(unread_callbacks.c.pool == pool, _waits)
        return await self._read(query.order_by(unread_callbacks.c.id.desc()).limit(most))

    async def of_task(self, task_id: str) -> list[Unread]:
        """Read the callbacks that name a task, of all providers, oldest first."""
        query = sa.select(*_columns).where(unread_callbacks.c.task_id == task_id)
        return await self._read(query.order_by(unread_callbacks.c.id).limit(PAGE_MAX))

    async def lately(self, since_ms: int, most: int) -> tuple[int, list[str]]:
        """Count recent callbacks that an operator has to look at.

        Args:
            since_ms: Time (ms since 1970) after which a callback is recent.
            most: Most tasks to name.

        Returns:
            Their number, and the tasks of the newest of them as `PROVIDER TASK_ID`, each once.
        """
        wanted = (_waits, unread_callbacks.c.last_at > since_ms)
        count = sa.select(sa.func.count()).where(*wanted)
        task = (unread_callbacks.c.provider, unread_callbacks.c.task_id)
        newest = sa.select(*task).where(*wanted, unread_callbacks.c.task_id.is_not(None)).group_by(*task)
        newest = newest.order_by(sa.func.max(unread_callbacks.c.id).desc()).limit(most)

        def look(connection: Connection) -> tuple[int, list[str]]:
            return connection.execute(count).scalar_one(), [" ".join(row) for row in connection.execute(newest)]

        return await self._database.read(look)

    async def dismiss(self, one: Unread, reason: str, by: str) -> bool:
        """Mark a callback as settled without a job.

        Args:
            one: The callback.
            reason: The operator's reason.
            by: Name of the operator's key.

        Returns:
            False when it was applied or dismissed before, or is no longer kept.

        Raises:
            PoolUnknown: The pool is gone.
            StoreDown: SQL does not take it.
        """

        def work(batch: UnitOfWork) -> bool:
            batch.pool(one.pool)
            mark = {"applied_at": now_ms(), "applied_by": by, "outcome": DISMISSED, "reason": reason}
            changed = unread_callbacks.update().where(
                unread_callbacks.c.id == one.id,
                _pending,  # guard: unread-callback-dismissed-once
            )
            return batch.connection.execute(changed.values(**mark)).rowcount == 1

        return await self._database.write(one.pool, "", work)

    async def apply(
        self, one: Unread, job_id: str, outcome: Outcome, reason: str, by: str, output: JsonValue
    ) -> Change[ApplyResult]:
        """End a job as the provider of a callback would have ended it, and mark the callback, in one transaction.

        Args:
            one: The callback.
            job_id: The job.
            outcome: `completed`, `failed` or `cancelled`.
            reason: The operator's reason. It becomes the job's error, unless the outcome is `completed`.
            by: Name of the operator's key.
            output: Output of a job that completed; None without one.

        Returns:
            The result, as ApplyResult describes it, and the job. Only with `ended` and `late` anything was written.

        Raises:
            PoolUnknown: The pool is gone.
            StoreDown: SQL does not take it.
        """

        def work(batch: UnitOfWork) -> Change[ApplyResult]:
            batch.pool(one.pool)
            query = sa.select(unread_callbacks.c.applied_at).where(unread_callbacks.c.id == one.id)
            row = batch.connection.execute(query).first()
            if row is None:
                return Change(ApplyResult.GONE)
            if row.applied_at is not None:  # guard: unread-callback-applied-once
                return Change(ApplyResult.SPENT)
            why = f"unread callback {one.id}: {reason}"
            error = None if outcome == "completed" else reason
            report = ProviderReport(outcome, f"unread {one.id}", None, job_id, error, output)
            change = inbox.hear_by_hand(batch, one.pool, one.provider, report, why)
            if change.result in (ApplyResult.ENDED, ApplyResult.LATE):
                mark = {"applied_at": now_ms(), "applied_by": by, "job_id": job_id, "outcome": outcome, "reason": reason}
                changed = unread_callbacks.update().where(unread_callbacks.c.id == one.id, _pending).values(**mark)
                batch.connection.execute(changed)
            return change

        return await self._database.write(one.pool, job_id, work)

    async def _read(self, query: sa.Select[*tuple[Any, ...]]) -> list[Unread]:
        return await self._database.read(lambda c: [Unread(*row) for row in c.execute(query)])


def _keep(connection: Connection, pool: str, provider: str, digest: str, facts: dict[str, Any]) -> None:
    table, at = unread_callbacks, now_ms()
    same = (table.c.provider == provider, table.c.pool == pool, table.c.hash == digest)
    again = table.update().where(*same).values(times=table.c.times + 1, last_at=at)
    if connection.execute(again).rowcount:  # guard: unread-callback-counted-once
        return
    row = {"at": at, "last_at": at, "times": 1, "provider": provider, "pool": pool, "hash": digest}
    connection.execute(table.insert().values(**row, **facts))
    of_both = (table.c.provider == provider, table.c.pool == pool)
    # The index alone answers this count. To leave out the applied ones, SQL would have to read the rows with their bodies.
    # guard: unread-callbacks-are-bounded
    if connection.execute(sa.select(sa.func.count()).where(*of_both)).scalar_one() > PENDING_MAX:
        waiting = sa.select(table.c.id).where(*of_both, _pending).order_by(table.c.id.desc())
        first_too_many = waiting.limit(1).offset(PENDING_MAX).scalar_subquery()
        connection.execute(table.delete().where(*of_both, _pending, table.c.id <= first_too_many))


def _cut(text: str) -> str:
    return text if len(text) <= CALLBACK_KEPT_MAX else f"{text[:CALLBACK_KEPT_MAX]}\n[cut here: {len(text)} characters came]"


def waiting(connection: Connection, since_ms: int) -> dict[str, int]:
    """Count, by provider, the callbacks after `since_ms` (ms since 1970) that an operator has to look at."""
    table = unread_callbacks
    count = sa.select(table.c.provider, sa.func.count()).where(_waits, table.c.last_at > since_ms).group_by(table.c.provider)
    return {provider: found for provider, found in connection.execute(count)}


def about(connection: Connection, job_id: str, tasks: Sequence[tuple[str, str]]) -> list[Unread]:
    """Read the callbacks about a job, oldest first.

    Args:
        connection: The connection to SQL.
        job_id: The job that they were applied to.
        tasks: Provider and task_id of its tasks. Callbacks that name one of these are about the job too.
    """
    table = unread_callbacks
    wanted: sa.ColumnElement[bool] = table.c.job_id == job_id
    if tasks:
        wanted |= sa.tuple_(table.c.provider, table.c.task_id).in_(tasks)
    query = sa.select(*_columns).where(wanted).order_by(table.c.id).limit(PAGE_MAX)
    return [Unread(*row) for row in connection.execute(query)]


def forget(connection: Connection, *, jobs: Sequence[str] = (), before_ms: int | None = None) -> int:
    """Delete callbacks, and return how many.

    Args:
        connection: The connection to SQL.
        jobs: Delete the callbacks that were applied to these jobs.
        before_ms: Delete, instead of those, all callbacks that neither came nor were settled since this time (ms since 1970).
    """
    table = unread_callbacks
    wanted: sa.ColumnElement[bool] = table.c.job_id.in_(jobs)
    if before_ms is not None:
        wanted = (table.c.last_at < before_ms) & (_pending | (table.c.applied_at < before_ms))
    return connection.execute(table.delete().where(wanted)).rowcount
