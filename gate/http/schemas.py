"""The JSON of version 1: models that check request bodies, models of the answers, and functions that write them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gate.coordination.queries import PoolSnapshot
from gate.ledger.queries import Balance, Entry, Event, Unread
from gate.model.job import JOB_ID, POOL_NAME, JobStatus, in_ms
from gate.model.job_json import job_body, moment
from gate.model.label import FIT, is_fit
from gate.model.limits import (
    CREDITS_MAX,
    DEPTH_MAX,
    LABEL_MAX,
    PAYLOAD_MAX_BYTES,
    QUEUE_MAX,
    REFUSALS_MAX,
    SECONDS_MAX,
    SECONDS_MIN,
    SLOTS_MAX,
    TEXT_MAX,
    WAIT_MAX_S,
)
from gate.model.messages import Outcome
from gate.providers.parsing import kept_output, kept_text


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


def _is_fit(value: str) -> str:
    if not is_fit(value):
        raise ValueError(FIT)
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
    """Check depth and strings level by level. A recursive check, or a later JSON encoder, would fail on deep nesting."""
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
Label = Annotated[str, Field(min_length=1, max_length=LABEL_MAX), AfterValidator(_is_fit)]
Text = Annotated[str, Field(max_length=TEXT_MAX), AfterValidator(_is_text)]
LeaseId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_is_printable)]
Seconds = Annotated[float, Field(ge=SECONDS_MIN, le=SECONDS_MAX, allow_inf_nan=False)]
Payload = Annotated[dict[str, Any], _is_json_up_to(PAYLOAD_MAX_BYTES)]
KeptText = Annotated[str | None, BeforeValidator(kept_text)]
"""The error of an end. It is cleaned and cut, and never refused: the end must not be lost."""
KeptOutput = Annotated[Any, BeforeValidator(kept_output)]
"""The output of an end. It is cleaned and cut, and never refused."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AcquireBody(_Body):
    """The job that asks for a slot.

    `credits` is what the caller has charged already. It needs a `job_id`, so that a retry cannot charge twice. `started_by`
    is `caller` by default. With `gate`, gate calls the `start_url` of the tool when the job is granted a slot. A tool without
    one is then refused. `queue_seconds` is how long the job may wait, by default the tool's or the pool's time. A new job whose
    estimated wait is above `max_eta_seconds` is refused with `too_long`, and nothing is admitted.

    With `presence_seconds`, others pass the job in the queue while no call has asked for it for so long: no read of the job, no
    stream, no waiting call. It keeps its place, and has its turn when its caller asks again. A job that gate starts needs none.
    """

    job_id: JobId | None = None
    user: Label | None = None
    tool: Label | None = None
    session: Label | None = None
    credits: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None
    payload: Payload | None = None
    lease_seconds: Seconds | None = None
    wait_seconds: Annotated[float, Field(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)] = 0
    presence_seconds: Seconds | None = None
    started_by: Literal["caller", "gate"] | None = None
    queue_seconds: Seconds | None = None
    max_eta_seconds: Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)] | None = None


class LeaseBody(_Body):
    """The lease that the caller holds."""

    lease_id: LeaseId


class RenewBody(LeaseBody):
    """A heartbeat. The lease lasts `lease_seconds` from now, by default the job's own length. It is never shortened."""

    lease_seconds: Seconds | None = None


class ReleaseBody(LeaseBody):
    """How the job ended.

    With `refused`, the provider did not take the job. It goes back to its place in the queue, and nothing is refunded.
    """

    outcome: Literal["completed", "failed", "cancelled", "refused"]
    error: KeptText = None
    output: KeptOutput = None


class TaskBody(_Body):
    """The task at the provider. `provider` runs it, and `task_id` is its id there."""

    provider: PoolName
    task_id: Label
    lease_id: LeaseId | None = None


class CancelBody(_Body):
    """The jobs to cancel: those of a session, or those of a user. Name one of the two."""

    session: Label | None = None
    user: Label | None = None


class ReasonBody(_Body):
    """The reason of a change. The history keeps it."""

    reason: Text | None = None


class ApplyBody(_Body):
    """How to apply a callback that could not be read.

    `outcome` is how the provider's task ended, as you read it in the callback. `reason` says how you know. The history keeps
    it.
    """

    job_id: JobId
    outcome: Outcome
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_is_text)]


class DismissBody(_Body):
    """Why a callback is about no job. The reason is kept with it."""

    reason: Annotated[str, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_is_text)]


class PoolBody(_Body):
    """The settings to change. Settings that are not named stay as they are.

    With a limit below the number of jobs that hold a slot, these jobs go on. No job is granted a slot until enough have
    ended.
    """

    limit: Annotated[int, Field(ge=0, le=SLOTS_MAX)] | None = None
    lease_seconds: Seconds | None = None
    max_hold_seconds: Seconds | None = None
    claim_seconds: Seconds | None = None
    queue_seconds: Seconds | None = None
    queue_max: Annotated[int, Field(ge=0, le=QUEUE_MAX)] | None = None
    cooldown_seconds: Seconds | None = None
    max_active_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] | None = None
    refusals_before_passing: Annotated[int, Field(ge=1, le=REFUSALS_MAX)] | None = None
    queue_max_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] | None = None

    def in_ms(self) -> dict[str, int | bool]:
        """Return the settings that the body names, by their names in the ledger, with times in milliseconds."""
        return in_ms(self.model_dump(exclude_none=True))


