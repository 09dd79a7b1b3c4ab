"""Put a job back into the queue, because its provider or its tool has not taken it."""

from __future__ import annotations

from typing import NamedTuple

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import Change, RefuseResult
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.transitions import capacity, deliveries, questions
from gate.model.job import Job


class Refusal(NamedTuple):
    """A refusal of a job.

    Attributes:
        lease_id: The lease of the job that was refused.
        by: Actor for the history.
        error: The reason, for people.
        tool_down: The start address of the job's tool fails.
        account_down: The provider refuses the account, not the job.
    """

    lease_id: str
    by: str
    error: str | None = None
    tool_down: bool = False
    account_down: bool = False


def refuse(batch: UnitOfWork, pool: str, job_id: str, refusal: Refusal) -> Change[RefuseResult]:
    """Put a job back into the queue. It gets no refund and keeps its place.

    Args:
        batch: A unit of work.
        pool: Name of the pool.
        job_id: The job.
        refusal: The refusal.

    Returns:
        What became of it, with the job after it and before it.
    """
    row, job = batch.pool(pool), batch.job(pool, job_id)
    if job is None or job.pool != pool:
        return Change(RefuseResult.UNKNOWN)
    if job.lease_id != refusal.lease_id:  # guard: refuse-only-its-lease
        return Change(RefuseResult.LOST, job)
    if job.status == "queued":
        return Change(RefuseResult.REPEAT, job)
    if job.ended:
        return Change(RefuseResult.LOST if job.status == "expired" else RefuseResult.ALREADY, job)
    before, is_for_itself = job, not refusal.tool_down and not refusal.account_down
    if job.account is not None and job.task_id is not None:
        questions.end(batch, job)  # guard: stop-owed-with-a-refusal
    elsewhere = _tell_account(batch, row, job, refusal)
    job = batch.put(
        job, status="queued", granted_at=None, expires_at=None, hard_expires_at=None, provider=None, task_id=None,
        account=None, refusals=job.refusals + is_for_itself,
    )  # fmt: skip
    said = "its tool's start address fails" if refusal.tool_down else "refused by the provider"
    why, at = said + (f": {refusal.error}" if refusal.error else ""), batch.now_ms(pool)
    batch.event(pool, job_id, "queued", refusal.by, at, why=why)
    if refusal.tool_down:
        batch.event(pool, job_id, "tool_down", refusal.by, at, why=job.tool)
    result = RefuseResult.ACCOUNT_REFUSED if elsewhere else RefuseResult.REFUSED
    return Change(result, deliveries.owe(batch, job, at), before)


def _tell_account(batch: UnitOfWork, pool: Pool, job: Job, refusal: Refusal) -> bool:
    """Record the refusal at the job's account. Return whether the pool needs no cool-down for it."""
    if job.account is None or refusal.tool_down:
        return False
    down = (refusal.error or "the tool says that the account is down") if refusal.account_down else None
    return capacity.refused(batch, pool, job.account, pool.settings.cooldown_ms, down)
