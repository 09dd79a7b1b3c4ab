"""Replies of the scripts. Each script has an enum of its own for how its call ended, as its header in lua/ lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from gate.model.job import Lease
from gate.model.messages import OutboxEntry
from gate.slots.pool_clock import Stepped


class Undone(StrEnum):
    """Why a script did nothing. The pool has to be brought in order, then the call is made again."""

    COLD = "cold"
    """Redis has lost the pool, or has it under another epoch."""
    DAMAGED = "damaged"
    """A key holds a value that gate did not write."""
    ELSEWHERE = "elsewhere"
    """Another Redis answers than the one this server is pinned to."""
    STEPPED = "stepped"
    """The clock of Redis and this process disagree about the time since the last call."""


UNDONE = frozenset(Undone)


class NotDone(Exception):
    """A script did nothing and wrote nothing.

    Attributes:
        why: What has to be put in order.
        stepped: What the script said of the clock; None unless that is why.
    """

    def __init__(self, why: Undone, stepped: Stepped | None = None) -> None:
        super().__init__(why.value)
        self.why, self.stepped = why, stepped


class AcquireResult(StrEnum):
    """Results of `acquire`."""

    RUNNING = "running"
    """The job holds a slot and its caller knows it."""
    GRANTED = "granted"
    """The job holds a slot that was not claimed yet."""
    QUEUED = "queued"
    """The job waits."""
    UNRECORDED = "unrecorded"
    """The job's end is in the outbox and not in SQL yet."""
    USER_BUSY = "user_busy"
    """The user has as many live jobs as allowed."""
    QUEUE_FULL = "queue_full"
    USER_QUEUE_FULL = "user_queue_full"
    """The user has as many waiting jobs as allowed."""
    NO_SLOT = "no_slot"
    """No slot is free, and the job was not to wait."""
    TORN = "torn"
    """The job holds a slot and has no entry; the reconciler repairs that."""


class ExtendResult(StrEnum):
    """Results of `claim`, `renew` and `hold`."""

    CLAIMED = "claimed"
    RENEWED = "renewed"
    HELD = "held"
    LOST = "lost"
    """That lease is not, or no longer, a lease of this job."""
    BY_GATE = "by_gate"
    """gate starts this job; no caller may claim it."""


class DrainResult(StrEnum):
    """How `drain` ended."""

    DRAINS = "drains"
    """The slot is kept until the task is over."""
    STALE = "stale"
    """The lease holds no slot."""


class ReleaseResult(StrEnum):
    """Results of `release`."""

    RELEASED = "released"
    STALE = "stale"
    """That lease holds no slot."""


class CancelResult(StrEnum):
    """Results of `cancel`."""

    LEFT_SLOT = "left_slot"
    LEFT_QUEUE = "left_queue"
    ABSENT = "absent"


class RequeueResult(StrEnum):
    """Results of `requeue`."""

    REQUEUED = "requeued"
    """The job waits at its place."""
    NEWER = "newer"
    """The job holds a slot under another fence."""
    ABSENT = "absent"
    """Redis does not have the job, and nothing was to be restored."""


class UndoResult(StrEnum):
    """Results of `undo`."""

    UNDONE = "undone"
    KEPT = "kept"
    """Another call relies on the job's place, or it is gone already."""


class UpkeepResult(StrEnum):
    """Results of scripts that have only one result: `tick`, `configure` and `status`."""

    TICKED = "ticked"
    CONFIGURED = "configured"
    STATUS = "status"


class RestoreResult(StrEnum):
    """Results of `restore`."""

    RESTORED = "restored"
    KNOWN = "known"
    """The job holds a slot, or its end is in the outbox."""
    FULL = "full"
    """No slot is free at the moment."""


class ShiftResult(StrEnum):
    """Results of `shift`."""

    SHIFTED = "shifted"
    MOVED = "moved"
    """Another call has set the pool's clock since the step was seen."""
    RESET = "reset"
    """The step is an old one: the pool was empty, and has taken the clock of Redis."""


class RebuildResult(StrEnum):
    """Results of `rebuild`."""

    LOADED = "loaded"
    REFUSED = "refused"
    """Redis has this epoch already, or a higher one."""
    FOREIGN = "foreign"
    """A live gate with another ledger uses this pool in this Redis."""


