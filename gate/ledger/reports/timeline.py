"""Read all that SQL knows of one job, to explain it: events, ledger entries, calls to its tool, reports of its provider.

All is read at one moment. Nothing here decides anything.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.reports.asked_tasks import Asked, asked
from gate.ledger.reports.provider_troubles import ASKED
from gate.ledger.reports.refused_jobs import RefusedJob, refused_jobs
from gate.ledger.sql.job_rows import find, is_holding, job_of, jobs_with_refund
from gate.ledger.sql.tables import deliveries, events, jobs, ledger, owed, pools, tasks, webhooks
from gate.ledger.transitions.unread_callbacks import Unread, about
from gate.model.job import EndStatus, Job

AHEAD_MAX = 1000
"""Waiters before the job whose IDs are listed. The others are only counted."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event in the history of a job or of a pool.

    Attributes:
        at: When (ms since 1970).
        kind: What happened.
        by: Actor.
        why: Reason; None without one.
        fence: Fence of the grant; None when it is about no grant.
    """

    at: int
    kind: str
    by: str
    why: str | None
    fence: int | None


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a pool or of one of its jobs, with its place in the order of all events.

    Attributes:
        id: ID, drawn before the commit. Of two events the later one may have the lower ID.
        at: When (ms since 1970).
        job_id: The job; None when it is about the pool.
        kind: What happened.
        why: Reason; None without one.
    """

    id: int
    at: int
    job_id: str | None
    kind: str
    why: str | None


happened = sa.select(events.c.at, events.c.kind, events.c.by, events.c.why, events.c.fence)
"""Selects the columns of an Event, in its order."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of a pool.

    Attributes:
        at: When (ms since 1970).
        kind: `limit`, `setting`, `paused`, `resumed`, `deleted` or `clock_stepped`.
        what: The number for `limit`, name and value for `setting`, else None.
        by: Actor.
        reason: Reason that the actor gave, or the step of the clock; None without one.
    """

    at: int
    kind: str
    what: str | None
    by: str
    reason: str | None


def as_changes(events: Sequence[Event]) -> list[Changed]:
    """Convert a pool's events to changes. A reason is an event of its own, before the changes that it belongs to.

    Args:
        events: Events of a pool, the newest first.
    """
    found, reason = [], None
    for one in events:
        if one.kind == "reason":
            reason = one
        elif one.kind in ("limit", "setting"):
            its_reason = reason.why if reason is not None and reason.at == one.at else None
            found.append(Changed(one.at, one.kind, one.why, one.by, its_reason))
        else:
            found.append(Changed(one.at, one.kind, None, one.by, one.why))
    return found


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """A call that gate has to make to a tool, or has made.

    Attributes:
        at: When it was written (ms since 1970).
        kind: `start` or `event`.
        type: Type of the message, such as `job.completed`.
        tool: Tool to call.
        attempts: Number of attempts.
        due_at: When it is tried next (ms since 1970).
        done_at: When it was done (ms since 1970); None before.
        result: How it ended; None before.
        error: What went wrong last; None when nothing did.
    """

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
    """A callback of a provider.

    Attributes:
        at: When it came (ms since 1970).
        provider: Name of the provider.
        task_id: Its task; None when it names the job.
        outcome: Outcome that it reports.
        error: Error that it reports; None without one.
        verdict: What it did, a value of CallbackResult.
        body: The body as it came; None when it is kept no longer.
    """

    at: int
    provider: str
    task_id: str | None
    outcome: EndStatus
    error: str | None
    verdict: str
    body: str | None

    @property
    def is_answer(self) -> bool:
        """The answer to a question of gate brought the end, and no callback did."""
        return self.body is not None and self.body.startswith(ASKED.removesuffix("%"))


