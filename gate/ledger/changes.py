"""How rows change: a job is admitted, takes a slot, ends with its refund. Called inside a transaction that holds the pool's
row, after the caller has compared; each change is written down in `events` too.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import REFUNDED, Job, Lease, Request, now_ms
from gate.ledger import deliveries
from gate.ledger.rows import find
from gate.ledger.tables import events, jobs, ledger, owed, tasks


def new_row(pool: str, request: Request, ticket: int, at: int, lease_ms: int, lease: Lease | None) -> dict[str, Any]:
    return {
        "job_id": request.job_id,
        "pool": pool,
        "status": "running" if lease else "queued",
        "user": request.user,
        "tool": request.tool,
        "session": request.session,
        "credits": request.credits or 0,
        "payload": None if request.payload is None else json.dumps(request.payload),
        "ticket": ticket,
        "fence": lease.fence if lease else 0,
        "lease_id": lease.lease_id if lease else None,
        "lease_ms": lease_ms,
        "enqueued_at": at,
        "granted_at": lease.granted_at if lease else None,
        "expires_at": lease.due if lease else None,
        "hard_expires_at": lease.hard if lease else None,
        "starts": request.starts,
        "tells": request.tells,
        "settles": request.settles,
    }


def take(connection: Connection, job: Job, lease: Lease, status: str, by: str) -> Job:
    put(
        connection,
        job.job_id,
        status=status,
        fence=lease.fence,
        lease_id=lease.lease_id,
        granted_at=lease.granted_at,
        expires_at=lease.due,
        hard_expires_at=lease.hard,
        provider=None,
        task_id=None,
    )
    event(connection, job.pool, job.job_id, status, by, lease.granted_at, lease)
    return told(connection, job.job_id, lease.granted_at)


def end(
    connection: Connection,
    job: Job,
    outcome: str,
    by: str,
    reason: str | None,
    error: str | None = None,
    output: Any = None,
    at: int | None = None,
) -> Job:
    at = now_ms() if at is None else at
    put(
        connection,
        job.job_id,
        status=outcome,
        ended_at=at,
        ended_by=by,
        end_reason=reason,
        error=error,
        output=None if output is None else json.dumps(output),
    )
    if outcome in REFUNDED and job.credits and job.settles:
        owe(connection, job, at)
    elif outcome in REFUNDED and job.credits:
        book(connection, job.job_id, job.user, job.pool, "refund", job.credits, at)
    event(connection, job.pool, job.job_id, outcome, by, at, fence=job.fence or None, why=reason)
    return told(connection, job.job_id, at)


def task(connection: Connection, provider: str, task_id: str) -> Any:
    """The row of a provider's task; None when it is not bound."""
    query = sa.select(tasks).where(tasks.c.provider == provider, tasks.c.task_id == task_id)
    return connection.execute(query).first()


def bind(connection: Connection, job: Job, provider: str, task_id: str, by: str = "holder") -> Job:
    at = now_ms()
    if task(connection, provider, task_id) is None:
        row = {"provider": provider, "task_id": task_id, "job_id": job.job_id, "lease_id": job.lease_id, "at": at}
        connection.execute(tasks.insert().values(**row))
    put(connection, job.job_id, provider=provider, task_id=task_id)
    event(connection, job.pool, job.job_id, "task", by, at, fence=job.fence, why=f"{provider} {task_id}")
    return _there(connection, job.job_id)


def keep_late(connection: Connection, job: Job, outcome: str, by: str = "holder") -> Job:
    """The refund stands; that the work was done after all is kept for whoever asks."""
    if job.late_outcome is not None:
        return job
    put(connection, job.job_id, late_outcome=outcome)
    event(connection, job.pool, job.job_id, "late", by, now_ms(), fence=job.fence, why=outcome)
    return _there(connection, job.job_id)


def put(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(jobs.update().where(jobs.c.job_id == job_id).values(**values))


def told(connection: Connection, job_id: str, at: int) -> Job:
    """The job as it is now that its status has changed; whoever has to be told of that will be."""
    job = _there(connection, job_id)
    deliveries.owe(connection, job, at)
    return job


def _there(connection: Connection, job_id: str) -> Job:
    job = find(connection, job_id)
    assert job is not None
    return job


def owe(connection: Connection, job: Job, at: int) -> None:
    """The owner's function pays this refund, in a transaction of its own: it may take its time, or fail."""
    row = {"job_id": job.job_id, "user": job.user, "pool": job.pool, "amount": job.credits, "since": at}
    connection.execute(owed.insert().values(**row, due_at=at, attempts=0))


def book(connection: Connection, job_id: str, user: str | None, pool: str, kind: str, amount: int, at: int) -> None:
    connection.execute(ledger.insert().values(at=at, job_id=job_id, user=user, pool=pool, kind=kind, amount=amount))


def event(
    connection: Connection,
    pool: str,
    job_id: str,
    kind: str,
    by: str,
    at: int,
    lease: Lease | None = None,
    fence: int | None = None,
    why: str | None = None,
) -> None:
    fence = lease.fence if lease else fence
    connection.execute(events.insert().values(at=at, pool=pool, job_id=job_id, kind=kind, fence=fence, by=by, why=why))


def seated(connection: Connection, job: Job) -> None:
    """Its place in the queue was lost and is given back by its ticket. Others may have had their turn meanwhile: whoever reads
    the history must not think that they overtook it.
    """
    event(connection, job.pool, job.job_id, "seated", "gate", now_ms(), why="its place in Redis was lost")


def say_ended(connection: Connection, job: Job) -> None:
    """Somebody ended the job in its row by hand. Its history has to say so too: whoever reads that would count its slot as taken
    for ever.
    """
    said = sa.select(events.c.id).where(events.c.job_id == job.job_id, events.c.kind == job.status)
    if connection.execute(said.limit(1)).first() is None:
        event(
            connection, job.pool, job.job_id, job.status, "operator", now_ms(), fence=job.fence or None, why="by hand, in SQL"
        )
