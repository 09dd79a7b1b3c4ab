"""Callbacks of RunningHub: `{event: "TASK_END", taskId, eventData}`. They are not signed, so the secret is `?token=`.

`eventData` is an object, or the same as JSON in a string. It has an old shape `{code, msg, data}` or a new one
`{status, results, …}`. `gate.providers.runninghub_output` reads the output of either shape.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, NamedTuple

from gate.model.errors import Forged, Unreadable
from gate.model.limits import LABEL_MAX, TEXT_MAX
from gate.model.messages import Outcome, ProviderReport
from gate.providers.callback import NO_SECRET, Callback, Provider, plain_fault
from gate.providers.parsing import carries, kept_text, label, leniently, number
from gate.providers.runninghub_output import costs_of, output_of

NO_OUTPUT = "the task succeeded without output"
NO_REASON = "the task failed, no reason was given"
OUTCOMES: dict[str, Outcome | None] = {
    "SUCCESS": "completed", "FAILED": "failed", "CANCELED": "cancelled", "CANCELLED": "cancelled",
    "RUNNING": None, "QUEUED": None, "CREATE": None,
}  # fmt: skip
"""Outcomes by the `status` of the new shape. None when the task has not ended."""
PENDING_CODES = (804, 813)
"""Codes of the old shape for a task that runs or waits in the provider's queue."""
SAID_MAX = TEXT_MAX // 4
"""Characters of the provider's message, which stands in brackets after the reason. The reason must keep most of the text."""


class Ending(NamedTuple):
    """The end of a task. `understood` has the meaning of `ProviderReport.understood`."""

    outcome: Outcome
    error: str | None
    output: Any
    understood: bool = True


def read(callback: Callback) -> ProviderReport | None:
    """Read a callback.

    Returns:
        None when it does not end a task.

    Raises:
        Forged: The token is missing or wrong.
        Unreadable: The body has another form.
    """
    _check_token(callback)
    body = leniently(callback.body)
    if not isinstance(body, dict):
        raise Unreadable("body", "must be an object")
    if not isinstance(body.get("event"), str):
        raise Unreadable("event", "must be a string")
    if body["event"] != "TASK_END":
        return None
    task_id = label(body.get("taskId"), "taskId")
    event = body.get("eventData")
    if isinstance(event, str):
        event = leniently(event, "eventData")
    if not isinstance(event, dict):
        raise Unreadable("eventData", "must be an object, or one as JSON in a string")
    ending = _ending(event)
    if ending is None:
        return None
    outcome, error, output, understood = ending
    return ProviderReport(outcome, _delivery_id(task_id, outcome, error, output), task_id, None, error, output, understood)


def _check_token(callback: Callback) -> None:
    if not any(callback.secrets):
        raise Forged(NO_SECRET)
    shown = _bytes(callback.query.get("token", ""))
    if not any([hmac.compare_digest(shown, _bytes(secret)) for secret in callback.secrets if secret]):
        raise Forged("the token is missing or wrong")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _ending(event: dict[str, Any]) -> Ending | None:
    outcome = _outcome(event)
    if outcome is None:
        return None
    if outcome != "completed":
        return Ending(outcome, _why(event) or (NO_REASON if outcome == "failed" else None), costs_of(event) or None)
    found = output_of(event)
    if found is None:
        return Ending("failed", _with_brackets(NO_OUTPUT, _message(event)), costs_of(event) or None)
    return Ending("completed", None, *found)


def _outcome(event: dict[str, Any]) -> Outcome | None:
    status, code = event.get("status"), event.get("code")
    if status is not None:
        word = status.strip().upper() if isinstance(status, str) else ""
        if word not in OUTCOMES:
            raise Unreadable("eventData.status", f"must be one of {', '.join(OUTCOMES)}")
        return OUTCOMES[word]
    if code is None:
        raise Unreadable("eventData", "must have a code or a status")
    if isinstance(code, bool) or not isinstance(code, int | float | str):
        raise Unreadable("eventData.code", "must be a number")
    if number(code) == 0:
        return "completed"
    return None if number(code) in PENDING_CODES else "failed"


def _why(event: dict[str, Any]) -> str | None:
    """Find the reason of a failure, with the provider's message in brackets."""
    data, reason = event.get("data"), event.get("failedReason")
    if not carries(reason) and isinstance(data, dict):
        reason = data.get("failedReason")
    code = kept_text(event.get("errorCode"), LABEL_MAX) or kept_text(event.get("code"), LABEL_MAX)
    message, code = _message(event), code and f"code {code}"
    if isinstance(reason, dict):
        exception = kept_text(reason.get("exception_message")) or kept_text(reason.get("message"))
        if exception is None:
            return message or (kept_text(reason) if carries(reason) else code)
    else:
        exception = kept_text(reason)
    return _with_brackets(exception, message or code) if exception else message or code


def _message(event: dict[str, Any]) -> str | None:
    return kept_text(event.get("errorMessage")) or kept_text(event.get("msg"))


def _with_brackets(first: str, second: str | None) -> str:
    if second is None or second == first:
        return first
    return f"{kept_text(first, TEXT_MAX - min(len(second), SAID_MAX) - 3)} ({kept_text(second, SAID_MAX)})"


def _delivery_id(task_id: str, *meant: Any) -> str:
    """Make a delivery id from the meaning, because RunningHub sends none. A repeat gets the same id in either shape."""
    return hashlib.sha256(json.dumps([task_id, *meant], sort_keys=True).encode()).hexdigest()


PROVIDER = Provider("runninghub", read, plain_fault, ("taskId", "task_id"))
