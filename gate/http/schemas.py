"""The JSON shapes of version 1: what comes in is checked here, what goes out is written here."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gate.coordination.queries import PoolSnapshot
from gate.ledger.queries import Balance, Entry, Event, Unread
from gate.model.job import (
    CREDITS_MAX,
    JOB_ID,
    LABEL_MAX,
    PAYLOAD_MAX_BYTES,
    POOL_NAME,
    QUEUE_MAX,
    SECONDS_MAX,
    SECONDS_MIN,
    SLOTS_MAX,
    in_ms,
)
from gate.model.job_json import job_body, moment
from gate.providers.parsing import kept_output, kept_text

WAIT_MAX_S = 60
TEXT_MAX = 4_000
"""Characters of an error or a reason."""
DEPTH_MAX = 32
OUTPUT_MAX_BYTES = 64 * 1024


def _is_job_id(value: str) -> str:
    if not JOB_ID.fullmatch(value):
        raise ValueError("must match [A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")
    return value


def _is_name(value: str) -> str:
    if not POOL_NAME.fullmatch(value):
        raise ValueError("must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}")
    return value


def _is_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable characters only")
    return value


def _is_text(value: str) -> str:
    if "\x00" in value or (not value.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in value)):
        raise ValueError("must be text without NUL or lone surrogates")
    return value


_as_it_is = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def _is_json_up_to(limit: int) -> Any:
    def check(value: Any) -> Any:
        _is_shallow_text(value)
        try:
            size = len(_as_it_is(value).encode())
        except ValueError as error:
            raise ValueError("must be JSON without NaN, Infinity or lone surrogates") from error
        if size > limit:
            raise ValueError(f"must be at most {limit} bytes of JSON")
        return value

    return AfterValidator(check)


def _is_shallow_text(value: Any) -> None:
    """Level by level, without recursion: what is too deep here would break whoever writes it as JSON again."""
    level = [value]
    for _ in range(DEPTH_MAX):
        for one in level:
            if isinstance(one, str) and "\x00" in one:
                raise ValueError("must be without NUL")
        inside = [list(one) + list(one.values()) if isinstance(one, dict) else one for one in level]
        level = [part for one in inside if isinstance(one, list) for part in one]
        if not level:
            return
    raise ValueError(f"must be at most {DEPTH_MAX} levels deep")


JobId = Annotated[str, AfterValidator(_is_job_id), Field(max_length=128)]
PoolName = Annotated[str, AfterValidator(_is_name), Field(max_length=64)]
Label = Annotated[str, Field(min_length=1, max_length=LABEL_MAX), AfterValidator(_is_printable)]
Text = Annotated[str, Field(max_length=TEXT_MAX), AfterValidator(_is_text)]
LeaseId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_is_printable)]
Seconds = Annotated[float, Field(ge=SECONDS_MIN, le=SECONDS_MAX, allow_inf_nan=False)]
Payload = Annotated[dict[str, Any], _is_json_up_to(PAYLOAD_MAX_BYTES)]
KeptText = Annotated[str | None, BeforeValidator(kept_text)]
"""Of an end: cleaned and cut, never refused."""
KeptOutput = Annotated[Any, BeforeValidator(kept_output)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AcquireBody(_Body):
    """`credits`: what the caller has charged already; it needs a `job_id`, so that a retry cannot charge twice. `started_by`:
    `gate` calls the tool's `start_url` when the job is granted a slot; a tool without one is refused. Default: `caller`."""

    job_id: JobId | None = None
    user: Label | None = None
    tool: Label | None = None
    session: Label | None = None
    credits: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None
    payload: Payload | None = None
    lease_seconds: Seconds | None = None
    wait_seconds: Annotated[float, Field(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)] = 0
    started_by: Literal["caller", "gate"] | None = None


class LeaseBody(_Body):
    lease_id: LeaseId


class RenewBody(LeaseBody):
    """From now on for `lease_seconds` (default: the job's own). A renewal never shortens what was told."""

    lease_seconds: Seconds | None = None


class ReleaseBody(LeaseBody):
    """`refused`: the provider would not take it. The job goes back to its place, nothing is refunded."""

    outcome: Literal["completed", "failed", "cancelled", "refused"]
    error: KeptText = None
    output: KeptOutput = None


class TaskBody(_Body):
    """`provider` is who runs it, `task_id` what that provider calls the task."""

    provider: PoolName
    task_id: Label
    lease_id: LeaseId | None = None


class CancelBody(_Body):
    """One of the two."""

    session: Label | None = None
    user: Label | None = None


class ReasonBody(_Body):
    reason: Text | None = None


class ApplyBody(_Body):
    """`outcome` is how the provider's task ended, as you read it; `reason` says how you know, and is kept in the history."""

    job_id: JobId
    outcome: Literal["completed", "failed", "cancelled"]
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_is_text)]


class DismissBody(_Body):
    """`reason` says why the callback is about no job, and is kept with it."""

    reason: Annotated[str, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_is_text)]


class PoolBody(_Body):
    """What is named changes, the rest stays. A limit below what runs drains: nobody is killed."""

    limit: Annotated[int, Field(ge=0, le=SLOTS_MAX)] | None = None
    lease_seconds: Seconds | None = None
    max_hold_seconds: Seconds | None = None
    claim_seconds: Seconds | None = None
    queue_seconds: Seconds | None = None
    queue_max: Annotated[int, Field(ge=0, le=QUEUE_MAX)] | None = None
    cooldown_seconds: Seconds | None = None
    max_active_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] | None = None

    def in_ms(self) -> dict[str, int | bool]:
        """What is named, by the names of the ledger."""
        return in_ms(self.model_dump(exclude_none=True))


