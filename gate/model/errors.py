"""All errors of gate, as one tree. The table in `gate.http.problems` maps each to its HTTP status and code.

GateError
├── Invalid           a field of the request is not valid
│   └── Unreadable        the same in a callback of a provider
├── Unauthorized      the request carries no valid key
├── Forged            a callback does not carry the provider's secret
├── Forbidden         the role of the key may not do this
│   └── ForeignPage       the request comes from a page that may not make it
├── PoolUnknown
├── JobUnknown
├── ToolUnknown       gate.toml has no section for the table, and the owner's function is not asked about it
├── CallbackUnknown
├── ProviderUnknown
├── Conflict          the request is valid, but the present state does not allow it
│   ├── UserBusy          the user has as many live jobs as allowed
│   ├── JobIdReused       the job_id belongs to another job
│   ├── TaskTaken         the provider's task belongs to another job
│   ├── StartedByGate     gate starts this job, so no caller may claim it
│   ├── AlreadyEnded      the job was ended by another party, or with another outcome
│   ├── NotRunning        the job waits and holds no slot
│   ├── PoolNotEmpty      the pool has live jobs, so it cannot be deleted
│   └── CallbackApplied   the unread callback was applied before
├── LeaseLost         the lease expired, was taken back, or was never a lease of this job
├── TooLong           the estimated wait is above what the caller accepts
├── QueueFull         as many jobs wait as the pool allows
│   └── UserQueueFull     as many jobs of the user wait as the pool allows for one user
├── StoreDown         Redis or SQL does not answer; the same request may work later
└── CannotStart       `gate serve` prints the reason in one line and exits with 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from gate.model.job import Job


class GateError(Exception):
    """Base class of all errors of gate.

    Attributes:
        detail: A sentence for the reader of the message.
        job: The job that the error is about; None when there is none.
    """

    def __init__(self, detail: str, job: Job | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.job = job


class Invalid(GateError):
    """A field of a request is not valid.

    Attributes:
        field: Name of the field, as the caller wrote it.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Unreadable(Invalid):
    """The body of a provider's callback cannot be read."""


class Unauthorized(GateError):
    """The request carries no valid key."""


class Forged(GateError):
    """A callback does not carry the provider's secret.

    `detail` must never contain the secret that the caller sent or the right one.
    """


class Forbidden(GateError):
    """The caller may not do this."""


class ForeignPage(Forbidden):
    """The request does not come from a page of this gate that is as new as the session.

    The user may do the same from a page that is loaded now.
    """


class PoolUnknown(GateError):
    """There is no pool of this name."""


class JobUnknown(GateError):
    """There is no such job in this pool."""


class ToolUnknown(GateError):
    """`table` is the table that gate.toml does not name."""

    def __init__(self, table: str) -> None:
        super().__init__(f"table {table!r} has no section [tools.{table}] in gate.toml, so gate admits none of its jobs")
        self.table = table


class CallbackUnknown(GateError):
    """There is no such unread callback."""


class ProviderUnknown(GateError):
    """There is no provider of this name."""


class Conflict(GateError):
    """The request is valid, but the present state does not allow it."""


class UserBusy(Conflict):
    """The user has as many live jobs as allowed.

    Attributes:
        active_job_id: One of these jobs.
    """

    def __init__(self, detail: str, active_job_id: str, job: Job | None = None) -> None:
        super().__init__(detail, job)
        self.active_job_id = active_job_id


class JobIdReused(Conflict):
    """The job_id belongs to another job."""


class TaskTaken(Conflict):
    """The provider's task belongs to another job, or to another lease of this one."""


class NoTask(Conflict):
    """gate asks no provider about the job."""


class StartedByGate(Conflict):
    """gate starts this job at its tool, so no caller may claim it."""


class AlreadyEnded(Conflict):
    """The job was ended by another party, or with another outcome."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """Make the refusal of a call about a job that has ended, or was admitted before its early end."""
        return cls(f"this job is {job.status} already", job)


class NotRunning(Conflict):
    """The job waits and holds no slot."""


class PoolNotEmpty(Conflict):
    """The pool has live jobs, so it cannot be deleted."""


class CallbackApplied(Conflict):
    """The unread callback was applied before; each is applied once."""


class LeaseLost(GateError):
    """The lease expired, was taken back, or was never a lease of this job."""


class TooLong(GateError):
    """The estimated wait is above what the caller accepts.

    Attributes:
        eta_s: The estimate (s).
    """

    def __init__(self, detail: str, eta_s: float) -> None:
        super().__init__(detail)
        self.eta_s = eta_s


class QueueFull(GateError):
    """As many jobs wait as the pool allows."""


class UserQueueFull(QueueFull):
    """As many jobs of the user wait as the pool allows for one user."""


class StoreDown(GateError):
    """A store does not answer, or it cannot do what was asked at the moment.

    Attributes:
        store: `redis` or `sql`.
        held: `pool` or `job` when SQL answers, but another session holds a lock on that row; otherwise empty.
        refuses: The store answers, and takes no writes: its disk or its memory is full, or it is read-only.
    """

    def __init__(self, store: str, detail: str, held: str = "", refuses: bool = False) -> None:
        super().__init__(detail)
        self.store, self.held, self.refuses = store, held, refuses


class CannotStart(GateError):
    """The server cannot start. `detail` is one line for the operator."""
