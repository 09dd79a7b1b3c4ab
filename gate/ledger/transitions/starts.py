"""What a start call was answered, into SQL: the job runs, is bound to its task, and the call is done, all in one step. So a
server that dies before it calls again, and one that dies after it has nothing left to call about.
"""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.transitions import deliveries, inbox, jobs
from gate.model.job import Job
from gate.model.messages import StartReply


def bound(batch: UnitOfWork, job: Job, started: StartReply, at: int) -> Job:
    """`job`, which has just begun to run, as it is then: it may have ended already, when its provider was faster than the answer."""
    error = None
    running = jobs.told(batch, job, at)
    if started.task_id is not None and started.provider is None:
        jobs.event(batch, job.pool, job.job_id, "task", "tool", at, fence=job.fence, why=started.task_id)
    elif started.task_id is not None and started.provider is not None:
        if jobs.task(batch, started.provider, started.task_id) is None:
            after = inbox.bound(batch, jobs.bind(batch, running, started.provider, started.task_id, "tool"))
            assert after.job is not None
            running = after.job
        else:
            error = f"task {started.task_id} of {started.provider} is another lease's"
            jobs.event(batch, job.pool, job.job_id, "task", "tool", at, fence=job.fence, why=error)
    deliveries.close(batch.connection, started.delivery_id, "delivered", error)
    return running
