"""Everything that the client raises of its own, as one tree. Which refusal is which class stands in one table, `_BY_CODE`.

GateError
├── Invalid           the words are not of the form; `field` names what
├── TooLarge
├── Unauthorized      no key, or an unknown one
├── Forbidden         the key's role does not reach this
├── PoolUnknown
├── JobUnknown
├── UserBusy          the user has as many live jobs as allowed; `active_job_id` is one
├── JobIdReused       the id names another job
├── TaskTaken
├── AlreadyEnded      by somebody else, or with another outcome
├── StartedByGate     gate starts this job by itself, nobody else may claim it
├── LeaseLost         expired, taken back, ended by others, or never this job's
├── QueueFull         `retry_after` seconds
├── StoreDown         Redis or SQL did not answer gate, however often it was asked
├── Unreachable       gate did not answer, however often it was asked
├── JobEnded          the job was cancelled, or expired, while it waited in line
└── Refused           the body said `lease.refuse()`: the job is back at its place in the queue
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gate.client.models import Job


class GateError(Exception):
    """`code` is gate's stable word, `status` the HTTP status (None when no answer of gate is behind it), `detail` a sentence
    for people, `job` the job it is about, where gate named it, `retry_after` seconds.
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
        """The members of the problem document, as sent."""


class Invalid(GateError):
    code = "invalid"

    @property
    def field(self) -> str:
        """The name of the first thing that is wrong."""
        errors = self.more.get("errors") or [{}]
        return str(errors[0].get("field", "body"))


class TooLarge(GateError):
    code = "too_large"


class Unauthorized(GateError):
    code = "unauthorized"


class Forbidden(GateError):
    code = "forbidden"


class PoolUnknown(GateError):
    code = "pool_unknown"


class JobUnknown(GateError):
    code = "job_unknown"


class UserBusy(GateError):
    code = "user_busy"

    @property
    def active_job_id(self) -> str:
        return str(self.more.get("active_job_id", ""))


class JobIdReused(GateError):
    code = "job_id_reused"


class TaskTaken(GateError):
    code = "task_taken"


class AlreadyEnded(GateError):
    code = "already_ended"


class StartedByGate(GateError):
    code = "started_by_gate"


class LeaseLost(GateError):
    code = "lease_lost"


class QueueFull(GateError):
    code = "queue_full"


class StoreDown(GateError):
    code = "store_down"


class Unreachable(GateError):
    code = "unreachable"


class JobEnded(GateError):
    code = "job_ended"


class Refused(GateError):
    code = "refused"


_BY_CODE: dict[str, type[GateError]] = {
    kind.code: kind
    for kind in (
        Invalid, TooLarge, Unauthorized, Forbidden, PoolUnknown, JobUnknown, UserBusy, JobIdReused, TaskTaken, AlreadyEnded,
        StartedByGate, LeaseLost, QueueFull, StoreDown,
    )
}  # fmt: skip
_BY_STATUS: dict[int, type[GateError]] = {
    401: Unauthorized, 403: Forbidden, 413: TooLarge, 502: Unreachable, 503: StoreDown, 504: Unreachable,
}  # fmt: skip
"""For answers that are not gate's own words: a proxy's, as a rule."""


def refusal(status: int, content: bytes, retry_after: str | None) -> GateError:
    """What an answer that is no success means."""
    try:
        said = json.loads(content)
        code, detail = str(said["code"]), str(said.get("detail") or said["title"])
    except (ValueError, KeyError, TypeError):
        kind = _BY_STATUS.get(status, GateError)
        return kind(f"HTTP {status}, and not in gate's words", status=status, retry_after=_seconds(retry_after))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, GateError)
    try:
        job = Job.of(said["job"]) if said.get("job") else None
    except (ValueError, KeyError, TypeError):
        job = None
    return kind(detail, code=code, status=status, job=job, retry_after=_seconds(retry_after), more=said)


def _seconds(retry_after: str | None) -> float | None:
    """A date, which the header may carry too, is nobody's clock here: None."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
