"""All that SQL knows of one job, for whoever has to explain it: what happened, its money, who was told what, what its provider
said. Read at one moment; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.sql.job_rows import find, is_holding, job_of, jobs_with_refund
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed, pools, tasks, webhooks
from gate.ledger.transitions.unread_callbacks import Unread, about
from gate.model.job import Job

AHEAD_MAX = 1000
"""Waiters before the job that are named to whoever shows it; beyond it they are counted."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, or to its pool: what, when, by whom."""

    at: int
    kind: str
    by: str
    why: str | None
    fence: int | None


happened = sa.select(events.c.at, events.c.kind, events.c.by, events.c.why, events.c.fence)
"""The columns of an Event, in its order."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What somebody changed of a pool, in one piece: `kind` is `limit` (`what` is the number), `setting` (`what` is its name and
    value), `paused` or `resumed`.
    """

    at: int
    kind: str
    what: str | None
    by: str
    reason: str | None


def as_changes(events: Sequence[Event]) -> list[Changed]:
    """Of a pool's events, the newest first, where a reason stands before all that was changed for it."""
    found, reason = [], None
    for one in events:
        if one.kind == "reason":
            reason = one
        elif one.kind in ("limit", "setting"):
            said = reason.why if reason is not None and reason.at == one.at else None
            found.append(Changed(one.at, one.kind, one.why, one.by, said))
        else:
            found.append(Changed(one.at, one.kind, None, one.by, one.why))
    return found


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """A call that gate owed, or owes, to a tool. `result` is None until it is done; `due_at` (ms) is when it is tried next."""

    at: int
    kind: str
    type: str
    tool: str
    attempts: int
    due_at: int
    done_at: int | None
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class IncomingCallback:
    """A callback of a provider. `verdict` as in `gate.ledger.inbox`; `body` is what it sent, word for word, while that is kept."""

    at: int
    provider: str
    task_id: str | None
    outcome: str
    error: str | None
    verdict: str
    body: str | None


@dataclass(frozen=True, slots=True)
class OwedRefund:
    """A refund that the owner's function has not paid."""

    amount: int
    since: int
    due_at: int
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    at: int
    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class JobTimeline:
    """`holders` and `ahead` are those of its pool and those before it, as SQL has the line, for a job that is live; `ahead_count`
    counts all of them, `queued` those behind it too. `pause` is who paused the pool, while it is paused. `unread` are callbacks that
    could not be read and name one of its tasks, or were applied to it.
    """

    job: Job
    pruned_at: int | None
    limit: int
    events: list[Event]
    money: list[LedgerEntry]
    debt: OwedRefund | None
    told: list[OutgoingCall]
    heard: list[IncomingCallback]
    unread: list[Unread]
    holders: list[str]
    ahead: list[str]
    ahead_count: int
    queued: int
    pause: Event | None


class Timelines:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, job_id: str) -> JobTimeline | None:
        """None when SQL knows no such job, in any pool."""
        return await self._database.read(lambda connection: _story(connection, job_id))

    async def of_task(self, task_id: str) -> str | None:
        """The job that was bound to this task last, at whichever provider."""
        return await self._database.read(lambda connection: connection.execute(_of_task, {"task_id": task_id}).scalar())

    async def of_user(self, user: str, most: int) -> list[Job]:
        """The live ones first, then the newest."""
        query = jobs_with_refund.where(jobs.c.user == user).order_by(jobs.c.ended_at.is_not(None), jobs.c.enqueued_at.desc())
        return await self._database.read(lambda c: [job_of(row) for row in c.execute(query.limit(most))])

    async def changes(self, pool: str, most: int) -> list[Event]:
        """What somebody did to the pool, the newest first: `limit` (`why` is the number), `setting` (`why` is its name and value),
        `reason` of those before it, `paused`, `resumed`.
        """
        query = happened.where(events.c.job_id.is_(None), events.c.pool == pool).order_by(events.c.id.desc()).limit(most)
        return await self._database.read(lambda c: [Event(*row) for row in c.execute(query)])


_first = sa.select(sa.func.min(tasks.c.provider).label("name")).cte("providers", recursive=True)
_next = sa.select(sa.func.min(tasks.c.provider)).where(tasks.c.provider > _first.c.name).scalar_subquery()
_providers = _first.union_all(sa.select(_next).where(_first.c.name.is_not(None)))
"""Each provider once: tasks are found by provider first, and there are few of these."""
_of_task = (
    sa.select(tasks.c.job_id)
    .where(tasks.c.provider == _providers.c.name, tasks.c.task_id == sa.bindparam("task_id"))
    .order_by(tasks.c.at.desc())
    .limit(1)
)


def _story(connection: Connection, job_id: str) -> JobTimeline | None:
    job = find(connection, job_id)
    if job is None:
        return None

    def rows(query: sa.Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [(*row,) for row in connection.execute(query)]

    of_job = events.c.job_id == job_id
    money = sa.select(ledger.c.at, ledger.c.kind, ledger.c.amount).where(ledger.c.job_id == job_id).order_by(ledger.c.id)
    debt = sa.select(owed.c.amount, owed.c.since, owed.c.due_at, owed.c.attempts, owed.c.error).where(owed.c.job_id == job_id)
    told = sa.select(*(deliveries.c[name] for name in OutgoingCall.__slots__)).where(deliveries.c.job_id == job_id)
    its_tasks = sa.select(tasks.c.provider, tasks.c.task_id).where(tasks.c.job_id == job_id)
    of_it = (webhooks.c.job_id == job_id) | sa.tuple_(webhooks.c.provider, webhooks.c.task_id).in_(its_tasks)
    heard = sa.select(*(webhooks.c[name] for name in IncomingCallback.__slots__)).where(of_it)
    pool = connection.execute(sa.select(pools.c.limit, pools.c.paused).where(pools.c.name == job.pool)).one()
    paused = happened.where(events.c.job_id.is_(None), events.c.pool == job.pool, events.c.kind == "paused")
    waits = (jobs.c.pool == job.pool) & jobs.c.ended_at.is_(None) & (jobs.c.status == "queued")
    before = waits & (jobs.c.ticket < job.ticket)
    holders, ahead, count, queued = [], [], 0, 0
    if not job.ended:
        held = sa.select(jobs.c.job_id).where(jobs.c.pool == job.pool, is_holding).order_by(jobs.c.expires_at)
        holders = [row[0] for row in rows(held)]
    if job.status == "queued":
        ahead = [row[0] for row in rows(sa.select(jobs.c.job_id).where(before).order_by(jobs.c.ticket).limit(AHEAD_MAX))]
        count = connection.execute(sa.select(sa.func.count()).where(before)).scalar_one()
        queued = connection.execute(sa.select(sa.func.count()).where(waits)).scalar_one()
    pause = rows(paused.order_by(events.c.id.desc()).limit(1)) if pool.paused else []
    return JobTimeline(
        job,
        connection.execute(sa.select(jobs.c.pruned_at).where(jobs.c.job_id == job_id)).scalar_one(),
        pool.limit,
        [Event(*row) for row in rows(happened.where(of_job).order_by(events.c.id))],
        [LedgerEntry(*row) for row in rows(money)],
        next((OwedRefund(*row) for row in rows(debt)), None),
        [OutgoingCall(*row) for row in rows(told.order_by(deliveries.c.id))],
        [IncomingCallback(*row) for row in rows(heard.order_by(webhooks.c.id))],
        about(connection, job_id, rows(its_tasks)),
        holders,
        ahead,
        count,
        queued,
        next((Event(*row) for row in pause), None),
    )
