"""Frozen types for gate's responses. Times are aware datetimes in UTC. Fields that a newer gate adds are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

if TYPE_CHECKING:
    from typing_extensions import Self

Status = Literal["queued", "granted", "running", "completed", "failed", "cancelled", "expired"]
CancelRefunds = Literal["always", "until_started"]
Outcome = Literal["completed", "failed", "cancelled", "refused"]
StartedBy = Literal["caller", "gate"]
Body = Mapping[str, Any]
ENDED = frozenset[str]({"completed", "failed", "cancelled", "expired"})
"""Statuses of a job that has ended."""


class _Shape:
    __slots__ = ()

    @classmethod
    def of(cls, body: Body) -> Self:
        """Read an object of JSON.

        Raises:
            KeyError: A field is missing that every gate sends.
            TypeError: A field has another type.
            ValueError: A value cannot be read.
        """
        there = {name: kind for name, kind in _kinds(cls).items() if name in body or name not in _MAY_BE_ABSENT}
        return cls(**{name: _read(kind, body[name]) for name, kind in there.items()})


@dataclass(frozen=True, slots=True)
class Grant(_Shape):
    """The lease of a job. Times are by gate's clock.

    Attributes:
        lease_id: Secret of the holder.
        fence: Number that grows with each grant of the pool.
        granted_at: Time of the grant.
        expires_at: Deadline of the lease. A renewal moves it.
        hard_expires_at: Latest deadline. No renewal moves it.
    """

    lease_id: str
    fence: int
    granted_at: datetime
    expires_at: datetime
    hard_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Refund(_Shape):
    """The credits that an ended job gives back.

    Attributes:
        amount: Number of credits.
        at: Time at which they were paid; None while they are not.
        owed: The refund is due and not paid yet.
    """

    amount: int
    at: datetime | None
    owed: bool


@dataclass(frozen=True, slots=True)
class Job(_Shape):
    """A job.

    Attributes:
        position: Place in the queue; 1 is next. Only a waiter has one.
        queue_length: Number of waiters in the pool. Only a waiter has one.
        reason: Why a waiter waits.
        eta_seconds: Estimated time until the grant (s).
        lease: Its lease, while it holds a slot.
        late_outcome: Outcome that a provider reported after the job had ended by another party.
        replayed: An earlier call of `acquire` or `claim` has got this answer already.
        queue_expires_at: When the wait ends. It moves while the pool stands still, and is None while the pool is paused.
        likely: `expires` when the estimate lies beyond that; None otherwise.
        cancel_refunds: `until_started` when a cancel after its start brings no refund; else `always`.
    """

    job_id: str
    pool: str
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    task: dict[str, Any] | None
    started_by: StartedBy
    status: Status
    position: int | None
    queue_length: int | None
    reason: str | None
    eta_seconds: float | None
    enqueued_at: datetime
    lease: Grant | None
    ended_at: datetime | None
    ended_by: str | None
    end_reason: str | None
    error: str | None
    output: Any
    refund: Refund | None
    late_outcome: str | None
    replayed: bool = False
    queue_expires_at: datetime | None = None
    likely: str | None = None
    cancel_refunds: CancelRefunds = "always"

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Pool(_Shape):
    """A pool at one moment.

    Attributes:
        running: Slots whose holders have claimed them.
        granted: Slots that were not claimed yet.
        cooling_until: Time until which no slot is given out after a refusal; None when the pool does not cool down.
        oldest_lease_seconds: Age (s) of the oldest lease; None without a lease.
        holders: Jobs that hold slots, as many as the call asked for.
        queue: Jobs that wait, the next one first, as many as the call asked for.
    """

    pool: str
    limit: int
    running: int
    granted: int
    queued: int
    free: int
    paused: bool
    cooling_until: datetime | None
    oldest_lease_seconds: float | None
    holders: tuple[Job, ...]
    queue: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Entry(_Shape):
    """A line of the ledger: a charge or a refund."""

    id: int
    at: datetime
    job_id: str
    user: str | None
    pool: str
    kind: Literal["charge", "refund"]
    amount: int


@dataclass(frozen=True, slots=True)
class LedgerPage(_Shape):
    """A page of the ledger.

    Attributes:
        rows: Its lines, oldest first.
        next: Value of `after` for the next page; None on the last one.
    """

    rows: tuple[Entry, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Balance(_Shape):
    """Sums of charges and refunds of a user. `net` is their difference."""

    user: str
    charged: int
    refunded: int
    net: int


def _moment(text: str) -> datetime:
    """Read a time. Python 3.10 knows no `Z`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


_READ: dict[Any, Any] = {
    datetime: _moment,
    datetime | None: lambda value: value and _moment(value),
    Grant | None: lambda value: value and Grant.of(value),
    Refund | None: lambda value: value and Refund.of(value),
    tuple[Job, ...]: lambda value: tuple(Job.of(one) for one in value),
    tuple[Entry, ...]: lambda value: tuple(Entry.of(one) for one in value),
}
_KINDS: dict[type, dict[str, Any]] = {}
_MAY_BE_ABSENT = {"replayed", "queue_expires_at", "likely", "cancel_refunds"}
"""Fields that an answer has only when they are not the default, or that an older gate does not send."""


def _kinds(shape: Any) -> dict[str, Any]:
    if shape not in _KINDS:
        hints = get_type_hints(shape)
        _KINDS[shape] = {field.name: hints[field.name] for field in fields(shape)}
    return _KINDS[shape]


def _read(kind: Any, value: Any) -> Any:
    return _READ[kind](value) if kind in _READ else value
