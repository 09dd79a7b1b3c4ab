"""How an entry of the outbox becomes part of a job's row: by compare-and-set, or not at all."""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import GrantReturn, RecordReply
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.transitions import jobs
from gate.model.job import HOLDING, Job, now_ms
from gate.model.messages import EntryKind, OutboxEntry


def newer(pool: Pool, fence: int, last_fence: int) -> bool:
    """Only a NEWER fence is another grant: "not older" would take back in what its holder has given up."""
    return fence > max(last_fence, pool.void_fence)


def room(batch: UnitOfWork, pool: Pool) -> bool:
    """SQL rechecks the limit, and the pause, before it records a grant."""
    return (
        not pool.paused
        # guard: sql-counts-the-slots
        and batch.held(pool.name) < pool.settings.limit
    )


def record(batch: UnitOfWork, pool: Pool, job: Job, note: OutboxEntry, recorded: RecordReply) -> None:
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
        # The claim time of a grant that SQL never confirmed: nobody was told of it, so nobody loses his place.
        _give_back(batch, job, note.fence, "lost", recorded)


def _give_back(batch: UnitOfWork, job: Job, fence: int, why: str, recorded: RecordReply) -> None:
    # Written down once, while it has no fence: who reads the history must not think that somebody overtook this job.
    if job.fence == 0:
        jobs.event(batch, job.pool, job.job_id, "returned", "gate", now_ms(), fence=fence, why=why)
    # Until it is back at its place another server could find room and tell somebody of it.
    batch.put(job, fence=fence)  # guard: returned-grant-is-written-down
    recorded.returns.append(GrantReturn(job, fence, why))


def expire(batch: UnitOfWork, job: Job, at: int) -> Job:
    reason = "claim_timeout" if job.status == "granted" else "lease_timeout"
    return jobs.end(batch, job, "expired", "gate", reason, at=at)
