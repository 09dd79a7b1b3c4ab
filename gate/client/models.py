"""What gate answers, typed and frozen. Times are aware datetimes (UTC); a field that a newer gate adds is passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, Self, get_type_hints

from gate.model.job import ENDED

Status = Literal["queued", "granted", "running", "completed", "failed", "cancelled", "expired"]
Outcome = Literal["completed", "failed", "cancelled", "refused"]
StartedBy = Literal["caller", "gate"]
Body = Mapping[str, Any]


class _Shape:
    __slots__ = ()

    @classmethod
    def of(cls, body: Body) -> Self:
        """Raises KeyError, TypeError, ValueError when it is not of this shape."""
        return cls(**{name: _read(kind, body[name]) for name, kind in _kinds(cls).items()})


@dataclass(frozen=True, slots=True)
class Grant(_Shape):
    """A slot held until `expires_at`, by gate's clock; no renewal goes beyond `hard_expires_at`. `fence` only grows."""

    lease_id: str
    fence: int
    granted_at: datetime
    expires_at: datetime
    hard_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Refund(_Shape):
    """`owed`: it is due, and not paid yet."""

    amount: int
    at: datetime | None
    owed: bool


@dataclass(frozen=True, slots=True)
class Job(_Shape):
    """A job. `position` 1 is next and, like `queue_length` and `reason`, only of a waiter; `eta_seconds` is in seconds."""

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

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Pool(_Shape):
    """A pool at one moment; `holders` and `queue` in order, as many as were asked for."""

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
    """A line of the ledger."""

    id: int
    at: datetime
    job_id: str
    user: str | None
    pool: str
    kind: Literal["charge", "refund"]
    amount: int


@dataclass(frozen=True, slots=True)
class LedgerPage(_Shape):
    """`next` goes into `after`; None on the last page."""

    rows: tuple[Entry, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Balance(_Shape):
    user: str
    charged: int
    refunded: int
    net: int


_READ: dict[Any, Any] = {
    datetime: datetime.fromisoformat,
    datetime | None: lambda value: value and datetime.fromisoformat(value),
    Grant | None: lambda value: value and Grant.of(value),
    Refund | None: lambda value: value and Refund.of(value),
    tuple[Job, ...]: lambda value: tuple(Job.of(one) for one in value),
    tuple[Entry, ...]: lambda value: tuple(Entry.of(one) for one in value),
}
_KINDS: dict[type, dict[str, Any]] = {}


def _kinds(shape: Any) -> dict[str, Any]:
    if shape not in _KINDS:
        hints = get_type_hints(shape)
        _KINDS[shape] = {field.name: hints[field.name] for field in fields(shape)}
    return _KINDS[shape]


def _read(kind: Any, value: Any) -> Any:
    return _READ[kind](value) if kind in _READ else value
