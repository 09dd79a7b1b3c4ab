"""Calls that gate has to make to tools: start calls and events. The transaction of a change writes their rows.

A server takes a row by compare-and-set and may call until `taken_until`. No other server calls before that. Rows of one job
and kind go out in the order of their ids. That is the order of the changes, since each was written under the lock of the
pool's row.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import deliveries, jobs
from gate.model.job import Job, now_ms
from gate.model.job_json import job_body, moment
from gate.model.messages import DeliveryResult

PUT_OFF_MAX_MS = 600_000
"""Longest time (ms) until the next attempt of a call. A due time further away was written before the clock was set back."""
GIVE_UP_MS = 24 * 3600 * 1000
"""Age (ms) after which a call that keeps failing is given up."""
Lane = tuple[str, str]
"""A tool and a kind of call. Calls of one lane never wait for another lane."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call to make.

    Attributes:
        id: ID of the row.
        webhook_id: ID of the message for the tool, the same at each attempt.
        job_id: The job that it is about.
        pool: Pool of the job.
        tool: Tool to call.
        kind: `start` or `event`.
        type: Type of the message, such as `job.completed`.
        body: JSON of the message, the same at each attempt.
        attempts: Number of attempts, with this one.
        lease_id: Lease of the grant that a start call is about; None for an event.
    """

    id: int
    webhook_id: str
    job_id: str
    pool: str
    tool: str
    kind: str
    type: str
    body: str
    attempts: int
    lease_id: str | None

    @property
    def lane(self) -> Lane:
        """The lane of this call."""
        return self.tool, self.kind


def owe(batch: UnitOfWork, job: Job, at: int) -> Job:
    """Write the calls to the tool that the job's status requires: an event, a start call, or none.

    Args:
        batch: Has locked the pool's row.
        job: The job, whose status has just changed.
        at: When it changed (ms since 1970).

    Returns:
        The same job.
    """
    if job.tells:
        _add(batch, job, "event", f"job.{job.status}", at)
    if job.starts and job.status == "granted":
        _add(batch, job, "start", "job.start", at)
    return job


def owe_late(batch: UnitOfWork, job: Job, at: int) -> None:
    """Write the event that a provider's report came after the end of its job.

    Args:
        batch: Has locked the pool's row.
        job: The job.
        at: When the report came (ms since 1970).
    """
    if job.tells:
        _add(batch, job, "event", "job.late", at)


def take(connection: Connection, by: str, hold_ms: Mapping[str, int], room: Mapping[Lane, int]) -> list[Delivery]:
    """Take calls that are due. A start call whose grant is over is closed instead.

    Args:
        connection: A connection in a transaction.
        by: Name of this server.
        hold_ms: How long to hold a call (ms), by kind.
        room: Number of calls to take at most, by lane.
    """
    now = clock_ms(connection)
    due = sa.or_(deliveries.c.due_at <= now, deliveries.c.due_at > now + PUT_OFF_MAX_MS)
    waiting = sa.select(deliveries.c.tool, deliveries.c.kind).where(_undone, due).distinct()
    taken = []
    for tool, kind in connection.execute(waiting).all():
        if room.get((tool, kind), 0) <= 0:
            continue
        for row in connection.execute(_due, {"tool": tool, "kind": kind, "now": now, "most": room[tool, kind]}).all():
            if kind == "start" and (row.status != "granted" or row.job_fence != row.fence):  # guard: start-only-a-live-grant
                close(
                    connection, row.id, DeliveryResult.OVER, row.error
                )  # the grant is over: a job started now would hold no slot
                continue
            held = {"taken_by": by, "taken_until": now + hold_ms[kind], "attempts": row.attempts + 1}
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(**held))
            lease_id = row.lease_id if kind == "start" else None
            one = (row.id, row.webhook_id, row.job_id, row.pool, tool, kind, row.type, row.body, row.attempts + 1, lease_id)
            taken.append(Delivery(*one))
    return taken


def close(connection: Connection, delivery_id: int, result: DeliveryResult, error: str | None = None) -> None:
    """Mark a call as done, and delete its body.

    Args:
        connection: A connection in a transaction.
        delivery_id: ID of the row.
        result: How it ended.
        error: What went wrong; None when nothing did.
    """
    done = {"done_at": now_ms(), "result": result.value, "error": error, "body": None, "taken_by": None, "taken_until": None}
    connection.execute(deliveries.update().where(deliveries.c.id == delivery_id, _undone).values(**done))


def put_off(connection: Connection, delivery_id: int, by: str, wait_ms: int, error: str) -> bool:
    """Make a call due again later, or give it up when it is too old.

    Args:
        connection: A connection in a transaction.
        delivery_id: ID of the row.
        by: Name of this server. A row that another server holds is left alone.
        wait_ms: Time until the next attempt (ms).
        error: What went wrong.

    Returns:
        False when it was given up.
    """
    now = clock_ms(connection)
    mine = deliveries.c.id == delivery_id, deliveries.c.taken_by == by, _undone
    row = connection.execute(sa.select(deliveries.c.at, deliveries.c.kind).where(*mine)).first()
    if row is not None and now - row.at > GIVE_UP_MS:
        close(connection, delivery_id, DeliveryResult.GIVEN_UP, error)
        return False
    free = {"taken_by": None, "taken_until": None, "due_at": now + min(wait_ms, PUT_OFF_MAX_MS), "error": error}
    connection.execute(deliveries.update().where(*mine).values(**free))
    return True


def keep(connection: Connection, delivery_id: int, by: str, hold_ms: int) -> None:
    """Hold a row for longer, because its call is still under way.

    Args:
        connection: A connection in a transaction.
        delivery_id: ID of the row.
        by: Name of this server. A row that another server holds is left alone.
        hold_ms: How long to hold it from now (ms).
    """
    mine = deliveries.c.id == delivery_id, deliveries.c.taken_by == by, _undone
    connection.execute(deliveries.update().where(*mine).values(taken_until=clock_ms(connection) + hold_ms))


def free(connection: Connection, by: str) -> None:
    """Make the calls due again that this server held when it died. Only one living process has its name.

    Args:
        connection: A connection in a transaction.
        by: Name of this server.
    """
    gone = deliveries.update().where(_undone, deliveries.c.taken_by == by)
    connection.execute(gone.values(taken_by=None, taken_until=None))


def _placed(batch: UnitOfWork, job: Job) -> Job:
    """Return the job with its place in the queue by SQL's order, if it waits."""
    if job.status != "queued":
        return job
    waits = (jobs.c.pool == job.pool) & jobs.c.ended_at.is_(None) & (jobs.c.status == "queued")
    before = sa.func.coalesce(sa.func.sum(sa.case((jobs.c.ticket < job.ticket, 1), else_=0)), 0)
    count, ahead = batch.connection.execute(sa.select(sa.func.count(), before).where(waits)).one()
    return job._replace(position=int(ahead) + 1, queue_length=count)