@dataclass(frozen=True, slots=True)
class OwedRefund:
    """A refund that the owner's function has not paid.

    Attributes:
        amount: Credits.
        since: When the job ended (ms since 1970).
        due_at: When the payment is tried next (ms since 1970).
        attempts: Number of attempts.
        error: Why the last attempt failed; None before the first.
    """

    amount: int
    since: int
    due_at: int
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A ledger entry of the job.

    Attributes:
        at: When (ms since 1970).
        kind: `charge` or `refund`.
        amount: Credits.
    """

    at: int
    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class JobTimeline:
    """All that SQL knows of a job. What concerns the queue is read only while the job is live.

    Attributes:
        job: The job.
        pruned_at: When it was pruned (ms since 1970); None before.
        limit: Slots of its pool.
        events: Its history, the oldest first.
        money: Its ledger entries, the oldest first.
        debt: Its refund, while the owner's function has not paid it.
        told: Calls to its tool, the oldest first.
        heard: Callbacks about it or its tasks, the oldest first.
        unread: Callbacks that could not be read and name one of its tasks, or were applied to it.
        holders: Jobs that hold slots of its pool.
        ahead: Jobs that wait before it, at most AHEAD_MAX.
        ahead_count: Number of all jobs that wait before it.
        queued: Number of jobs that wait, before it and behind it.
        pause: Event by which the pool was paused, while it is.
        refused: Jobs of the pool that their provider always refuses, while others are started.
        asked: What the provider says of its current task; None when gate does not ask about it.
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
    refused: list[RefusedJob]
    asked: Asked | None