class LeaseOut(BaseModel):
    lease_id: str | None
    fence: int
    granted_at: str
    expires_at: str
    hard_expires_at: str


class TaskOut(BaseModel):
    provider: str
    task_id: str


class RefundOut(BaseModel):
    amount: int
    at: str | None
    owed: bool


class JobOut(BaseModel):
    """A job. What is absent is null; times are RFC 3339, UTC, milliseconds. `payload` and `lease_id` are null to who may not
    release."""

    job_id: str
    pool: str
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    task: TaskOut | None
    started_by: Literal["caller", "gate"]
    status: Literal["queued", "granted", "running", "completed", "failed", "cancelled", "expired"]
    position: int | None
    queue_length: int | None
    reason: Literal["pool_full", "paused", "cooling_down", "tool_down"] | None
    eta_seconds: float | None
    enqueued_at: str
    lease: LeaseOut | None
    ended_at: str | None
    ended_by: str | None
    end_reason: str | None
    error: str | None
    output: Any
    refund: RefundOut | None
    late_outcome: str | None
    late_output: Any


class PoolOut(BaseModel):
    """A pool at one moment; `holders` and `queue` are jobs in order."""

    pool: str
    limit: int
    running: int
    granted: int
    queued: int
    free: int
    paused: bool
    cooling_until: str | None
    oldest_lease_seconds: float | None
    holders: list[JobOut]
    queue: list[JobOut]


class CancelledOut(BaseModel):
    """What was cancelled: only what waited."""

    cancelled: int
    jobs: list[JobOut]


class HeardOut(BaseModel):
    """What became of a callback: `kept` until its task is bound, `late` after the job's expiry."""

    result: Literal["applied", "late", "kept", "ignored", "repeat"]


class UnreadOut(BaseModel):
    """A callback that could not be read. `at` is the first of `times` that this body came, `last_at` the last; `why` says what could not be
    read; `body` is cut to 4,000 characters. From `applied_at` on: null until an operator has applied it to a job, or
    dismissed it: then `outcome` is `dismissed`, and `job_id` stays null."""

    id: int
    at: str
    last_at: str
    times: int
    provider: str
    pool: str
    task_id: str | None
    why: str
    body: str | None
    applied_at: str | None
    applied_by: str | None
    job_id: str | None
    outcome: Literal["completed", "failed", "cancelled", "dismissed"] | None
    reason: str | None


class UnreadPageOut(BaseModel):
    """`next` goes into `after`; null on the last page."""

    rows: list[UnreadOut]
    next: int | None


class EventOut(BaseModel):
    """Something that happened to a job. `kind` is the status it then had, or `task`, `callback`, `late`, `returned`, `seated`, `tool_down`, `refunded`."""

    at: str
    kind: str
    by: str
    why: str | None
    fence: int | None


class HistoryOut(BaseModel):
    job_id: str
    events: list[EventOut]


class ProblemOut(BaseModel):
    """RFC 9457, as `application/problem+json`. `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = None
    active_job_id: str | None = None
    job: JobOut | None = None


class EntryOut(BaseModel):
    id: int
    at: str
    job_id: str
    user: str | None
    pool: str
    kind: Literal["charge", "refund"]
    amount: int


class LedgerOut(BaseModel):
    """`next` goes into `after`; null on the last page."""

    rows: list[EntryOut]
    next: int | None


class BalanceOut(BaseModel):
    user: str
    charged: int
    refunded: int
    net: int


def event_body(event: Event) -> dict[str, Any]:
    return {"at": moment(event.at), "kind": event.kind, "by": event.by, "why": event.why, "fence": event.fence}


def unread_body(one: Unread, secrets: bool = True) -> dict[str, Any]:
    """`secrets`: whether the caller may act, and so see what the provider sent."""
    return {
        "id": one.id,
        "at": moment(one.at),
        "last_at": moment(one.last_at),
        "times": one.times,
        "provider": one.provider,
        "pool": one.pool,
        "task_id": one.task_id,
        "why": one.why,
        "body": one.body[:TEXT_MAX] if secrets else None,
        "applied_at": moment(one.applied_at),
        "applied_by": one.applied_by,
        "job_id": one.job_id,
        "outcome": one.outcome,
        "reason": one.reason,
    }


def pool_body(view: PoolSnapshot, secrets: bool = True) -> dict[str, Any]:
    line = view.line
    age_ms = line.now_ms - line.oldest if line.oldest is not None else None
    return {
        "pool": view.name,
        "limit": line.limit,
        "running": line.running,
        "granted": line.granted,
        "queued": line.queued,
        "free": line.free,
        "paused": line.paused,
        "cooling_until": moment(line.cooling_until),
        "oldest_lease_seconds": age_ms / 1000 if age_ms is not None else None,
        "holders": [job_body(job, secrets) for job in view.holders],
        "queue": [job_body(job, secrets) for job in view.queue],
    }


def entry_body(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": moment(entry.at),
        "job_id": entry.job_id,
        "user": entry.user,
        "pool": entry.pool,
        "kind": entry.kind,
        "amount": entry.amount,
    }


def balance_body(user: str, balance: Balance) -> dict[str, Any]:
    net = balance.charged - balance.refunded
    return {"user": user, "charged": balance.charged, "refunded": balance.refunded, "net": net}
