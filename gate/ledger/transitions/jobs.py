"""Changes of a job's row: it takes a slot, is bound to a task, or ends with its refund.

The caller has locked the pool's row and compared before. Each change also writes an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.tables import events, owed, tasks
from gate.ledger.transitions import capacity, deliveries, questions
from gate.model.account import Account
from gate.model.job import EndStatus, Job, JobStatus, Lease, Refund, now_ms


def take(batch: UnitOfWork, job: Job, lease: Lease, status: JobStatus, by: str) -> Job:
    """Give a queued job a lease.

    Args:
        batch: Has locked the pool's row.
        job: The job.
        lease: Its new lease.
        status: `granted` or `running`.
        by: Actor for the history.

    Returns:
        The changed job.
    """
    account = capacity.choose(batch, batch.pool(job.pool))  # guard: account-with-the-grant
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
        account=account,
    )
    batch.event(job.pool, job.job_id, status, by, lease.granted_at, lease.fence)
    return deliveries.owe(batch, job, lease.granted_at)


def give_grace(batch: UnitOfWork, pool: str, epoch: int, leases: Sequence[tuple[Job, int]]) -> None:
    """Give leases new deadlines, unless they have changed.

    Args:
        batch: A unit of work.
        pool: Name of the pool.
        epoch: Epoch of the rebuild that read the leases. With another one nothing is written.
        leases: Each job as it was read, with its new deadline (ms since 1970).
    """
    if batch.pool(pool).epoch != epoch:
        return
    for job, due in leases:
        now = batch.job(pool, job.job_id)
        if now is not None and (now.status, now.lease_id, now.expires_at) == (job.status, job.lease_id, job.expires_at):
            batch.put(now, expires_at=due)  # guard: grace-only-once


class Ending(NamedTuple):
    """How a job ends.

    Attributes:
        outcome: Its last status.
        by: Actor for the history.
        reason: Machine-readable reason, such as `lease_timeout`.
        error: Text for people.
        output: What the job produced.
        at: When it ended (ms since 1970); None for now.
        error_kind: Kind of the failure that its provider told; None for none.
    """

    outcome: EndStatus
    by: str
    reason: str | None = None
    error: str | None = None
    output: Any = None
    at: int | None = None
    error_kind: str | None = None


def end(batch: UnitOfWork, job: Job, ending: Ending) -> Job:
    """End a job, and book or owe its refund.

    Args:
        batch: Has locked the pool's row.
        job: The job, which is live.
        ending: How it ends.

    Returns:
        The ended job, with its refund.
    """
    outcome, by, reason, error, output, at, error_kind = ending
    at = batch.now_ms(job.pool) if at is None else at
    owed_back = job.is_refunded_by(outcome, by, reason)  # guard: no-refund-after-the-start
    refund = Refund(job.credits, None if job.settles else at, owed=job.settles) if owed_back else None
    job = batch.put(
        job, status=outcome, ended_at=at, ended_by=by, end_reason=reason, error=error, output=output, refund=refund,
        error_kind=error_kind,
    )  # fmt: skip
    if owed_back and job.settles:
        owe(batch, job, at)  # guard: refund-is-owed
    elif owed_back:
        batch.book(job.job_id, job.user, job.pool, "refund", job.credits, at)
    if job.account is not None and job.task_id is not None:
        questions.end(batch, job, is_over=by == "provider" or outcome == "completed")  # guard: stop-owed-with-the-end
    batch.event(job.pool, job.job_id, outcome, by, at, fence=job.fence or None, why=reason)
    return deliveries.owe(batch, job, at)


def cancel_waiting(batch: UnitOfWork, pool: str, job_ids: Sequence[str], ending: Ending) -> list[Job]:
    """End those of the jobs that wait. They are read by one statement, and written by a few.

    Args:
        batch: Of the request.
        pool: Name of the pool.
        job_ids: The jobs.
        ending: How they end.

    Returns:
        The jobs that this call has ended, with their refunds.
    """
    batch.pool(pool)
    batch.expect(pool, job_ids)
    found = (batch.job(pool, job_id) for job_id in job_ids)
    return [end(batch, job, ending) for job in found if job is not None and job.pool == pool and job.status == "queued"]


class BoundTask(NamedTuple):
    """A provider's task, and the lease that it is bound to.

    Attributes:
        job_id: The job.
        lease_id: The lease of the job that started the task.
    """

    job_id: str
    lease_id: str


def task(batch: UnitOfWork, provider: str, task_id: str) -> BoundTask | None:
    """Return the lease that a provider's task is bound to; None when the task is not bound."""
    query = sa.select(tasks.c.job_id, tasks.c.lease_id).where(tasks.c.provider == provider, tasks.c.task_id == task_id)
    row = batch.connection.execute(query).first()
    return None if row is None else BoundTask(*row)


