"""Apply entries of the outbox to rows of jobs, each by compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy.exc import DBAPIError

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import GrantReturn, RecordReply
from gate.ledger.sql.engines import first_line
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.transitions import capacity, jobs
from gate.ledger.transitions.jobs import Ending
from gate.model.job import HOLDING, Job, RequeueReason
from gate.model.messages import EntryKind, OutboxEntry

log = structlog.get_logger("gate.ledger")

RECORDED = frozenset({EntryKind.GRANTED, EntryKind.EXPIRED, EntryKind.PASSED})
"""Kinds of outbox entries about a job, which wait until its row is there."""


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
        and batch.held(pool.name) < (pool.settings.limit if pool.room is None else min(pool.settings.limit, pool.room))
        and (len(pool.accounts) < 2 or capacity.has_room(batch, pool))
    )


def record_page(batch: UnitOfWork, pool: Pool, notes: Sequence[OutboxEntry], apart: bool) -> RecordReply:
    """Apply a page of the outbox in order. The result names the entries to delete.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
        notes: The entries.
        apart: Whether each is written in a savepoint of its own, so that one that SQL refuses keeps out no other.
    """
    recorded, unknown = RecordReply(), set[str]()
    over = {(note.job_id, note.fence) for note in notes if note.kind is EntryKind.EXPIRED}
    batch.expect(pool.name, [note.job_id for note in notes])
    for note in notes:
        job = batch.job(pool.name, note.job_id) if note.kind in RECORDED else None
        if job is not None and job.pool != pool.name:
            job = None
        if job is None and note.kind is not EntryKind.UNREADABLE:
            unknown.add(note.job_id)  # guard: unknown-job-stays-in-the-outbox
        if note.job_id in unknown:
            continue  # its admission is not committed yet, so this entry and the later ones of the job stay
        # A grant that expired before SQL recorded it was reported to no caller. It is skipped.
        if (
            job is not None
            # guard: dead-grant-is-not-recorded
            and not (note.kind is EntryKind.GRANTED and (note.job_id, note.fence) in over)
            and not _is_taken(batch, pool, job, note, recorded, apart)
        ):
            unknown.add(note.job_id)
            continue
        recorded.done.append(note.entry_id)
    return recorded


def _is_taken(batch: UnitOfWork, pool: Pool, job: Job, note: OutboxEntry, recorded: RecordReply, apart: bool) -> bool:
    """Apply one entry. Return False when SQL refuses it, which is an error unless it is written apart."""
    if not apart:
        record(batch, pool, job, note, recorded)
        return True
    changed, returns = len(recorded.changed), len(recorded.returns)
    try:
        with batch.apart():
            record(batch, pool, job, note, recorded)
    except DBAPIError as error:
        del recorded.changed[changed:], recorded.returns[returns:]  # it was rolled back
        log.error("outbox.entry_refused", pool=pool.name, job_id=note.job_id, error=first_line(error))
        return False
    return True


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
            recorded.changed.append(jobs.end(batch, job, Ending("expired", "gate", "queue_timeout", at=note.at)))
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
        batch.event(job.pool, job.job_id, "returned", "gate", batch.now_ms(job.pool), fence=fence, why=why)
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
    return jobs.end(batch, job, Ending("expired", "gate", reason, at=at))


def expire_overdue(batch: UnitOfWork, job: Job, fence: int, now_ms: int) -> bool:
    """End a job whose lease Redis has lost, if its deadline is over by the clock of Redis.

    Args:
        batch: Has locked the pool's row.
        job: The job.
        fence: Fence of the lease. A job with another one is left alone.
        now_ms: Time of the pool by the clock of Redis (ms since 1970).

    Returns:
        Whether the job was ended.
    """
    if (
        job.lease is None or job.fence != fence or job.lease.due > now_ms  # guard: overdue-by-the-renewed-deadline
    ):
        return False
    expire(batch, job, now_ms)
    return True
