"""Bodies of the compatible routes. Unknown fields are ignored, and an invalid label never keeps a job from running."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from gate.http import schemas
from gate.http.auth.roles import Caller
from gate.model.label import is_label
from gate.model.limits import CREDITS_MAX
from gate.model.tool import Tools
from gate.providers.parsing import clean, kept_text

UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def _an_id(value: Any) -> Any:
    """Return the job_id that a value names: a number as text, and a UUID in lower case, as Postgres writes the row's own id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.lower() if isinstance(value, str) and UUID.fullmatch(value) else value


Id = Annotated[schemas.JobId, BeforeValidator(_an_id)]
"""A job_id. Callers may send it as a number, and a UUID in either case."""


def _a_name(value: Any) -> str | int | None:
    """Return the value, or None if it cannot be a name. An invalid name must not keep a job from running."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, str) and (not value or is_label(value)) else None


def _or_none(value: Any) -> Any:
    return None if value == "" else value


def _a_task(value: Any) -> str | None:
    """Return a provider's task id as text, exact even if it is a number. None if the value cannot be one."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return text if is_label(text) else None


def _a_number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


OUTCOMES = {
    "completed": ("completed", "complete", "success", "succeeded", "successful", "done", "finished"),
    "failed": ("failed", "fail", "failure", "error", "errored", "timeout", "timed_out", "expired"),
    "cancelled": ("cancelled", "canceled", "cancel", "aborted"),
}
"""Words that callers and providers use for each outcome, in lower case."""
_OUTCOME_OF = {word: outcome for outcome, words in OUTCOMES.items() for word in words}


def _an_outcome(value: Any) -> Any:
    """Return the outcome that a status word means. An unknown word is returned as it is, and then refused."""
    return _OUTCOME_OF.get(value.strip().lower(), value) if isinstance(value, str) else value


def _a_payload(value: Any) -> str | None:
    """Return a provider's payload as text that SQL takes. None if there is none, or it cannot be written as JSON."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return clean(text) if value is not None else None


class Body(BaseModel):
    """A body of a compatible route, with the facts of its request that the answer depends on."""

    model_config = ConfigDict(extra="ignore")
    _asking: Caller = PrivateAttr()
    _tools: Tools = PrivateAttr()
    _counts_slots: bool = PrivateAttr()


class CheckBody(Body):
    """Body of `check`. Without `jobId` it only counts slots."""

    table: schemas.Label | None = None
    jobId: Id | None = None
    userId: Annotated[schemas.Label | None, BeforeValidator(_or_none)] = None
    creditCost: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None


class EnqueueBody(CheckBody):
    """Body of `enqueue` and `run-or-queue`."""

    table: schemas.Label
    jobId: Id
    sessionId: Annotated[schemas.Label | None, BeforeValidator(_or_none)] = None
    job_payload: schemas.Payload | None = None
    webappId: Annotated[str | int | None, BeforeValidator(_a_name)] = None


class UserBody(Body):
    """Body of `check-user-active`."""

    userId: schemas.Label


class FinishBody(Body):
    """Body of `finish`. An end is never refused for its text: text that no store keeps is cleaned, cut or left out."""

    table: schemas.Label
    jobId: Id
    status: Annotated[Literal["completed", "failed", "cancelled"], BeforeValidator(_an_outcome)]
    outputUrl: Annotated[str | None, BeforeValidator(kept_text)] = None
    errorMessage: Annotated[str | None, BeforeValidator(kept_text)] = None
    taskId: Annotated[str | None, BeforeValidator(_a_task)] = None
    rhCost: Annotated[float | int | None, BeforeValidator(_a_number)] = None
    notAdmitted: bool = False
    webhookPayload: Annotated[str | None, BeforeValidator(_a_payload)] = None


class JobBody(Body):
    """Body of `reconcile`."""

    table: schemas.Label
    jobId: Id


class SessionBody(Body):
    """Body of `cancel-session`."""

    sessionId: Annotated[schemas.Label | None, BeforeValidator(_or_none)] = None
    userId: Annotated[schemas.Label | None, BeforeValidator(_or_none)] = None


class CancelBody(Body):
    """Body of the procedure `user_cancel_ai_job`."""

    p_table_name: schemas.Label
    p_job_id: Id