R = TypeVar("R", bound=StrEnum, covariant=True)


@dataclass(slots=True)
class ScriptReply(Generic[R]):
    """What every script answers.

    Attributes:
        result: How the call ended.
        asked: When the call was made, by `time.monotonic()` (s).
        now_ms: Time by the pool's clock (ms since 1970).
        next_ms: The pool's earliest deadline (ms since 1970); None when nothing is due.
        more: The call stopped at its bound; `tick` goes on from there.
        emitted: Entries it added to the outbox.
        outbox: These entries, when the outbox held no others.
        epoch: Epoch of the pool under which the call was made.
    """

    result: R
    asked: float = 0
    now_ms: int = 0
    next_ms: int | None = None
    more: bool = False
    emitted: int = 0
    outbox: tuple[OutboxEntry, ...] = ()
    epoch: int = 0


@dataclass(slots=True)
class AcquireReply(ScriptReply[AcquireResult]):
    """Reply of `acquire`.

    Attributes:
        known: The job stood there before this call.
        by_gate: gate starts it. The first call for a job decides that.
        ticket: Its place in order of arrival.
        queued_at: When it came (ms since 1970).
        lease_ms: Length of its leases (ms).
        stood_ms: How long the pool had stood still in all (ms) when it came.
        lease: Its lease, while it holds a slot.
        active: The user's live jobs, when these are too many.
        good_until: When the lease is over at the earliest, by `time.monotonic()` (s); None without a lease.
    """

    known: bool = False
    by_gate: bool = False
    ticket: int = 0
    queued_at: int = 0
    lease_ms: int = 0
    stood_ms: int = 0
    lease: Lease | None = None
    active: tuple[str, ...] = ()
    good_until: float | None = None


@dataclass(slots=True)
class ExtendReply(ScriptReply[ExtendResult]):
    """Reply of `claim`, `renew` and `hold`.

    Attributes:
        fence: Fence of the lease.
        due: Its deadline from now on (ms since 1970).
        hard: Its latest deadline (ms since 1970).
        good_until: When the lease is over at the earliest, by `time.monotonic()` (s).
    """

    fence: int = 0
    due: int = 0
    hard: int = 0
    good_until: float = 0


@dataclass(slots=True)
class ShiftReply(ScriptReply[ShiftResult]):
    """Reply of `shift`.

    Attributes:
        ahead_ms: By how much (ms) the clock of Redis is ahead of the pool's from now on.
    """

    ahead_ms: int = 0


