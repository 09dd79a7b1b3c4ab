"""Start a job again after a failure of its provider that is no fault of the job."""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.transitions import deliveries, questions
from gate.model.job import HOLDING, Job
from gate.model.messages import ProviderReport
from gate.model.tool import Tools


def is_due(job: Job, report: ProviderReport, tools: Tools) -> bool:
    """Return whether a report about the current task of a job starts it again. Only gate can start it, so it must be a job that gate starts.

    Args:
        job: The job.
        report: The report.
        tools: The tools.
    """
    is_started_by_gate = job.starts and job.tool is not None and job.status in HOLDING
    return is_started_by_gate and tools[job.tool or ""].starts_again(job.retries, report)


def again(batch: UnitOfWork, job: Job, error: str | None) -> Job:
    """Put a job back to its place in the queue. It is not refunded, and the time in its slot counts against no wait.

    Args:
        batch: Has locked the pool's row.
        job: The job, with the task that has failed.
        error: The provider's words.

    Returns:
        The job, which keeps the old lease until the next one.
    """
    at = batch.now_ms(job.pool)
    if job.account is not None and job.task_id is not None:
        questions.end(batch, job, is_over=True)
    held_ms = max(at - (job.granted_at or at), 0)
    job = batch.put(
        job, status="queued", granted_at=None, expires_at=None, hard_expires_at=None, provider=None, task_id=None, account=None,
        retries=job.retries + 1, stood_ms=job.stood_ms - held_ms,
    )  # fmt: skip
    batch.event(job.pool, job.job_id, "queued", "provider", at, why="started again" + (f": {error}" if error else ""))
    return deliveries.owe(batch, job, at)
