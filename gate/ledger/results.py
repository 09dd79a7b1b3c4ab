"""Results of the ledger's changes. A refusal is a result and never an exception, so that many requests share one commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from gate.ledger.sql.pool_rows import Pool
from gate.model.job import Job


class AdmitResult(StrEnum):
    """How an admission was recorded."""

    ADMITTED = "admitted"
    """The row is there, now or by the same decision before."""
    STALE = "stale"
    """Redis answered under another epoch, or too long ago."""
    NO_ROOM = "no_room"
    """SQL has no free slot for this grant."""
    LIVE = "live"
    """SQL has the job running under another lease."""
    ENDED = "ended"
    """SQL has the job as ended."""
    REUSED = "reused"
    """SQL has another job under this job_id."""


class EndResult(StrEnum):
    """How an end was recorded."""

    ENDED = "ended"
    """By this call."""
    REPEAT = "repeat"
    """By an earlier call that said the same."""
    ALREADY = "already"
    """The job had another end before."""
    LOST = "lost"
    """That lease has no say: it is over, or another job's."""
    UNKNOWN = "unknown"
    """The pool has no such job."""


class RefuseResult(StrEnum):
    """How a refusal by the provider was recorded."""

    REFUSED = "refused"
    """The job waits again."""
    REPEAT = "repeat"
    """It waited already."""
    ALREADY = "already"
    """The job has ended."""
    LOST = "lost"
    """That lease has no say."""
    UNKNOWN = "unknown"
    """The pool has no such job."""


class ExtensionResult(StrEnum):
    """How a claim or a renewal was recorded."""

    EXTENDED = "extended"
    STALE = "stale"
    """Redis answered under another epoch, or too long ago."""
    LOST = "lost"
    """SQL does not have this lease as live."""
    UNKNOWN = "unknown"
    """The pool has no such job."""


class BindResult(StrEnum):
    """How the task of a lease was recorded."""

    BOUND = "bound"
    ENDED = "ended"
    """The provider's report of that task was there first, and has ended the job."""
    REPEAT = "repeat"
    """The lease was bound to this task before."""
    TAKEN = "taken"
    """That task belongs to another lease."""
    LOST = "lost"
    """That lease has no say."""


class CallbackResult(StrEnum):
    """What a provider's report did."""

    ENDED = "ended"
    """The job has ended by it."""
    LATE = "late"
    """The job had ended without the provider; the report is kept beside that."""
    WAITS = "waits"
    """Nothing is bound to its task yet; the report waits for the binding."""
    HISTORY = "history"
    """It changes nothing."""
    REPEAT = "repeat"
    """The same report was there before."""


class ApplyResult(StrEnum):
    """What the application of an unread callback did."""

    ENDED = "ended"
    """The job has ended by it."""
    LATE = "late"
    """The job had ended without the provider; the outcome is kept beside that."""
    HISTORY = "history"
    """The job has ended, and nothing can be added."""
    WAITING = "waiting"
    """The job holds no slot."""
    UNKNOWN = "unknown"
    """The pool has no such job."""
    SPENT = "spent"
    """The callback was applied before."""
    GONE = "gone"
    """The callback is kept no longer."""


class EpochResult(StrEnum):
    """How the first step of a rebuild ended."""

    RAISED = "raised"
    """The pool has a new epoch, by this call."""
    TAKEN = "taken"
    """Another server was first, and has loaded the pool under its epoch."""
    REPLACED = "replaced"
    """The Redis that this server reaches is one that the others have left for another."""


R = TypeVar("R", bound=StrEnum, covariant=True)


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """What a change came to.

    Attributes:
        result: How it ended.
        job: The job after it; None when there is none, or nothing has to be known of it.
        before: The job before a change that took.
    """

    result: R
    job: Job | None = None
    before: Job | None = None


@dataclass(frozen=True, slots=True)
class GrantReturn:
    """A grant that SQL did not record. The job goes back to its place in the queue.

    Attributes:
        job: The job as SQL has it.
        fence: Fence of the grant.
        why: The reason, as lua/requeue.lua takes it.
    """

    job: Job
    fence: int
    why: str = "not_taken"


@dataclass(frozen=True, slots=True)
class RecordReply:
    """What became of a page of the outbox.

    Attributes:
        stale: The page is of another epoch; nothing was done.
        late: The page was read too long ago; nothing was done.
        done: IDs of the entries to delete.
        changed: Jobs that changed.
        returns: Grants to give back.
    """

    stale: bool = False
    late: bool = False
    done: list[str] = field(default_factory=list)
    changed: list[Job] = field(default_factory=list)
    returns: list[GrantReturn] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What a rebuild has to load.

    Attributes:
        result: Whether this call raised the epoch. Only then is there anything to load.
        epoch: The epoch that counts.
        pool: The pool's row.
        leases: Jobs that hold slots.
        waiters: Jobs that wait, in order of their tickets.
    """

    result: EpochResult
    epoch: int
    pool: Pool
    leases: list[Job] = field(default_factory=list)
    waiters: list[Job] = field(default_factory=list)
