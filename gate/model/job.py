"""The job: its statuses, its limits, and the values that all packages exchange about it.

The values are named tuples. Each request makes and changes several of them, and frozen dataclasses are slow at that.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

EndStatus: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]
"""Status of a job that has ended."""
JobStatus: TypeAlias = Literal["queued", "granted", "running", EndStatus]
"""Status of a job."""
RequeueReason: TypeAlias = Literal["refused", "tool_down", "not_taken", "lost"]
"""Why a job goes back from its slot to its place in the queue. lua/requeue.lua says what each cools down."""

CancelRefunds: TypeAlias = Literal["always", "until_started"]
"""Whether a job that is cancelled after its start is refunded. It is fixed for each job at its admission."""

HOLDING: Final = frozenset[JobStatus]({"granted", "running"})
"""Statuses of a job that holds a slot."""
LIVE: Final = frozenset[JobStatus]({"queued"}) | HOLDING
"""Statuses of a job that has not ended."""
REFUNDED: Final = frozenset[JobStatus]({"failed", "cancelled", "expired"})
"""Statuses of a job that ended without a result, so its credits go back."""
ENDED: Final = frozenset[JobStatus](get_args(EndStatus))
"""Statuses of a job that has ended."""
STATUSES: Final = LIVE | ENDED
CANCELLERS: Final = frozenset({"holder", "caller", "operator"})
"""Roles whose cancel of a started job brings no refund under `until_started`."""
UNHEARD: Final = "caller_gone"
"""Reason of the end of a job whose caller hung up before its answer. It was told of no slot, so it has started nothing."""

JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")
"""Form of a job_id, at most 128 characters."""
POOL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Form of a pool's name, at most 64 characters. Braces would break the hash tag of its keys."""


class Lease(NamedTuple):
    """The right of a job to its slot, for a time. Times are by the clock of Redis (ms since 1970).

    Attributes:
        lease_id: Secret of the holder.
        fence: Number that grows with each grant of the pool.
        granted_at: Time of the grant.
        due: Deadline of the lease. A renewal moves it.
        hard: Latest deadline. No renewal moves it.
    """

    lease_id: str
    fence: int
    granted_at: int
    due: int
    hard: int


class Refund(NamedTuple):
    """The credits that an ended job gives back.

    Attributes:
        amount: Number of credits.
        at: Time at which they were paid (ms since 1970); None while they are not.
        owed: The refund is due and not paid yet.
    """

    amount: int
    at: int | None
    owed: bool = False