class LeaseOut(BaseModel):
    """The lease of a job. No renewal extends `expires_at` beyond `hard_expires_at`. A newer grant has a higher `fence`."""

    lease_id: str | None
    fence: int
    granted_at: str
    expires_at: str
    hard_expires_at: str


class TaskOut(BaseModel):
    """The task at the provider. `task_id` is its id there."""

    provider: str
    task_id: str


class RefundOut(BaseModel):
    """The refund of a job. `owed` is true while the owner's function has still to pay it."""

    amount: int
    at: str | None
    owed: bool


class JobOut(BaseModel):
    """A job. An absent value is null. Times are RFC 3339 in UTC, with milliseconds.

    `payload` and `lease_id` are null for a caller that may not release. `queue_expires_at` is when the wait of a queued job ends. Time in
    which the pool is paused or cools down, or gate or a store is away, does not count, so it may move to a later time; it is null while the
    pool is paused. `likely` is `expires` when the estimate lies beyond it. `replayed` is there, and true, when an earlier call of `acquire`
    or `claim` has got this answer already.
    """

    job_id: str
    pool: str
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    task: TaskOut | None
    started_by: Literal["caller", "gate"]
    status: JobStatus
    position: int | None
    queue_length: int | None
    reason: Literal["pool_full", "paused", "cooling_down", "tool_down", "refused", "absent"] | None
    eta_seconds: float | None
    queue_expires_at: str | None
    likely: Literal["expires"] | None
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
    replayed: bool = False


class PoolOut(BaseModel):
    """A pool at one moment. `holders` and `queue` list jobs in order."""

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
    """The jobs that were cancelled. They were all waiting. `left_out` is how many of them `jobs` does not list."""

    cancelled: int
    jobs: list[JobOut]
    left_out: int


class DeletedOut(BaseModel):
    """The pool that was deleted."""

    pool: str
    deleted: Literal[True]


class HeardOut(BaseModel):
    """What gate did with a callback. `kept`: it waits until its task is bound. `late`: the job had ended before."""

    result: Literal["applied", "late", "kept", "ignored", "repeat"]


class UnreadOut(BaseModel):
    """A callback that could not be read.

    The same body came `times` times, first `at` and last `last_at`. `why` says what could not be read. `body` is cut to 4,000
    characters. `applied_at` and the fields after it are null until an operator has applied the callback to a job,
    or has dismissed it. The `outcome` of a dismissed one is `dismissed`, and its `job_id` stays null.
    """

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
    """A page of callbacks that could not be read. `next` is the `after` of the next page, and null where no row follows now."""

    rows: list[UnreadOut]
    next: int | None


class EventOut(BaseModel):
    """An event of a job.

    `kind` is the status that the job then had, or `task`, `callback`, `late`, `returned`, `seated`, `tool_down`, `refunded`.
    """

    at: str
    kind: str
    by: str
    why: str | None
    fence: int | None


class HistoryOut(BaseModel):
    """The events of a job, in order."""

    job_id: str
    events: list[EventOut]


class ProblemOut(BaseModel):
    """A refusal, as RFC 9457 `application/problem+json`. `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = None
    active_job_id: str | None = None
    eta_seconds: float | None = None
    job: JobOut | None = None


class EntryOut(BaseModel):
    """A charge or a refund."""

    id: int
    at: str
    job_id: str
    user: str | None
    pool: str
    kind: Literal["charge", "refund"]
    amount: int


class LedgerOut(BaseModel):
    """A page of charges and refunds. `next` is the `after` of the next page, and null where no row follows now."""

    rows: list[EntryOut]
    next: int | None


class BalanceOut(BaseModel):
    """The credits of a user. `net` is `charged` minus `refunded`."""

    user: str
    charged: int
    refunded: int
    net: int


def event_body(event: Event) -> dict[str, Any]:
    """Write an event as JSON."""
    return {"at": moment(event.at), "kind": event.kind, "by": event.by, "why": event.why, "fence": event.fence}


def unread_body(one: Unread, secrets: bool = True) -> dict[str, Any]:
    """Write an unread callback as JSON.

    Args:
        one: The callback.
        secrets: Whether the caller may act, and so may see the body that the provider sent.
    """
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
    """Write a pool as JSON.

    Args:
        view: The pool.
        secrets: Whether the caller may release, and so may see lease ids and payloads.
    """
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
    """Write a charge or a refund as JSON."""
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
    """Write the balance of a user as JSON."""
    net = balance.charged - balance.refunded
    return {"user": user, "charged": balance.charged, "refunded": balance.refunded, "net": net}
