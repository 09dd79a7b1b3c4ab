"""Callbacks of RunningHub: `{event: "TASK_END", taskId, eventData}`. They are not signed, so the secret is `?token=`.

`eventData` is an object, or the same as JSON in a string. It has an old shape `{code, msg, data}` or a new one
`{status, results, …}`. `gate.providers.runninghub_output` reads the output of either shape.
"""

from __future__ import annotations

from typing import Any, Final

from gate.model.errors import Unreadable
from gate.model.limits import LABEL_MAX, TEXT_MAX
from gate.model.messages import ErrorKind, Outcome, ProviderReport
from gate.providers.callback import Callback, Provider, check_token, plain_fault
from gate.providers.ending import NO_OUTPUT, Ending, failure, report_of, success
from gate.providers.error_kind import kind_of
from gate.providers.parsing import carries, fields, kept_text, label, leniently, number
from gate.providers.runninghub_output import costs_of, output_of

OUTCOMES: dict[str, Outcome | None] = {
    "SUCCESS": "completed", "FAILED": "failed", "CANCELED": "cancelled", "CANCELLED": "cancelled",
    "RUNNING": None, "QUEUED": None, "CREATE": None,
}  # fmt: skip
"""Outcomes by the `status` of the new shape. None when the task has not ended."""
PENDING_CODES = (804, 813)
"""Codes of the old shape for a task that runs or waits in the provider's queue."""
KINDS: Final = {
    str(code): kind
    for kind, codes in {
        ErrorKind.BUSY: (415, 421, 1003, 1011, 1520),
        ErrorKind.SAFETY: (1501, 1505),
        ErrorKind.INFRASTRUCTURE: (500, 808, 1005, 1010, 1012, 1015),
        ErrorKind.TIMEOUT: (1006, 1504),
        ErrorKind.INPUT: (301, 380, 433, 803, 809, 810, 901, 1007, 1008, 1101),
        ErrorKind.QUOTA: (416, 812),
    }.items()
    for code in codes
}
"""Kinds of failures by the provider's code. 805 is any failure of a workflow; its text decides."""
SAID_MAX = TEXT_MAX // 4
"""Characters of the provider's message, which stands in brackets after the reason. The reason must keep most of the text."""


def read(callback: Callback) -> ProviderReport | None:
    """Read a callback.

    Returns:
        None when it does not end a task.

    Raises:
        Forged: The token is missing or wrong.
        Unreadable: The body has another form.
    """
    check_token(callback)
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
    ending = ending_of(event)
    return None if ending is None else report_of(task_id, ending)


def ending_of(event: dict[str, Any]) -> Ending | None:
    """Read the end of a task from an event of either shape.

    Returns:
        None when the task goes on.

    Raises:
        Unreadable: The status or the code has another form.
    """
    outcome = _outcome(event)
    if outcome is None:
        return None
    costs = costs_of(event) or None
    if outcome == "completed":
        return success(output_of(event), _with_brackets(NO_OUTPUT, _message(event)), costs)
    why = _why(event)
    return failure(why, _kind(event, why), costs) if outcome == "failed" else Ending(outcome, why, costs)


def _kind(event: dict[str, Any], why: str | None) -> ErrorKind:
    reason = event.get("failedReason") or fields(event.get("data")).get("failedReason")
    said = " ".join(filter(None, (kept_text(fields(reason).get("exception_type")), why)))
    return kind_of(said, event.get("errorCode"), event.get("code"), known=KINDS)


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


PROVIDER = Provider("runninghub", read, plain_fault, ("taskId", "task_id"))