@dataclass(slots=True)
class QueueState(ScriptReply[UpkeepResult]):
    """A pool at one moment, as `status` reads it.

    Attributes:
        limit: Slots of the pool.
        queue_ms: How long a job may wait (ms), unless it has a time of its own.
        claim_ms: Grace (ms) of those who waited when the pool was loaded.
        loaded_at: When the pool was loaded, or gate came back after an absence (ms since 1970).
        stood_ms: How long the pool has stood still in all (ms). That time counts against no wait.
        refusals_before_passing: Refusals of one job in a row, after which others are tried.
        aside_until: Until when a job that is always refused is not tried again (ms since 1970); None when there is none.
        running: Slots whose holders have claimed them.
        granted: Slots that were not claimed yet.
        draining: Slots of jobs that have ended, whose tasks still run at the provider.
        queued: Jobs that wait.
        paused: No slot is given out.
        cooling_until: Until when no slot is given out after a refusal (ms since 1970); None when it is over.
        oldest: When the oldest lease was granted (ms since 1970).
        holders: Jobs that hold slots.
        queue: Jobs that wait, the next one first.
        position: Place of the job that was asked about; 1 is next.
        cooling_tools: Tools whose start address fails at the moment: gate starts none of their jobs.
        down_tools: These, and tools whose cool-down is over, but whose start address has not worked since.
        away: Waiters whose callers are absent: of the first thousand that are named, and of the job that was asked about.
    """

    limit: int = 0
    queue_ms: int = 0
    claim_ms: int = 0
    loaded_at: int = 0
    stood_ms: int = 0
    refusals_before_passing: int = 0
    aside_until: int | None = None
    running: int = 0
    granted: int = 0
    draining: int = 0
    queued: int = 0
    paused: bool = False
    cooling_until: int | None = None
    oldest: int | None = None
    holders: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    position: int | None = None
    cooling_tools: frozenset[str] = frozenset()
    down_tools: frozenset[str] = frozenset()
    away: frozenset[str] = frozenset()

    @property
    def free(self) -> int:
        """Slots that no job holds."""
        return max(self.limit - self.running - self.granted - self.draining, 0)

    def reason_of(self, tool: str | None, job_id: str = "", refusals: int = 0) -> str:
        """Say why a job waits. A full pool is not the reason where a free slot would not help.

        Args:
            tool: Tool at which gate starts the job; None for a job that gate does not start.
            job_id: The job; empty for no particular one.
            refusals: How often its provider has refused it.
        """
        if job_id in self.away and not self.paused:
            return "absent"
        is_down = tool in self.cooling_tools or (tool in self.down_tools and not self.free)
        if is_down and not self.paused:
            return "tool_down"
        is_aside = self.aside_until is not None and self.free and refusals >= self.refusals_before_passing
        return "refused" if is_aside and self.reason == "pool_full" else self.reason

    def queue_expires_at(self, enqueued_at: int, queue_ms: int | None, stood_ms: int) -> int | None:
        """Say when the wait of a job ends.

        Args:
            enqueued_at: When it came (ms since 1970).
            queue_ms: Its own limit of time in the queue (ms); None for the pool's.
            stood_ms: How long the pool had stood still in all (ms) when it came.

        Returns:
            Time (ms since 1970), if the cool-down that is under way is the last one. None while the pool is paused: its time stands still, for as long as an operator wants.
        """
        if self.paused:
            return None
        due = enqueued_at + (queue_ms or self.queue_ms) + self.stood_ms - stood_ms
        if enqueued_at < self.loaded_at:
            due = max(due, self.loaded_at + self.claim_ms)
        return due + max((self.cooling_until or 0) - self.now_ms, 0)

    @property
    def reason(self) -> str:
        """Why a job waits here."""
        if self.paused:
            return "paused"
        return "cooling_down" if self.cooling_until else "pool_full"


@dataclass(frozen=True, slots=True)
class RebuildReply:
    """Reply of `rebuild`.

    Attributes:
        epoch: The epoch that Redis has now.
        graced: New deadlines (ms since 1970) of jobs whose own deadlines had passed, by job_id.
    """

    result: RebuildResult
    epoch: int = 0
    graced: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RedisSnapshot:
    """Everything of a pool at one moment, read without a script.

    Attributes:
        now_ms: Time by the pool's clock (ms since 1970).
        epoch: Epoch under which the pool was loaded.
        slots: Deadline (ms since 1970) of each job that holds a slot.
        queue: Jobs that wait, the next one first.
        entries: Entry of each job; None for a text that is no entry of gate's.
        noted: Jobs that the outbox names, with the time (ms) of the last entry about each.
        settings: Fields of `meta` that are numbers.
        passed: Jobs that the outbox names only because they were passed, which says nothing about their places.
        ahead_ms: By how much (ms) the clock of Redis is ahead of the pool's.
    """

    now_ms: int
    epoch: int
    slots: dict[str, int]
    queue: tuple[str, ...]
    entries: dict[str, dict[str, Any] | None]
    noted: dict[str, int]
    settings: dict[str, int]
    passed: frozenset[str] = frozenset()
    ahead_ms: int = 0


@dataclass(frozen=True, slots=True)
class PoolLook:
    """What a look at a pool shows, without a script.

    Attributes:
        holds: It holds a job or an unrecorded entry, or it cannot be read.
        mark: What Redis has seen of its ledger.
        settings: The settings that were asked for, as Redis has them.
    """

    holds: bool
    mark: LedgerMark
    settings: dict[str, int]


@dataclass(frozen=True, slots=True)
class LedgerMark:
    """What Redis has seen of the ledger of a pool.

    Attributes:
        ledger_id: The ledger whose pool this is; empty when Redis does not have the pool.
        epoch: Epoch under which the pool was loaded.
        recorded: ID of the newest event that was read from that ledger.
    """

    ledger_id: str
    epoch: int
    recorded: int
