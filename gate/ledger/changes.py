"""How rows change: a job is admitted, takes a slot, ends with its refund. Called inside a transaction that holds the pool's
row, after the caller has compared; each change is written down in `events` too.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.jobs import REFUNDED, Job, Lease, Request, now_ms
from gate.ledger.rows import find
from gate.ledger.tables import events, jobs, ledger, tasks


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
    }


def take(connection: Connection, job: Job, lease: Lease, status: str, by: str) -> None:
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
    if outcome in REFUNDED and job.credits:
        book(connection, job.job_id, job.user, job.pool, "refund", job.credits, at)
    event(connection, job.pool, job.job_id, outcome, by, at, fence=job.fence or None, why=reason)
    ended = find(connection, job.job_id)
    assert ended is not None
    return ended


def task(connection: Connection, provider: str, task_id: str) -> Any:
    """The row of a provider's task; None when it is not bound."""
    query = sa.select(tasks).where(tasks.c.provider == provider, tasks.c.task_id == task_id)
    return connection.execute(query).first()


def bind(connection: Connection, job: Job, provider: str, task_id: str) -> Job:
    at = now_ms()
    if task(connection, provider, task_id) is None:
        row = {"provider": provider, "task_id": task_id, "job_id": job.job_id, "lease_id": job.lease_id, "at": at}
        connection.execute(tasks.insert().values(**row))
    put(connection, job.job_id, provider=provider, task_id=task_id)
    event(connection, job.pool, job.job_id, "task", "holder", at, fence=job.fence, why=f"{provider} {task_id}")
    bound = find(connection, job.job_id)
    assert bound is not None
    return bound


def keep_late(connection: Connection, job: Job, outcome: str) -> Job:
    """The refund stands; that the work was done after all is kept for whoever asks."""
    if job.late_outcome is not None:
        return job
    put(connection, job.job_id, late_outcome=outcome)
    event(connection, job.pool, job.job_id, "late", "holder", now_ms(), fence=job.fence, why=outcome)
    late = find(connection, job.job_id)
    assert late is not None
    return late


def put(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(jobs.update().where(jobs.c.job_id == job_id).values(**values))


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


def was(connection: Connection, job_id: str, kind: str) -> bool:
    """Whether an event of this kind is written down of the job."""
    query = sa.select(events.c.id).where(events.c.job_id == job_id, events.c.kind == kind).limit(1)
    return connection.execute(query).first() is not None
