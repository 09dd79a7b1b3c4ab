"""All errors of the client, as one tree. The table `_BY_CODE` maps gate's error codes to these classes.

GateError
├── Invalid           a field of the request is not valid; `field` names it
├── TooLarge          the body of the request is too large
├── Unauthorized      no key, or an unknown one
├── Forbidden         the role of the key may not do this
├── PoolUnknown
├── JobUnknown
├── UserBusy          the user has as many live jobs as allowed; `active_job_id` is one
├── JobIdReused       the job_id belongs to another job
├── TaskTaken         the provider's task belongs to another job
├── AlreadyEnded      the job was ended by another party, or with another outcome; gate has settled its charge
├── StartedByGate     gate starts this job, so no caller may claim it
├── LeaseLost         the lease expired, was taken back, or was never a lease of this job
├── QueueFull         as many jobs wait as the pool allows; retry after `retry_after` seconds
│   └── UserQueueFull     the same for the jobs of one user
├── TooLong           the estimated wait is above what the caller accepts; `eta_seconds` is the estimate
├── StoreDown         Redis or SQL did not answer gate, through all retries
├── Unreachable       gate did not answer, through all retries
├── JobEnded          the job was cancelled or expired while it waited in the queue
├── WaitTimeout       the job still waited in the queue after `wait_seconds`; it is a TimeoutError too
├── WrongJob          the answer is about another job
├── Closed            the client is closed
└── Refused           the body called `lease.refuse()`, so the job is back at its place in the queue

What a caller does with its charge after each of them: docs/concepts.md, "The charge after a refused acquire".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gate.client.models import Job


class GateError(Exception):
    """Base class of all errors of the client.

    Attributes:
        code: Stable error code.
        status: HTTP status; None when gate has not answered.
        detail: A sentence for the reader of the message.
        job: The job that the error is about; None when gate named none.
        retry_after: Time (s) after which to come again; None when gate named none.
        more: Members of the problem document, as gate sent it.
    """

    code: str = "error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        job: Job | None = None,
        retry_after: float | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.status = status
        self.job = job
        self.retry_after = retry_after
        self.more: dict[str, Any] = dict(more or {})


class Invalid(GateError):
    """A field of the request is not valid."""

    code = "invalid"

    @property
    def field(self) -> str:
        """Name of the first field that is not valid."""
        errors = self.more.get("errors") or [{}]
        return str(errors[0].get("field", "body"))


class TooLarge(GateError):
    """The body of the request is too large."""

    code = "too_large"


class Unauthorized(GateError):
    """The request carries no key, or an unknown one."""

    code = "unauthorized"


class Forbidden(GateError):
    """The role of the key may not do this."""

    code = "forbidden"


class PoolUnknown(GateError):
    """There is no pool of this name."""

    code = "pool_unknown"


class JobUnknown(GateError):
    """There is no such job in this pool."""

    code = "job_unknown"


class UserBusy(GateError):
    """The user has as many live jobs as allowed."""

    code = "user_busy"

    @property
    def active_job_id(self) -> str:
        """One of the user's live jobs."""
        return str(self.more.get("active_job_id", ""))


class JobIdReused(GateError):
    """The job_id belongs to another job."""

    code = "job_id_reused"


class TaskTaken(GateError):
    """The provider's task belongs to another job."""

    code = "task_taken"


class AlreadyEnded(GateError):
    """The job was ended by another party, or with another outcome.

    gate has settled its charge. `job.refund` is what went back, so the caller gives nothing back.
    """

    code = "already_ended"


class StartedByGate(GateError):
    """gate starts this job, so no caller may claim it."""

    code = "started_by_gate"


class LeaseLost(GateError):
    """The lease expired, was taken back, or was never a lease of this job."""

    code = "lease_lost"


class QueueFull(GateError):
    """As many jobs wait as the pool allows. Come again after `retry_after` seconds."""

    code = "queue_full"


class UserQueueFull(QueueFull):
    """As many jobs of the user wait as the pool allows for one user. Come again after `retry_after` seconds."""

    code = "user_queue_full"


class TooLong(GateError):
    """The estimated wait is above `max_eta_seconds`. Nothing was admitted, and nothing was charged."""

    code = "too_long"

    @property
    def eta_seconds(self) -> float | None:
        """The estimate (s)."""
        return self.more.get("eta_seconds")


class StoreDown(GateError):
    """Redis or SQL did not answer gate, through all retries."""

    code = "store_down"


class Unreachable(GateError):
    """gate did not answer, through all retries."""

    code = "unreachable"


class JobEnded(GateError):
    """The job was cancelled or expired while it waited in the queue.

    gate has settled its charge. `job.refund` is what went back, so the caller gives nothing back.
    """

    code = "job_ended"


class WaitTimeout(GateError, TimeoutError):
    """The job still waited in the queue after `wait_seconds`."""

    code = "wait_timeout"


class WrongJob(GateError):
    """The answer is about another job: a proxy or a shared connection mixes answers up. It is not shown, and not used."""

    code = "wrong_job"


class Closed(GateError):
    """The client is closed."""

    code = "closed"


class Refused(GateError):
    """The body called `lease.refuse()`, so the job is back at its place in the queue."""

    code = "refused"


_BY_CODE: dict[str, type[GateError]] = {
    kind.code: kind
    for kind in (
        Invalid, TooLarge, Unauthorized, Forbidden, PoolUnknown, JobUnknown, UserBusy, JobIdReused, TaskTaken, AlreadyEnded,
        StartedByGate, LeaseLost, QueueFull, UserQueueFull, TooLong, StoreDown,
    )
}  # fmt: skip
_BY_STATUS: dict[int, type[GateError]] = {
    401: Unauthorized, 403: Forbidden, 413: TooLarge, 502: Unreachable, 503: StoreDown, 504: Unreachable,
}  # fmt: skip
"""Errors for responses without gate's JSON. They come from a proxy as a rule."""


def invalid(field: str, message: str) -> Invalid:
    """Make the error for a value that is refused before it is sent.

    Args:
        field: Name of the field.
        message: What is wrong with its value.
    """
    return Invalid(f"{field}: {message}", more={"errors": [{"field": field, "message": message}]})


def refusal(status: int, content: bytes, retry_after: str | None) -> GateError:
    """Make the error for a response that is no success.

    Args:
        status: HTTP status.
        content: Body of the response.
        retry_after: The header; None without one.
    """
    try:
        problem = json.loads(content)
        code, detail = str(problem["code"]), str(problem.get("detail") or problem["title"])
    except (ValueError, KeyError, TypeError):
        kind = _BY_STATUS.get(status, GateError)
        return kind(f"HTTP {status}, and not in gate's words", status=status, retry_after=_seconds(retry_after))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, GateError)
    try:
        job = Job.of(problem["job"]) if problem.get("job") else None
    except (ValueError, KeyError, TypeError):
        job = None
    return kind(detail, code=code, status=status, job=job, retry_after=_seconds(retry_after), more=problem)


def _seconds(retry_after: str | None) -> float | None:
    """Read the header Retry-After. A date in it gives None, because this machine's clock may differ from the server's."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
