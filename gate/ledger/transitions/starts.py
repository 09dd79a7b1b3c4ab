"""Record the answer to a start call: the job runs, is bound to its task, and the call is done, all in one transaction.

So a server that dies before the transaction repeats the call, and one that dies after it has nothing left to do.
"""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.transitions import deliveries, inbox, jobs
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
