"""Callbacks that showed the right secret and could not be read: each body once, bounded, until an operator applies it to a job or
dismisses it.

A body is known by its hash, so a provider that repeats itself adds to `times` and to nothing else. Writes hold the row of the pool, as
everything does that may end a job.
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
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import ApplyResult, Change
from gate.ledger.sql.tables import jobs, tasks, unread_callbacks
from gate.ledger.transitions import inbox
from gate.model.errors import PoolUnknown
from gate.model.job import now_ms

BODY_MAX = 64 * 1024
"""Characters of a body that are kept."""
PENDING_MAX = 1_000
"""Callbacks of one provider and pool that wait for an operator: a provider with a new format must not fill the disk."""
PAGE_MAX = 100
"""Callbacks in one answer."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A callback that could not be read. Times are milliseconds: `at` of the first, `last_at` of the last of `times` with this body. `why`
    says what could not be read. The last five are null until an operator applies it or dismisses it. `outcome` is then the job's, or
    `dismissed`, and `job_id` is null.
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
    outcome: str | None
    reason: str | None


_columns = [unread_callbacks.c[name] for name in Unread.__slots__]
_pending = unread_callbacks.c.applied_at.is_(None)
_of_an_ended_job = (
    sa.exists()
    .where(tasks.c.provider == unread_callbacks.c.provider, tasks.c.task_id == unread_callbacks.c.task_id)
    .where(jobs.c.job_id == tasks.c.job_id, jobs.c.ended_at.is_not(None))
)
_waits = _pending & ~_of_an_ended_job
"""Callbacks that an operator has to look at: the job of the others has ended without them."""
DISMISSED = "dismissed"


class UnreadCallbacks:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, pool: str, provider: str, raw: bytes, text: str, task_id: str | None, why: str) -> bool:
        """Write a callback down, or count it again.

        Args:
            raw: The body as it came; its hash tells repeats.
            text: The body as text that SQL takes.
            task_id: The task that it names, as far as a search found one.

        Returns:
            False when there is no pool of that name; then nothing is kept.

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
        query = sa.select(*_columns).where(unread_callbacks.c.id == callback_id)
        found = await self._database.read(lambda c: c.execute(query).first())
        return Unread(*found) if found is not None else None

    async def page(self, after: int = 0, most: int = PAGE_MAX) -> tuple[list[Unread], int | None]:
        """Read a page, oldest first, and the `after` of the next one (None on the last)."""
        query = sa.select(*_columns).where(unread_callbacks.c.id > after).order_by(unread_callbacks.c.id).limit(most + 1)
        rows = await self._read(query)
        return rows[:most], rows[most - 1].id if len(rows) > most else None

    async def pending(self, pool: str, most: int) -> list[Unread]:
        """Read those of a pool that an operator has to look at, the newest first."""
        query = sa.select(*_columns).where(unread_callbacks.c.pool == pool, _waits)
        return await self._read(query.order_by(unread_callbacks.c.id.desc()).limit(most))

    async def of_task(self, task_id: str) -> list[Unread]:
        """Read those that name this task, at whichever provider."""
        query = sa.select(*_columns).where(unread_callbacks.c.task_id == task_id)
        return await self._read(query.order_by(unread_callbacks.c.id).limit(PAGE_MAX))

    async def lately(self, since_ms: int, most: int) -> tuple[int, list[str]]:
        """Count those that came since then and that an operator has to look at; and name the tasks of the newest of them, each once."""
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

        Returns:
            False when it was applied or dismissed before, or is kept no longer.

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
        self, one: Unread, job_id: str, outcome: str, reason: str, by: str, output: JsonValue
    ) -> Change[ApplyResult]:
        """End a job as the provider of a callback would have ended it, and mark the callback, in one transaction.

        Returns:
            `ended`: the job has ended by it. `late`: it had expired, and the outcome is kept beside its refund. `history`: it has ended
            otherwise. `waiting`: it holds no slot. `unknown`: the pool has no such job. `spent`: the callback was applied or dismissed before.
            `gone`: the callback is kept no longer. Nothing is written but with the first two.

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
            heard = inbox.hear_by_hand(batch, one.pool, job_id, one.provider, outcome, error, output, why)
            if heard.result in (ApplyResult.ENDED, ApplyResult.LATE):
                mark = {"applied_at": now_ms(), "applied_by": by, "job_id": job_id, "outcome": outcome, "reason": reason}
                changed = unread_callbacks.update().where(unread_callbacks.c.id == one.id, _pending).values(**mark)
                batch.connection.execute(changed)
            return heard

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
    # The index alone answers this count; which of them are applied takes reading their bodies.
    # guard: unread-callbacks-are-bounded
    if connection.execute(sa.select(sa.func.count()).where(*of_both)).scalar_one() > PENDING_MAX:
        waiting = sa.select(table.c.id).where(*of_both, _pending).order_by(table.c.id.desc())
        first_too_many = waiting.limit(1).offset(PENDING_MAX).scalar_subquery()
        connection.execute(table.delete().where(*of_both, _pending, table.c.id <= first_too_many))


def _cut(text: str) -> str:
    return text if len(text) <= BODY_MAX else f"{text[:BODY_MAX]}\n[cut here: {len(text)} characters came]"


def waiting(connection: Connection, since_ms: int) -> dict[str, int]:
    """Count the callbacks since then that an operator has to look at, by provider."""
    table = unread_callbacks
    count = sa.select(table.c.provider, sa.func.count()).where(_waits, table.c.last_at > since_ms).group_by(table.c.provider)
    return {provider: found for provider, found in connection.execute(count)}


def about(connection: Connection, job_id: str, tasks: Sequence[tuple[str, str]]) -> list[Unread]:
    """Read those that were applied to a job, and those that name one of its tasks (provider and task_id)."""
    table = unread_callbacks
    wanted: sa.ColumnElement[bool] = table.c.job_id == job_id
    if tasks:
        wanted |= sa.tuple_(table.c.provider, table.c.task_id).in_(tasks)
    query = sa.select(*_columns).where(wanted).order_by(table.c.id).limit(PAGE_MAX)
    return [Unread(*row) for row in connection.execute(query)]


def forget(connection: Connection, *, jobs: Sequence[str] = (), before_ms: int | None = None) -> int:
    """Delete those that were applied to these jobs, or else all that nothing has happened to since then. Returns how many."""
    table = unread_callbacks
    wanted: sa.ColumnElement[bool] = table.c.job_id.in_(jobs)
    if before_ms is not None:
        wanted = (table.c.last_at < before_ms) & (_pending | (table.c.applied_at < before_ms))
    return connection.execute(table.delete().where(wanted)).rowcount