class Job(NamedTuple):
    """A job as SQL has it. Its place in the queue comes from Redis, and only a waiter has one.

    Attributes:
        user: Its user; None when the caller named none. The same holds for `tool` and `session`.
        credits: Price of the job, which a refund gives back.
        payload: Data of the caller for the holder.
        ticket: Its place in order of arrival.
        fence: Fence of its last grant; 0 before the first.
        lease_ms: Length of its leases (ms).
        enqueued_at: Time of its arrival (ms since 1970). The other times have the same unit.
        ended_by: Party that ended it: `holder`, `caller`, `provider`, `tool`, `operator` or `gate`.
        late_outcome: Outcome that a provider reported after the job had ended by another party.
        late_output: Output that came with `late_outcome`.
        provider: Provider of the task.
        task_id: The provider's name for the task that the current lease started.
        starts: gate starts the job, at the `start_url` of its tool.
        tells: gate sends each change of its status to its tool.
        settles: Its refund is paid by the owner's SQL function.
        queue_ms: Its own limit of time in the queue (ms); None for the pool's.
        refusals: How often its provider has refused it.
        stood_ms: How long its pool had stood still in all (ms) when the job came. That time counts against no wait.
        presence_ms: Time (ms) without a sign of its caller after which others pass it in the queue; None for no such time.
        account: Account at which gate asks about the task of its current lease; None when gate does not ask.
        cancel_refunds: Whether it is refunded when it is cancelled after its start.
        retries: How often gate has started it again after a failure that its provider told.
        error_kind: Kind of the failure that its provider told; None for none.
        position: Its place in the queue; 1 is next.
        queue_length: Number of waiters in the pool.
        reason: Why it waits.
        eta_seconds: Estimated time until its grant (s); None when it is not known.
        queue_expires_at: When its wait ends (ms since 1970); None when it does not wait, and while the pool is paused.
        likely: `expires` when the estimate lies beyond that; None otherwise.
    """

    job_id: str
    pool: str
    status: JobStatus
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    ticket: int
    fence: int
    lease_id: str | None
    lease_ms: int
    enqueued_at: int
    granted_at: int | None = None
    expires_at: int | None = None
    hard_expires_at: int | None = None
    ended_at: int | None = None
    ended_by: str | None = None
    end_reason: str | None = None
    error: str | None = None
    output: Any = None
    late_outcome: str | None = None
    provider: str | None = None
    task_id: str | None = None
    starts: bool = False
    tells: bool = False
    settles: bool = False
    queue_ms: int | None = None
    late_output: Any = None
    refusals: int = 0
    stood_ms: int = 0
    presence_ms: int | None = None
    account: str | None = None
    cancel_refunds: CancelRefunds = "always"
    retries: int = 0
    error_kind: str | None = None
    refund: Refund | None = None
    position: int | None = None
    queue_length: int | None = None
    reason: str | None = None
    eta_seconds: float | None = None
    queue_expires_at: int | None = None
    likely: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED

    def is_refunded_by(self, outcome: EndStatus, by: str, reason: str | None) -> bool:
        """Return whether this live job gives its credits back when it ends so.

        A job has started when it is `running`. Under `until_started` a cancel by its holder, its caller or an operator then brings
        no refund. Failures, expiries and what gate or the provider ends always bring one.

        Args:
            outcome: Its last status.
            by: Role that ends it.
            reason: Machine-readable reason; None for none.
        """
        if outcome not in REFUNDED or not self.credits:
            return False
        is_started = (
            self.status == "running"  # guard: refund-of-a-job-that-has-not-started
            and (by, reason) != ("caller", UNHEARD)  # guard: refund-of-a-caller-that-hung-up
        )
        return not (self.cancel_refunds == "until_started" and is_started and outcome == "cancelled" and by in CANCELLERS)

    @property
    def keeps_charge(self) -> bool:
        """Whether it was cancelled and gives nothing back, because it had started."""
        return self.status == "cancelled" and self.cancel_refunds != "always" and self.credits > 0 and self.refund is None

    @property
    def lease(self) -> Lease | None:
        """Lease that the job holds now; None while it waits and after it has ended."""
        if self.status not in HOLDING:
            return None
        assert self.lease_id and self.granted_at and self.expires_at and self.hard_expires_at
        return Lease(self.lease_id, self.fence, self.granted_at, self.expires_at, self.hard_expires_at)

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to a call that an earlier call has made already."""
        return False

    def as_answer(self, replayed: bool) -> Job:
        """Return the same job as the answer to a call. Both answers are equal, so only `replayed` tells them apart."""
        return self if replayed == self.replayed else (ReplayedJob if replayed else Job)._make(self)


class ReplayedJob(Job):
    """A job as the answer to a call that an earlier call has made already."""

    __slots__ = ()

    @property
    def replayed(self) -> bool:
        """True."""
        return True


class Request(NamedTuple):
    """A request of a caller for a slot.

    Attributes:
        job_id: The job.
        user: Its user; None for no user. The same holds for `tool` and `session`.
        credits: Credits that the caller has charged already; None when the caller named none.
        payload: Data for the holder.
        lease_ms: Length of its leases (ms); None for the pool's.
        trusted: The caller has a tool key, so a refund through the owner's function may rely on its `credits`.
        starts: As in `Job`. gate sets it, and also `tells` and `settles`.
        queue_ms: How long it may wait (ms); None for the tool's, or else the pool's.
        aliases: Other ids under which the same call may have been charged before: its Idempotency-Key under other API keys.
        presence_ms: As in `Job`.
        cancel_refunds: As in `Job`, by its tool; None for the pool's.
        unnamed: gate made its job_id, so the caller of this request learns it from the answer only.
        is_held: `presence_ms` is gate's own, for as long as the caller waits in this call (see `Admission`).
        is_lenient: A repeat may name what the first call did not. So it is on the paths of the queue manager that gate replaces: its
            callers `check` a job with its id, and then `enqueue` the same job with its session and payload.
    """

    job_id: str
    user: str | None = None
    tool: str | None = None
    session: str | None = None
    credits: int | None = None
    payload: dict[str, Any] | None = None
    lease_ms: int | None = None
    trusted: bool = False
    starts: bool = False
    tells: bool = False
    settles: bool = False
    queue_ms: int | None = None
    aliases: tuple[str, ...] = ()
    presence_ms: int | None = None
    cancel_refunds: CancelRefunds | None = None
    unnamed: bool = False
    is_held: bool = False
    is_lenient: bool = False

    def same_content(self, job: Job) -> bool:
        """Return whether a repeated request means this job: every value that it names is that of the job.

        A value that the job does not have is another value, because the request would be answered as if it were taken. Of a job that
        has ended it says nothing: `gate prune` forgets session and payload.
        """
        named = ((self.user, job.user), (self.tool, job.tool), (self.session, job.session),
                 (self.credits, job.credits), (self.payload, job.payload))  # fmt: skip
        may_add = self.is_lenient or job.ended
        return all(mine is None or mine == theirs or (theirs is None and may_add) for mine, theirs in named)

    def is_copy_of(self, job: Job) -> bool:
        """Return whether a request under another job_id is the call that was charged for this job: every value is equal."""
        return (self.user, self.tool, self.session, self.credits, self.payload) == (
            job.user, job.tool, job.session, job.credits, job.payload,
        )  # fmt: skip


def new_job_id() -> str:
    """Make a random id that begins with the time, so that the index in SQL grows at its end."""
    return f"{now_ms():012x}{secrets.token_hex(10)}"


def now_ms() -> int:
    """Read this machine's clock (ms since 1970), for display only.

    A deadline must never be compared with it, because only the clock of Redis decides (docs/design.md).
    """
    return time.time_ns() // 1_000_000


def is_over(good_until: float | None) -> bool:
    """Say whether a moment by `time.monotonic()` (s) has passed; None never passes."""
    return good_until is not None and time.monotonic() > good_until


def in_ms(values: dict[str, Any]) -> dict[str, Any]:
    """Convert settings to the names and units of the ledger and the scripts.

    Args:
        values: Settings as users write them. `lease_seconds` becomes `lease_ms`; other names stay.
    """
    return {
        name.replace("_seconds", "_ms"): round(value * 1000) if name.endswith("_seconds") else value
        for name, value in values.items()
    }


def in_seconds(values: dict[str, Any]) -> dict[str, Any]:
    """Convert settings back to the names and units that users write: `lease_ms` becomes `lease_seconds`."""
    return {
        name.replace("_ms", "_seconds"): value / 1000 if name.endswith("_ms") else value for name, value in values.items()
    }