class Timelines:
    """Queries for histories. Each raises StoreDown when SQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, job_id: str) -> JobTimeline | None:
        """Return the timeline of a job; None when SQL has no such job in any pool."""
        return await self._database.read(lambda connection: _timeline(connection, job_id))

    async def of_task(self, task_id: str) -> str | None:
        """Return the job that was bound to this task last, at any provider; None when no job was."""
        return await self._database.read(lambda connection: connection.execute(_of_task, {"task_id": task_id}).scalar())

    async def of_user(self, user: str, most: int) -> list[Job]:
        """Return jobs of a user, the live ones first, then the newest.

        Args:
            user: The user.
            most: Number of jobs at most.
        """
        of_user = jobs_with_refund.where(jobs.c.user == user)
        # Two queries, each by an index: one would sort all jobs that the user ever had. The sum lets no order of an index look
        # cheaper than the index of the live jobs, which are few.
        first = of_user.where(jobs.c.ended_at.is_(None)).order_by((jobs.c.enqueued_at + 0).desc())
        then = of_user.where(jobs.c.ended_at.is_not(None)).order_by(jobs.c.enqueued_at.desc())

        def look(connection: Connection) -> list[Job]:
            live = connection.execute(first.limit(most)).all()
            ended = connection.execute(then.limit(most - len(live))).all()
            return [job_of(row) for row in (*live, *ended)]

        return await self._database.reports.read(look)

    async def changes(self, pool: str, most: int) -> list[Event]:
        """Return the changes of a pool, the newest first. `as_changes` groups them with their reasons.

        Args:
            pool: Name of the pool.
            most: Number of events at most.

        Returns:
            Events of the kinds `limit` (`why` is the number), `setting` (`why` is its name and value), `reason`, `paused`,
            `resumed`, `deleted`, `clock_stepped` (`why` is the step).
        """
        query = happened.where(events.c.job_id.is_(None), events.c.pool == pool).order_by(events.c.id.desc()).limit(most)
        return await self._database.reports.read(lambda c: [Event(*row) for row in c.execute(query)])

    async def newest(self) -> int:
        """Return the highest ID of all events; 0 when there is none."""
        return await self._database.read(lambda c: c.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)

    async def after(self, pool: str, event_id: int, most: int) -> list[Happening]:
        """Return what happened in a pool and to its jobs after an event, the oldest first.

        Args:
            pool: Name of the pool.
            event_id: ID of the event.
            most: Number of events at most. The newest are returned.
        """
        columns = (events.c[name] for name in Happening.__slots__)
        query = (
            sa.select(*columns).where(events.c.pool == pool, events.c.id > event_id).order_by(events.c.id.desc()).limit(most)
        )
        return await self._database.read(lambda c: [Happening(*row) for row in reversed(c.execute(query).all())])


_first = sa.select(sa.func.min(tasks.c.provider).label("name")).cte("providers", recursive=True)
_next = sa.select(sa.func.min(tasks.c.provider)).where(tasks.c.provider > _first.c.name).scalar_subquery()
_providers = _first.union_all(sa.select(_next).where(_first.c.name.is_not(None)))
"""Each provider once. The index of tasks begins with the provider, and there are few of these."""
_of_task = (
    sa.select(tasks.c.job_id)
    .where(tasks.c.provider == _providers.c.name, tasks.c.task_id == sa.bindparam("task_id"))
    .order_by(tasks.c.at.desc())
    .limit(1)
)


def _timeline(connection: Connection, job_id: str) -> JobTimeline | None:
    job = find(connection, job_id)
    if job is None:
        return None

    rows = functools.partial(_rows, connection)
    of_job = events.c.job_id == job_id
    money = sa.select(ledger.c.at, ledger.c.kind, ledger.c.amount).where(ledger.c.job_id == job_id).order_by(ledger.c.id)
    debt = sa.select(owed.c.amount, owed.c.since, owed.c.due_at, owed.c.attempts, owed.c.error).where(owed.c.job_id == job_id)
    calls = sa.select(*(deliveries.c[name] for name in OutgoingCall.__slots__)).where(deliveries.c.job_id == job_id)
    its_tasks = sa.select(tasks.c.provider, tasks.c.task_id).where(tasks.c.job_id == job_id)
    of_it = (webhooks.c.job_id == job_id) | sa.tuple_(webhooks.c.provider, webhooks.c.task_id).in_(its_tasks)
    callbacks = sa.select(*(webhooks.c[name] for name in IncomingCallback.__slots__)).where(of_it)
    settings = sa.select(pools.c.limit, pools.c.paused, pools.c.refusals_before_passing)
    pool = connection.execute(settings.where(pools.c.name == job.pool)).one()
    paused = happened.where(events.c.job_id.is_(None), events.c.pool == job.pool, events.c.kind == "paused")
    pause = rows(paused.order_by(events.c.id.desc()).limit(1)) if pool.paused else []
    return JobTimeline(
        job,
        connection.execute(sa.select(jobs.c.pruned_at).where(jobs.c.job_id == job_id)).scalar_one(),
        pool.limit,
        [Event(*row) for row in rows(happened.where(of_job).order_by(events.c.id))],
        [LedgerEntry(*row) for row in rows(money)],
        next((OwedRefund(*row) for row in rows(debt)), None),
        [OutgoingCall(*row) for row in rows(calls.order_by(deliveries.c.id))],
        [IncomingCallback(*row) for row in rows(callbacks.order_by(webhooks.c.id))],
        about(connection, job_id, rows(its_tasks)),
        *_others(connection, job),
        next((Event(*row) for row in pause), None),
        [] if job.ended else refused_jobs(connection, job.pool, pool.refusals_before_passing),
        asked(connection, job.provider, job.task_id) if job.provider is not None and job.task_id is not None else None,
    )


def _others(connection: Connection, job: Job) -> tuple[list[str], list[str], int, int]:
    """Return the jobs that hold the slots, the first ones ahead of a waiter, how many are ahead, and how many wait."""
    holders, ahead, count, queued = [], [], 0, 0
    waits = (jobs.c.pool == job.pool) & jobs.c.ended_at.is_(None) & (jobs.c.status == "queued")
    before = waits & (jobs.c.ticket < job.ticket)
    if not job.ended:
        held = sa.select(jobs.c.job_id).where(jobs.c.pool == job.pool, is_holding).order_by(jobs.c.expires_at)
        holders = [row[0] for row in connection.execute(held)]
    if job.status == "queued":
        first = sa.select(jobs.c.job_id).where(before).order_by(jobs.c.ticket).limit(AHEAD_MAX)
        ahead = [row[0] for row in connection.execute(first)]
        count = connection.execute(sa.select(sa.func.count()).where(before)).scalar_one()
        queued = connection.execute(sa.select(sa.func.count()).where(waits)).scalar_one()
    return holders, ahead, count, queued


def _rows(connection: Connection, query: sa.Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row,) for row in connection.execute(query)]