def _add(batch: UnitOfWork, job: Job, kind: str, type_: str, at: int) -> None:
    body = json.dumps({"type": type_, "timestamp": moment(at), "data": job_body(_placed(batch, job))}, ensure_ascii=False)
    batch.add(
        deliveries, webhook_id=f"msg_{secrets.token_hex(16)}", job_id=job.job_id, tool=job.tool, kind=kind, type=type_,
        fence=job.fence, body=body, at=at, due_at=0, attempts=0,
    )  # fmt: skip


_undone = deliveries.c.done_at.is_(None)
_earlier = deliveries.alias("earlier")
_due = (
    sa.select(deliveries, jobs.c.pool, jobs.c.status, jobs.c.lease_id, jobs.c.fence.label("job_fence"))
    .join(jobs, jobs.c.job_id == deliveries.c.job_id)
    .where(
        _undone,
        deliveries.c.tool == sa.bindparam("tool"),
        deliveries.c.kind == sa.bindparam("kind"),
        sa.or_(
            deliveries.c.due_at <= sa.bindparam("now"),
            deliveries.c.due_at > sa.bindparam("now") + PUT_OFF_MAX_MS,  # guard: call-is-due-after-the-clock-went-back
        ),
        # guard: delivery-taken-by-one-server
        sa.or_(deliveries.c.taken_until.is_(None), deliveries.c.taken_until <= sa.bindparam("now")),
        ~sa.exists().where(  # guard: events-of-a-job-in-order
            _earlier.c.job_id == deliveries.c.job_id,
            _earlier.c.kind == deliveries.c.kind,
            _earlier.c.done_at.is_(None),
            _earlier.c.id < deliveries.c.id,
        ),
    )
    .order_by(deliveries.c.id)
    .limit(sa.bindparam("most"))
    .with_for_update(of=deliveries, skip_locked=True)
)


class Deliveries:
    """The functions above, each in a transaction of its own. Its methods raise StoreDown when SQL cannot take the change."""

    def __init__(self, database: Database, by: str) -> None:
        """Act for one server.

        Args:
            database: The ledger's database.
            by: Name of this server, which no other living server has.
        """
        self._database, self._by = database, by

    async def free(self) -> None:
        """Make the calls due again that this server held when it died."""
        await self._database.write("", "", lambda batch: free(batch.connection, self._by))

    async def take(self, hold_ms: Mapping[str, int], room: Mapping[Lane, int]) -> list[Delivery]:
        """Take calls that are due.

        Args:
            hold_ms: How long to hold a call (ms), by kind.
            room: Number of calls to take at most, by lane.
        """
        return await self._database.write("", "", lambda batch: take(batch.connection, self._by, hold_ms, room))

    async def keep(self, delivery: Delivery, hold_ms: int) -> None:
        """Hold a row for longer, because its call is still under way.

        Args:
            delivery: The call.
            hold_ms: How long to hold it from now (ms).
        """
        await self._database.write(
            delivery.pool, delivery.job_id, lambda batch: keep(batch.connection, delivery.id, self._by, hold_ms)
        )

    async def close(self, delivery: Delivery, result: DeliveryResult, error: str | None = None) -> None:
        """Mark a call as done.

        Args:
            delivery: The call.
            result: How it ended.
            error: What went wrong; None when nothing did.
        """
        await self._database.write(
            delivery.pool, delivery.job_id, lambda batch: close(batch.connection, delivery.id, result, error)
        )

    async def put_off(self, delivery: Delivery, wait_ms: int, error: str) -> bool:
        """Make a call due again later, or give it up when it is too old.

        Args:
            delivery: The call.
            wait_ms: Time until the next attempt (ms).
            error: What went wrong.

        Returns:
            False when it was given up.
        """
        return await self._database.write(
            delivery.pool, delivery.job_id, lambda batch: put_off(batch.connection, delivery.id, self._by, wait_ms, error)
        )
