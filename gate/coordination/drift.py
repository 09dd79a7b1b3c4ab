"""What counts as drift: one rule for the reconciler, which repairs it, and for the panel, which shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from gate.model.job import ENDED, Job, JobStatus
from gate.slots import RedisSnapshot

STRANGER_MS = 30_000
"""Age (ms) from which a job that only Redis has is drift. Before that its commit may be under way; no commit takes longer."""


CLOCK_MS = 1_000
"""Difference (ms) from which SQL is told how far the clock of Redis is ahead. It slews, so it changes for hours after a step."""


class Place(StrEnum):
    """Where Redis has a job."""

    SLOT = "slot"
    QUEUE = "queue"


class DriftKind(StrEnum):
    """How Redis and SQL differ. The values are labels of the metric gate_sweep_repairs_total."""

    SETTINGS = "settings"
    """Redis has other settings of the pool than SQL."""
    ENDED = "ended"
    """The job has ended in SQL and is still in Redis."""
    UNKNOWN_JOB = "stranger"
    """The job is in Redis and never reached SQL."""
    UNRECORDED_GRANT = "adopt"
    """The job waits in SQL, and holds a newer grant that the outbox does not report."""
    RETURNED_GRANT = "give_back"
    """The job waits in SQL, and still holds a grant that it gave back."""
    LOST_PLACE = "seat"
    """The job waits in SQL and is not in Redis."""
    LOST_LEASE = "restore"
    """The job holds a lease in SQL that Redis has lost."""
    OVERDUE = "overdue"
    """The job holds a lease in SQL that Redis has lost and whose deadline has passed."""
    ORPHAN_ENTRY = "unheard"
    """The outbox names a job that is neither in SQL nor in Redis."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between Redis and SQL.

    Attributes:
        kind: What differs.
        job_id: The job; empty for settings.
        fence: Fence of the grant; 0 for a place in the queue.
    """

    kind: DriftKind
    job_id: str
    fence: int = 0


def misplaced(place: Place | None, status: JobStatus | None) -> DriftKind | None:
    """Compare the place of one job in Redis with its status in SQL.

    Args:
        place: Where Redis has the job; None when Redis has it nowhere.
        status: Its status in SQL; None when SQL has no such job in this pool.

    Returns:
        What differs; None when they agree.
    """
    if status is None or status in ENDED:
        return None if place is None else DriftKind.UNKNOWN_JOB if status is None else DriftKind.ENDED
    if status == "queued":
        return {Place.SLOT: DriftKind.UNRECORDED_GRANT, Place.QUEUE: None, None: DriftKind.LOST_PLACE}[place]
    return None if place is Place.SLOT else DriftKind.LOST_LEASE


def clock_differs(seen: RedisSnapshot, recorded_ms: int) -> bool:
    """Say whether SQL has to be told how far the clock of Redis is ahead of the pool's.

    Args:
        seen: The pool in Redis.
        recorded_ms: What SQL has (ms).
    """
    return abs(seen.ahead_ms - recorded_ms) > CLOCK_MS or (seen.ahead_ms == 0) != (recorded_ms == 0)


def examine(seen: RedisSnapshot, live: dict[str, Job], others: dict[str, Job]) -> Iterator[Drift]:
    """Find the differences between Redis and SQL.

    Jobs of which the outbox names a grant or an end are no difference, because the recorder will copy them to SQL.

    Args:
        seen: The pool in Redis.
        live: The pool's live jobs in SQL, by job_id.
        others: Other jobs in SQL that Redis names, by job_id: those that have ended, or are of another pool.

    Yields:
        Each difference.
    """
    known = {**{job_id: job for job_id, job in others.items() if job.ended}, **live}
    candidates = {*seen.slots, *seen.queue, *live}
    candidates.difference_update(seen.noted.keys() - seen.passed)  # guard: sweep-nothing-in-the-outbox
    for job_id in candidates:
        yield from _examine_one(seen, job_id, known.get(job_id))
    for job_id in seen.noted.keys() - live.keys() - others.keys() - seen.slots.keys() - set(seen.queue):
        if seen.now_ms - seen.noted[job_id] > STRANGER_MS:
            yield Drift(DriftKind.ORPHAN_ENTRY, job_id)  # guard: sweep-unknown-outbox-entry


def _examine_one(seen: RedisSnapshot, job_id: str, job: Job | None) -> Iterator[Drift]:
    entry = seen.entries.get(job_id) or {}
    place = Place.SLOT if job_id in seen.slots else Place.QUEUE if job_id in seen.queue else None
    fence = int(entry.get("fence") or 0) if place is Place.SLOT else 0
    if entry.get("drains") and (job is None or job.ended):
        return  # guard: sweep-leaves-a-draining-slot
    if job is not None and not job.ended and not entry:
        place = None  # a live job without an entry is not in the pool: no script can use its place
    kind = misplaced(place, job.status if job else None)
    if kind is DriftKind.UNKNOWN_JOB:
        since = entry.get("granted_at" if place is Place.SLOT else "queued_at", 0)
        if seen.now_ms - since > STRANGER_MS:  # guard: sweep-stranger
            yield Drift(kind, job_id, fence)
    elif kind is DriftKind.ENDED:
        yield Drift(kind, job_id)  # guard: sweep-ended-job
    elif kind is DriftKind.LOST_PLACE:
        yield Drift(kind, job_id)  # guard: sweep-lost-place
    elif job is None:
        return
    elif kind is DriftKind.UNRECORDED_GRANT and fence > job.fence:
        yield Drift(kind, job_id, fence)  # guard: sweep-lost-grant
    elif kind is DriftKind.UNRECORDED_GRANT:
        yield Drift(DriftKind.RETURNED_GRANT, job_id, fence)  # guard: sweep-unfinished-refusal
    elif kind is DriftKind.LOST_LEASE:
        assert job.expires_at is not None
        over = job.expires_at <= seen.now_ms
        yield Drift(DriftKind.OVERDUE if over else DriftKind.LOST_LEASE, job_id, job.fence)
    elif place is Place.SLOT and fence != job.fence:
        yield Drift(DriftKind.UNKNOWN_JOB, job_id, fence)