def bind(batch: UnitOfWork, job: Job, provider: str, task_id: str, by: str = "holder", account: Account | None = None) -> Job:
    """Bind a job's lease to a provider's task.

    Args:
        batch: Has locked the pool's row.
        job: The job.
        provider: Name of the provider.
        task_id: The task.
        by: Actor for the history.
        account: Account at which gate asks about the task; None not to ask.

    Returns:
        The changed job.
    """
    at = batch.now_ms(job.pool)
    if task(batch, provider, task_id) is None:
        row = {"provider": provider, "task_id": task_id, "job_id": job.job_id, "lease_id": job.lease_id, "at": at}
        batch.connection.execute(tasks.insert().values(**row, **questions.first(batch, account, job)))
    else:
        questions.again(batch, account, job, provider, task_id)  # guard: ask-about-a-task-bound-again
    batch.event(job.pool, job.job_id, "task", by, at, fence=job.fence, why=f"{provider} {task_id}")
    bound = batch.put(job, provider=provider, task_id=task_id, account=account.name if account else job.account)
    if bound.account != job.account:
        batch.forget_use(job.pool)  # a later grant of this commit must count the task where it runs
    return bound


def keep_late(batch: UnitOfWork, job: Job, outcome: EndStatus, by: str, output: Any = None) -> Job:
    """Keep an outcome that came after the job had ended, with its output, and write the event `job.late` for its tool.

    The end and its refund stand. The first such outcome is kept, except that a success replaces a failure.

    Args:
        batch: Has locked the pool's row.
        job: The job, which has ended.
        outcome: The late outcome.
        by: Actor for the history.
        output: What the job produced.

    Returns:
        The changed job, or the same one when an earlier late outcome stands.
    """
    if job.late_outcome is not None and not (outcome == "completed" and job.late_outcome != "completed"):
        return job
    at = batch.now_ms(job.pool)
    batch.event(job.pool, job.job_id, "late", by, at, fence=job.fence, why=outcome)
    job = batch.put(job, late_outcome=outcome, late_output=output)
    deliveries.owe_late(batch, job, at)
    return job


def owe(batch: UnitOfWork, job: Job, at: int) -> None:
    """Write a refund that the owner's function has to pay. It may be slow or fail, so it is called in a later transaction.

    Args:
        batch: Has locked the pool's row.
        job: The job, which has ended.
        at: When it ended (ms since 1970).
    """
    due_at = min(at, now_ms())  # the payer goes by this machine's clock, and the pool's may be ahead of it
    row = {"job_id": job.job_id, "user": job.user, "pool": job.pool, "amount": job.credits, "since": at}
    batch.add(owed, **row, due_at=due_at, attempts=0)


def end_presence(batch: UnitOfWork, pool: str, job_id: str) -> Job | None:
    """Let a job need no further sign of its caller.

    Args:
        batch: Of the request.
        pool: Name of the pool.
        job_id: The job.

    Returns:
        The job as it is then; None when there is none.
    """
    batch.pool(pool)
    job = batch.job(pool, job_id)
    if job is None or job.ended or job.presence_ms is None:
        return job
    return batch.put(job, presence_ms=None)


def seated(batch: UnitOfWork, job: Job) -> None:
    """Add the event that a job's place in Redis was lost, and is restored by its ticket.

    Later jobs may have had a slot meanwhile. Without the event, a reader of the history would see them overtake this job.

    Args:
        batch: Has locked the pool's row.
        job: The job.
    """
    batch.event(job.pool, job.job_id, "seated", "gate", batch.now_ms(job.pool), why="its place in Redis was lost")


def say_ended(batch: UnitOfWork, job: Job) -> None:
    """Add the event of an end that an operator wrote directly into the job's row, unless it is there.

    Without the event, a reader of the history would count the job's slot as held for ever.

    Args:
        batch: Has locked the pool's row.
        job: The job, which has ended.
    """
    its_end = sa.select(events.c.id).where(events.c.job_id == job.job_id, events.c.kind == job.status)
    if batch.connection.execute(its_end.limit(1)).first() is None:
        batch.event(
            job.pool,
            job.job_id,
            job.status,
            "operator",
            batch.now_ms(job.pool),
            fence=job.fence or None,
            why="by hand, in SQL",
        )
