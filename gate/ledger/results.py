"""What the ledger answers. A no is a word, never an exception, so that many requests share one commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from gate.jobs import Job
from gate.ledger.pools import Pool


@dataclass(frozen=True, slots=True)
class Admitted:
    """`admitted` (or was so before, by the same decision) · `stale`: Redis answered under another epoch, or too long ago · `no_room`: SQL
    has no slot for this grant · `live`, `ended`, `reused`: SQL has the job, as live, as ended, or as another one."""

    word: str
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """`ended` now, or `refused`, or `bound` to a task (`ended`: whose end was known already) · `taken`: that task is another lease's · `repeat`: by the same call before · `already`: by somebody else · `lost`: that lease
    has no say · `unknown`. `before` is the job as it was."""

    word: str
    job: Job | None = None
    before: Job | None = None


@dataclass(frozen=True, slots=True)
class Extended:
    """`extended` · `stale`: another epoch, or too long ago · `lost`: SQL has not this lease as live · `unknown`."""

    word: str
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """How a start call was answered: with the provider's task, if it named one. Without `provider` that is only written down."""

    delivery_id: int
    provider: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """A grant of `fence` that SQL would not take: the job goes back to its place. `why` as in lua/requeue.lua."""

    job: Job
    fence: int
    why: str = "not_taken"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the recorder did with a page of the outbox: entries to delete, jobs that changed, grants to give back.
    `stale`: the page is of another epoch, `late`: it was read too long ago; nothing was done then."""

    stale: bool = False
    late: bool = False
    done: list[str] = field(default_factory=list)
    changed: list[Job] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a rebuild loads. `word`: `raised`, by this call, to `epoch` · `taken`: another server was there first, and only
    `epoch` counts · `replaced`: the Redis that this server sees is one that was left for another."""

    word: str
    epoch: int
    pool: Pool
    leases: list[Job] = field(default_factory=list)
    waiters: list[Job] = field(default_factory=list)
