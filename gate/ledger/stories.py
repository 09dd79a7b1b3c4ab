"""Everything that is kept about one job, one user, one pool's settings: for whoever wants to know why."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import Job
from gate.ledger.database import Database
from gate.ledger.rows import job_of, jobs_with_refund
from gate.ledger.tables import deliveries, events, jobs, owed, tasks, webhooks

CALLBACKS = 20
DELIVERIES = 50
"""Shown of one job; the newest."""


@dataclass(frozen=True, slots=True)
class Callback:
    """What a provider said: `body` as it came (None once there were too many), `verdict` what gate made of it."""

    at: int
    provider: str
    task_id: str | None
    outcome: str
    error: str | None
    body: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Call:
    """What gate owes or has told a tool. `due_at`: when it is tried next; `done_at` and `result` once it is over."""

    at: int
    tool: str
    kind: str
    type: str
    attempts: int
    due_at: int
    done_at: int | None
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Owed:
    """A refund that the owner's function has not paid yet, and what it said last."""

    since: int
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    callbacks: list[Callback]
    calls: list[Call]
    owed: Owed | None


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody did to a pool: `kind` is `limit` (`why` the number), `reason` of the limit before it, `paused` or `resumed`."""

    at: int
    kind: str
    by: str
    why: str | None


class Stories:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def kept(self, job_id: str) -> Kept:
        """Beside its history and the ledger."""
        its_tasks = sa.select(tasks.c.provider, tasks.c.task_id).where(tasks.c.job_id == job_id)
        about = (webhooks.c.job_id == job_id) | sa.tuple_(webhooks.c.provider, webhooks.c.task_id).in_(its_tasks)
        heard = sa.select(*(webhooks.c[name] for name in Callback.__slots__)).where(about)
        heard = heard.order_by(webhooks.c.id.desc()).limit(CALLBACKS)
        told = sa.select(*(deliveries.c[name] for name in Call.__slots__)).where(deliveries.c.job_id == job_id)
        told = told.order_by(deliveries.c.id.desc()).limit(DELIVERIES)
        due = sa.select(owed.c.since, owed.c.attempts, owed.c.error).where(owed.c.job_id == job_id)

        def work(connection: Connection) -> Kept:
            callbacks = [Callback(*row) for row in connection.execute(heard)][::-1]
            calls = [Call(*row) for row in connection.execute(told)][::-1]
            row = connection.execute(due).first()
            return Kept(callbacks, calls, Owed(*row) if row else None)

        return await self._database.read(work)

    async def of_user(self, user: str, most: int) -> list[Job]:
        """The live ones first, then the newest."""
        query = jobs_with_refund.where(jobs.c.user == user).order_by(jobs.c.ended_at.is_not(None), jobs.c.enqueued_at.desc())
        return await self._database.read(lambda c: [job_of(row) for row in c.execute(query.limit(most))])

    async def changes(self, pool: str, most: int) -> list[Change]:
        """Of the pool's settings, the newest first."""
        query = sa.select(events.c.at, events.c.kind, events.c.by, events.c.why)
        query = query.where(events.c.job_id.is_(None), events.c.pool == pool).order_by(events.c.id.desc()).limit(most)
        return await self._database.read(lambda c: [Change(*row) for row in c.execute(query)])
