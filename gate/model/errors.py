"""Everything that gate refuses, as one tree. What each means over HTTP stands in one table, `gate.http.problems`.

GateError
├── Invalid           the caller's words are not of the form
│   └── Unreadable        nor are a provider's, in what it calls back with
├── Unauthorized      no living key was shown
├── Forged            a callback without the provider's secret
├── Forbidden         the key's role may not do this
├── PoolUnknown
├── JobUnknown
├── ToolUnknown       gate.toml has no section for the table, and the owner's function is not asked about it
├── CallbackUnknown
├── ProviderUnknown
├── Conflict          the request is well-formed, the state of things is against it
│   ├── UserBusy          the user has as many live jobs as allowed
│   ├── JobIdReused       the id names another job
│   ├── TaskTaken         the provider's task is another job's
│   ├── StartedByGate     gate starts this job, and nobody else
│   ├── AlreadyEnded      by somebody else, or with another outcome
│   ├── NotRunning        the job waits and holds no slot
│   └── CallbackApplied   an unread callback is applied once
├── LeaseLost         expired, taken back, or never this job's
├── QueueFull
├── StoreDown         Redis or SQL does not answer; come again
└── CannotStart       `gate serve` says why in one line and exits 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate.model.job import Job


class GateError(Exception):
    """`detail` is a sentence for people; `job` is the job it is about, where there is one."""

    def __init__(self, detail: str, job: Job | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.job = job


class Invalid(GateError):
    """`field` is the name of what is wrong, as the caller wrote it."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Unreadable(Invalid):
    pass


class Unauthorized(GateError):
    pass


class Forged(GateError):
    """`detail` never says what was shown, nor what would have been right."""


class Forbidden(GateError):
    pass


class ForeignPage(Forbidden):
    """Whoever asks may do it, but by a page of this gate that is not older than his session."""


class PoolUnknown(GateError):
    pass


class JobUnknown(GateError):
    pass


class ToolUnknown(GateError):
    """`table` is the table that gate.toml does not name."""

    def __init__(self, table: str) -> None:
        super().__init__(f"table {table!r} has no section [tools.{table}] in gate.toml, so gate admits none of its jobs")
        self.table = table


class CallbackUnknown(GateError):
    pass


class ProviderUnknown(GateError):
    pass


class Conflict(GateError):
    pass


class UserBusy(Conflict):
    def __init__(self, detail: str, active_job_id: str, job: Job | None = None) -> None:
        super().__init__(detail, job)
        self.active_job_id = active_job_id


class JobIdReused(Conflict):
    pass


class TaskTaken(Conflict):
    pass


class StartedByGate(Conflict):
    pass


class AlreadyEnded(Conflict):
    pass


class NotRunning(Conflict):
    pass


class CallbackApplied(Conflict):
    pass


class LeaseLost(GateError):
    pass


class QueueFull(GateError):
    pass


class StoreDown(GateError):
    """`store` is `redis` or `sql`. `held`: it answers, and somebody holds the row of this `pool` or `job`."""

    def __init__(self, store: str, detail: str, held: str = "") -> None:
        super().__init__(detail)
        self.store, self.held = store, held


class CannotStart(GateError):
    pass
