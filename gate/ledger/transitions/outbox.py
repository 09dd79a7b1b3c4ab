"""Apply entries of the outbox to rows of jobs, each by compare-and-set."""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import GrantReturn, RecordReply
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.transitions import jobs
from gate.model.job import HOLDING, Job, RequeueReason, now_ms
from gate.model.messages import EntryKind, OutboxEntry


def newer(pool: Pool, fence: int, last_fence: int) -> bool:
    """Return whether a grant is a new one.

    Only a higher fence is new. With an equal fence, a grant that its holder has given up would be recorded again.

    Args:
        pool: The pool.
        fence: Fence of the grant.
        last_fence: Highest fence that the job's row has had.
    """
    return fence > max(last_fence, pool.void_fence)


def room(batch: UnitOfWork, pool: Pool) -> bool:
    """Return whether SQL has a free slot. SQL checks the limit and the pause again before it records a grant.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
    """
    return (
        not pool.paused
        # guard: sql-counts-the-slots
        and batch.held(pool.name) < pool.settings.limit
    )


def record(batch: UnitOfWork, pool: Pool, job: Job, note: OutboxEntry, recorded: RecordReply) -> None:
    """Apply one entry. An entry that no longer fits the job's row changes nothing.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
        job: The job of the entry.
        note: The entry.
        recorded: Gets the changed job, or the grant to give back.
    """
    if note.kind is EntryKind.GRANTED:
        assert note.lease is not None
        if (
            job.status != "queued"
            # guard: grant-has-a-newer-fence
            or not newer(pool, note.fence, job.fence)
        ):
            return
        if room(batch, pool):
            recorded.changed.append(jobs.take(batch, job, note.lease, "granted", "gate"))
        else:
            _give_back(batch, job, note.fence, "not_taken", recorded)
    elif note.kind is EntryKind.PASSED:
        if job.status == "queued":
            batch.event(job.pool, job.job_id, "passed", "gate", note.at, why="absent")
    elif note.fence == 0:
        if job.status == "queued":  # guard: queue-timeout-only-of-a-waiter
            recorded.changed.append(jobs.end(batch, job, "expired", "gate", "queue_timeout", at=note.at))
    elif (
        job.status in HOLDING
        # guard: expiry-only-of-its-fence
        and job.fence == note.fence
    ):
        recorded.changed.append(expire(batch, job, note.at))
    elif job.status == "queued" and note.fence > job.fence:
        # SQL never recorded this grant, and its claim time is over. No caller knows of it, so the job keeps its place.
        _give_back(batch, job, note.fence, "lost", recorded)


def _give_back(batch: UnitOfWork, job: Job, fence: int, why: RequeueReason, recorded: RecordReply) -> None:
    # Without this event, a reader of the history would see later jobs overtake this one. It is written once, before a fence.
    if job.fence == 0:
        batch.event(job.pool, job.job_id, "returned", "gate", now_ms(), fence=fence, why=why)
    # Without the fence, another server could record the same grant before the job is back at its place, and report it.
    batch.put(job, fence=fence)  # guard: returned-grant-is-written-down
    recorded.returns.append(GrantReturn(job, fence, why))


def expire(batch: UnitOfWork, job: Job, at: int) -> Job:
    """End a job whose deadline is over.

    Args:
        batch: Has locked the pool's row.
        job: The job, which holds a slot.
        at: When it expired (ms since 1970).

    Returns:
        The ended job.
    """
    at_the_limit = job.expires_at is not None and job.hard_expires_at is not None and job.expires_at >= job.hard_expires_at
    reason = "claim_timeout" if job.status == "granted" else "hold_limit" if at_the_limit else "lease_timeout"
    return jobs.end(batch, job, "expired", "gate", reason, at=at)
