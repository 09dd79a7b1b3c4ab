"""Bindings of jobs to tasks of providers, while the job runs and after it has ended.

A task belongs to one lease of one job for ever. A task that is named when its job is over runs for no job, so its stop is owed in the
transaction that records it.
"""

from __future__ import annotations

from typing import NamedTuple

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import BindResult, Change
from gate.ledger.sql.tables import tasks
from gate.ledger.transitions import inbox, jobs, questions
from gate.model.account import Account, Accounts
from gate.model.job import Job
from gate.model.tool import Tools


class Binding(NamedTuple):
    """A task that a caller or a tool names.

    Attributes:
        lease_id: The lease that has started it.
        provider: Name of the provider.
        task_id: The task.
        account: Name of the account on which it runs; None for the one that was chosen with the grant.
    """

    lease_id: str
    provider: str
    task_id: str
    account: str | None = None


def bind(batch: UnitOfWork, job: Job | None, named: Binding, accounts: Accounts, tools: Tools) -> Change[BindResult]:
    """Bind the lease of a running job to a task. A lease may get another task; then only the newer one counts.

    Args:
        batch: Has locked the pool's row.
        job: The job; None when the pool has none.
        named: The task.
        accounts: The accounts, at one of which gate asks about the task.
        tools: The tools, which say what failures are tried again.

    Returns:
        `lost` also for a job that has ended. Its task is kept then, and has to be stopped.
    """
    if job is None or job.lease_id != named.lease_id:
        return Change(BindResult.LOST, job)
    known = jobs.task(batch, named.provider, named.task_id)
    if known is not None and (known.job_id, known.lease_id) != (job.job_id, named.lease_id):
        return Change(BindResult.TAKEN, job)
    account = accounts.of(named.provider, job.pool, named.account or job.account)
    if known is not None and (job.provider, job.task_id) == (named.provider, named.task_id):
        if named.account is not None and account is not None and account.name != job.account:
            job = _move(batch, job, account)
        return Change(BindResult.REPEAT, job)
    if job.ended:  # guard: stop-a-task-that-is-named-too-late
        return Change(BindResult.LOST, bind_late(batch, job, named, account, tools))
    if job.status != "running":
        return Change(BindResult.LOST, job)
    return inbox.bound(batch, jobs.bind(batch, job, named.provider, named.task_id, account=account), tools)


def bind_late(batch: UnitOfWork, job: Job, named: Binding, account: Account | None, tools: Tools, by: str = "holder") -> Job:
    """Record a task whose lease is over. Reports about it are kept, and its stop is owed.

    Args:
        batch: Has locked the pool's row.
        job: The job. It has ended, or it waits or runs again by a newer lease.
        named: The task.
        account: Account at which gate stops it; None for none.
        tools: The tools, which say what failures are tried again.
        by: Actor for the history.

    Returns:
        The job. One that ended under this lease without a task is bound to it. A task that another lease has is left to it.
    """
    if jobs.task(batch, named.provider, named.task_id) is not None:  # guard: late-task-of-another-lease
        return job
    if job.ended and job.lease_id == named.lease_id and job.task_id is None:
        after = inbox.bound(batch, jobs.bind(batch, job, named.provider, named.task_id, by, account), tools)
        batch.forget_use(job.pool)
        return after.job or job
    at = batch.now_ms(job.pool)
    row = {"provider": named.provider, "task_id": named.task_id, "job_id": job.job_id, "lease_id": named.lease_id, "at": at}
    owed = questions.owed(batch, account) if account is not None else {}  # guard: stop-a-start-of-a-former-lease
    batch.connection.execute(tasks.insert().values(**row, **owed))
    batch.forget_use(job.pool)
    batch.event(job.pool, job.job_id, "task", by, at, why=f"{named.provider} {named.task_id}, of a lease that was over")
    return job


def _move(batch: UnitOfWork, job: Job, account: Account) -> Job:
    """Ask about the task of a job at another account from now on."""
    this = (tasks.c.provider == job.provider) & (tasks.c.task_id == job.task_id) & tasks.c.account.is_not(None)
    batch.connection.execute(tasks.update().where(this).values(account=account.name))
    batch.forget_use(job.pool)
    return batch.put(job, account=account.name)
