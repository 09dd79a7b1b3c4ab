"""Results of changes of the ledger. A refusal is a result and never an exception, so many requests can share one commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from gate.ledger.sql.pool_rows import Pool
from gate.model.job import Job, RequeueReason


class AdmitResult(StrEnum):
    """How an admission was recorded."""

    ADMITTED = "admitted"
    """The job is recorded, by this call or by an earlier one for the same decision."""
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
    COPY = "copy"
    """SQL has the job of the same call, under an alias of its job_id."""


class EndResult(StrEnum):
    """How an end was recorded."""

    ENDED = "ended"
    """This call has ended the job."""
    REPEAT = "repeat"
    """An earlier call has ended the job in the same way."""
    ALREADY = "already"
    """The job had ended in another way before."""
    LOST = "lost"
    """The lease does not count: it is over, or another job's."""
    UNKNOWN = "unknown"
    """The pool has no such job."""


class RefuseResult(StrEnum):
    """How a refusal by the provider was recorded."""

    REFUSED = "refused"
    """The job waits again."""
    ACCOUNT_REFUSED = "account_refused"
    """The job waits again, and the pool needs no cool-down: its account cools down alone, or is down."""
    REPEAT = "repeat"
    """The job waited already."""
    ALREADY = "already"
    """The job has ended."""
    LOST = "lost"
    """The lease does not count: it is over, or another job's."""
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
    """The provider's report of the task came first, and has ended the job."""
    RETRIED = "retried"
    """The provider's report of the task came first, and the job waits again for another try."""
    REPEAT = "repeat"
    """The lease was bound to this task before."""
    TAKEN = "taken"
    """The task belongs to another lease."""
    LOST = "lost"
    """The lease does not count: it is over, or another job's."""


class CallbackResult(StrEnum):
    """Effect of a provider's report."""

    ENDED = "ended"
    """The report has ended the job."""
    RETRIED = "retried"
    """The job waits again, because its tool has such a failure tried again."""
    LATE = "late"
    """The job had ended without the provider. The report's outcome is kept beside that."""
    WAITS = "waits"
    """The task is bound to no job yet. The report waits for the binding."""
    HISTORY = "history"
    """The report changes nothing."""
    REPEAT = "repeat"
    """The same report came before."""
    HINT = "hint"
    """The report is not believed. gate asks the provider about the task instead."""


class ApplyResult(StrEnum):
    """Effect of applying an unread callback."""

    ENDED = "ended"
    """The callback has ended the job."""
    LATE = "late"
    """The job had ended without the provider. The outcome is kept beside that."""
    HISTORY = "history"
    """The job has ended, and the outcome cannot be added."""
    WAITING = "waiting"
    """The job holds no slot."""
    UNKNOWN = "unknown"
    """The pool has no such job."""
    SPENT = "spent"
    """The callback was applied or dismissed before."""
    GONE = "gone"
    """The callback is no longer kept."""


class EpochResult(StrEnum):
    """How the first step of a rebuild ended."""

    RAISED = "raised"
    """This call has raised the epoch of the pool."""
    TAKEN = "taken"
    """Another server was first, and has loaded the pool under its own epoch."""
    REPLACED = "replaced"
    """The other servers have moved from this server's Redis to another one."""


R = TypeVar("R", bound=StrEnum, covariant=True)


@dataclass(frozen=True, slots=True)
class Change(Generic[R]):
    """Reply of a change.

    Attributes:
        result: The result.
        job: The job after the change; None if there is no such job, or the caller needs none.
        before: The job before the change; None if nothing was changed.
        repeats: An earlier admission or claim had this effect already.
        freed: Lease whose stopped task a callback has confirmed as over; None for any other change.
    """

    result: R
    job: Job | None = None
    before: Job | None = None
    repeats: bool = field(default=False, compare=False)
    freed: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class GrantReturn:
    """A grant that SQL did not record. The job goes back to its place in the queue.

    Attributes:
        job: The job as SQL has it.
        fence: Fence of the grant.
        why: The reason, in the words of lua/requeue.lua.
    """

    job: Job
    fence: int
    why: RequeueReason = "not_taken"


@dataclass(frozen=True, slots=True)
class RecordReply:
    """Reply of recording a page of the outbox.

    Attributes:
        stale: Whether the page is of another epoch. Nothing was done then.
        late: Whether the page was read too long ago. Nothing was done then.
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
    """Jobs and settings that a rebuild loads into Redis.

    Attributes:
        result: Whether this call raised the epoch. Only then is there anything to load.
        epoch: The epoch in force.
        pool: The pool's row.
        leases: Jobs that hold slots.
        waiters: Jobs that wait, in order of their tickets.
        stood_ms: How long the pool has stood still in all (ms). That time counts against no wait.
        poison: The time of the last refusal (ms since 1970) of each poison job, by job_id.
        stops: Jobs that have ended and whose tasks are being stopped, each with the time (ms) since then.
    """

    result: EpochResult
    epoch: int
    pool: Pool
    leases: list[Job] = field(default_factory=list)
    waiters: list[Job] = field(default_factory=list)
    stood_ms: int = 0
    poison: dict[str, int] = field(default_factory=dict)
    stops: list[tuple[Job, int]] = field(default_factory=list)
