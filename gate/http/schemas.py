"""The JSON of requests of version 1: the types of its fields, and the models that check a body."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gate.model.job import JOB_ID, POOL_NAME, CancelRefunds, in_ms
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
    """The task at the provider. `provider` runs it, and `task_id` is its id there.

    `account` is the name of the account on which it runs, as `gate.toml` has it. By default it is the one that the grant chose.
    """

    provider: PoolName
    task_id: Label
    lease_id: LeaseId | None = None
    account: PoolName | None = None


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
    cancel_refunds: CancelRefunds | None = None

    def in_ms(self) -> dict[str, Any]:
        """Return the settings that the body names, by their names in the ledger, with times in milliseconds."""
        return in_ms(self.model_dump(exclude_none=True))
