"""Record the answer to a start call: the job runs, is bound to its task, and the call is done, all in one transaction.

So a server that dies before the transaction repeats the call, and one that dies after it has nothing left to do.

A job may end while its start call is unanswered. Then a task may run at the provider that gate cannot name yet. The row of such a job has
the provider without a task, and its slot drains like that of a task that is being stopped. The answer names the task, or ends the drain.
"""

from __future__ import annotations

import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import BindResult, Change
from gate.ledger.sql import tables
from gate.ledger.transitions import bindings, deliveries, inbox, jobs
from gate.ledger.transitions.bindings import Binding
from gate.model.account import Accounts
from gate.model.job import Job
from gate.model.messages import DeliveryResult, StartReply
from gate.model.tool import Tools


def bound(batch: UnitOfWork, job: Job, started: StartReply, at: int, tools: Tools) -> Job:
    """Record the answer to a start call.

    Args:
        batch: Has locked the pool's row.
        job: The job, whose status has just become `running`.
        started: The answer.
        at: When the job began to run (ms since 1970).
        tools: The tools, which say what failures are tried again.

    Returns:
        The job. It may have ended already, or wait again, when the provider's report came before this answer.
    """
    error = None
    running = deliveries.owe(batch, job, at)
    if started.task_id is not None and started.provider is None:
        batch.event(job.pool, job.job_id, "task", "tool", at, fence=job.fence, why=started.task_id)
    elif started.task_id is not None and started.provider is not None:
        if jobs.task(batch, started.provider, started.task_id) is None:
            known = started.accounts
            account = known.of(started.provider, job.pool, job.account) if known is not None else None
            tasked = jobs.bind(batch, running, started.provider, started.task_id, "tool", account)
            after = inbox.bound(batch, tasked, tools)
            assert after.job is not None
            running = after.job
        else:
            error = f"task {started.task_id} of {started.provider} is another lease's"
            batch.event(job.pool, job.job_id, "task", "tool", at, fence=job.fence, why=error)
    deliveries.close(batch.connection, started.delivery_id, DeliveryResult.DELIVERED, error)
    return running


def leave_open(batch: UnitOfWork, before: Job, job: Job, accounts: Accounts, tools: Tools) -> Job:
    """Keep that the start call of a job which has just ended is unanswered. A call that was not made yet is closed.

    Args:
        batch: Has locked the pool's row.
        before: The job before its end.
        job: The job, which has ended.
        accounts: The accounts at providers. Without one for the job nothing is kept.
        tools: The tools, which name the provider that they start tasks at.

    Returns:
        The job. One whose start call is unanswered has a provider without a task.
    """
    no_task = job.status == "completed" or job.ended_by in ("tool", "provider")
    if before.status != "granted" or not job.starts or job.tool is None or no_task:
        return job
    call = tables.deliveries.c
    mine = sa.select(call.id, call.attempts).where(
        call.job_id == job.job_id, call.kind == "start", call.fence == job.fence, call.done_at.is_(None)
    )
    row = batch.connection.execute(mine.with_for_update()).first()  # a server that takes the call commits first
    if row is not None and not row.attempts:
        deliveries.close(batch.connection, row.id, DeliveryResult.OVER)
        return job
    account = accounts.of(tools[job.tool].provider, job.pool, job.account)
    if row is not None and account is not None:  # guard: drain-while-the-start-is-unanswered
        batch.forget_use(job.pool)
        job = batch.put(job, provider=account.provider, account=account.name)
    return job


def late(batch: UnitOfWork, pool: str, job_id: str, lease_id: str, started: StartReply, tools: Tools) -> Change[BindResult]:
    """Record the answer to a start call that came after the end of its lease.

    Args:
        batch: A unit of work.
        pool: Name of the pool.
        job_id: The job.
        lease_id: The lease of the start call.
        started: The answer. Without a task it says that none was started.
        tools: The tools, which say what failures are tried again.

    Returns:
        `freed` is the lease whose slot has no reason to drain any more.
    """
    batch.pool(pool)
    job = batch.job(pool, job_id)
    if job is None or job.pool != pool:
        return Change(BindResult.LOST)
    if started.provider is not None and started.task_id is not None:
        named = Binding(lease_id, started.provider, started.task_id)
        accounts = started.accounts or Accounts()
        account = accounts.of(named.provider, job.pool, job.account)
        return Change(BindResult.LOST, bindings.bind_late(batch, job, named, account, tools, "tool"))
    if job.ended and job.lease_id == lease_id and job.task_id is None and job.provider is not None:
        batch.forget_use(job.pool)
        return Change(BindResult.LOST, batch.put(job, provider=None), freed=lease_id)
    return Change(BindResult.LOST, job)
