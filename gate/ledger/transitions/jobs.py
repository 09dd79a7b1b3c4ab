"""How rows change: a job is admitted, takes a slot, ends with its refund. Called inside a batch that holds the pool's row, after
the caller has compared; each change is written down in `events` too.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.tables import events, ledger, owed, tasks
from gate.ledger.transitions import deliveries
from gate.model.job import REFUNDED, Job, Lease, Refund, now_ms


def take(batch: UnitOfWork, job: Job, lease: Lease, status: str, by: str) -> Job:
    job = batch.put(
        job,
        status=status,
        fence=lease.fence,
        lease_id=lease.lease_id,
        granted_at=lease.granted_at,
        expires_at=lease.due,
        hard_expires_at=lease.hard,
        provider=None,
        task_id=None,
    )
    event(batch, job.pool, job.job_id, status, by, lease.granted_at, lease)
    return told(batch, job, lease.granted_at)


def end(
    batch: UnitOfWork,
    job: Job,
    outcome: str,
    by: str,
    reason: str | None,
    error: str | None = None,
    output: Any = None,
    at: int | None = None,
) -> Job:
    at = now_ms() if at is None else at
    owed_back = outcome in REFUNDED and job.credits > 0
    refund = Refund(job.credits, None if job.settles else at, owed=job.settles) if owed_back else None
    job = batch.put(
        job, status=outcome, ended_at=at, ended_by=by, end_reason=reason, error=error, output=output, refund=refund
    )
    if owed_back and job.settles:
        owe(batch, job, at)  # guard: refund-is-owed
    elif owed_back:
        book(batch, job.job_id, job.user, job.pool, "refund", job.credits, at)
    event(batch, job.pool, job.job_id, outcome, by, at, fence=job.fence or None, why=reason)
    return told(batch, job, at)


def task(batch: UnitOfWork, provider: str, task_id: str) -> Any:
    """The row of a provider's task; None when it is not bound."""
    query = sa.select(tasks).where(tasks.c.provider == provider, tasks.c.task_id == task_id)
    return batch.connection.execute(query).first()


def bind(batch: UnitOfWork, job: Job, provider: str, task_id: str, by: str = "holder") -> Job:
    at = now_ms()
    if task(batch, provider, task_id) is None:
        row = {"provider": provider, "task_id": task_id, "job_id": job.job_id, "lease_id": job.lease_id, "at": at}
        batch.connection.execute(tasks.insert().values(**row))
    event(batch, job.pool, job.job_id, "task", by, at, fence=job.fence, why=f"{provider} {task_id}")
    return batch.put(job, provider=provider, task_id=task_id)


def keep_late(batch: UnitOfWork, job: Job, outcome: str, by: str, output: Any = None) -> Job:
    """Keep an outcome that came after the job had ended, with its output, and owe its tool the event `job.late`.

    The end and its refund stand. The first such outcome is kept, except that a success replaces a failure.
    """
    if job.late_outcome is not None and not (outcome == "completed" and job.late_outcome != "completed"):
        return job
    at = now_ms()
    event(batch, job.pool, job.job_id, "late", by, at, fence=job.fence, why=outcome)
    job = batch.put(job, late_outcome=outcome, late_output=output)
    deliveries.owe_late(batch, job, at)
    return job


def told(batch: UnitOfWork, job: Job, at: int) -> Job:
    """The job, whose status has just changed; whoever has to be told of that will be."""
    deliveries.owe(batch, job, at)
    return job


def owe(batch: UnitOfWork, job: Job, at: int) -> None:
    """The owner's function pays this refund, in a transaction of its own: it may take its time, or fail."""
    row = {"job_id": job.job_id, "user": job.user, "pool": job.pool, "amount": job.credits, "since": at}
    batch.add(owed, **row, due_at=at, attempts=0)


def book(batch: UnitOfWork, job_id: str, user: str | None, pool: str, kind: str, amount: int, at: int) -> None:
    batch.add(ledger, at=at, job_id=job_id, user=user, pool=pool, kind=kind, amount=amount)


def event(
    batch: UnitOfWork,
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
    batch.add(events, at=at, pool=pool, job_id=job_id, kind=kind, fence=fence, by=by, why=why)


def seated(batch: UnitOfWork, job: Job) -> None:
    """Its place in the queue was lost and is given back by its ticket. Others may have had their turn meanwhile: whoever reads
    the history must not think that they overtook it.
    """
    event(batch, job.pool, job.job_id, "seated", "gate", now_ms(), why="its place in Redis was lost")


def say_ended(batch: UnitOfWork, job: Job) -> None:
    """Somebody ended the job in its row by hand. Its history has to say so too: whoever reads that would count its slot as taken
    for ever.
    """
    said = sa.select(events.c.id).where(events.c.job_id == job.job_id, events.c.kind == job.status)
    if batch.connection.execute(said.limit(1)).first() is None:
        event(batch, job.pool, job.job_id, job.status, "operator", now_ms(), fence=job.fence or None, why="by hand, in SQL")
