"""Replicate: a task is a prediction, and its id is the prediction's.

Callbacks are the prediction itself, signed as Standard Webhooks specifies. A question about it is answered with the same object:
`{id, status, output, error, metrics, …}`.
"""

from __future__ import annotations

from typing import Any, Final

from gate.model.errors import Unreadable
from gate.model.limits import END_BODY_MAX_BYTES
from gate.model.messages import Answer, AnswerState, ErrorKind, ProviderReport
from gate.providers import standard
from gate.providers.callback import Callback, Provider
from gate.providers.ending import Ending, end_answer, failure, report_of, success
from gate.providers.error_kind import kind_of
from gate.providers.output import output_of_any
from gate.providers.page import (
    ProviderPage,
    ProviderReply,
    ProviderRequest,
    answer_of,
    bearer,
    by_status,
    names,
    segment,
    word,
)
from gate.providers.parsing import fields, kept_output, kept_text, label, leniently

ALIVE: Final = {"STARTING": AnswerState.QUEUED, "PROCESSING": AnswerState.RUNNING}
"""Statuses of a prediction that goes on. One that starts has no machine yet."""
ENDS: Final = frozenset(("SUCCEEDED", "FAILED", "CANCELED", "ABORTED"))
"""Statuses of a prediction that is over."""
ABORTED: Final = "aborted: its deadline passed before it began"
KINDS: Final = (
    ("E005", ErrorKind.SAFETY), ("E003", ErrorKind.BUSY), ("E006", ErrorKind.INPUT), ("E1001", ErrorKind.INFRASTRUCTURE),
    ("E6716", ErrorKind.INFRASTRUCTURE), ("E8765", ErrorKind.INFRASTRUCTURE), ("E9828", ErrorKind.INFRASTRUCTURE),
    ("code: PA", ErrorKind.INFRASTRUCTURE),
)  # fmt: skip
"""Kinds of failures by the code in brackets after the error. A model that ran out of memory may have met a full machine."""
METRICS_MAX_BYTES: Final = 4 * 1024
"""Size (bytes) of `metrics` that is kept. A real one has some hundred bytes."""


def read(callback: Callback) -> ProviderReport | None:
    """Read a callback.

    Returns:
        None when it does not end a task.

    Raises:
        Forged: The signature or the timestamp is missing or wrong.
        Unreadable: The body has another form.
    """
    delivery_id = standard.check_signature(callback)
    body = leniently(callback.body)
    if not isinstance(body, dict):
        raise Unreadable("body", "must be an object")
    task_id, status = label(body.get("id"), "id"), word(body.get("status"))
    if status in ALIVE:
        return None
    if status not in ENDS:
        raise Unreadable("status", f"must be one of {', '.join(name.lower() for name in (*ALIVE, *sorted(ENDS)))}")
    return report_of(task_id, _ending(body, status), delivery_id)


def ask(task_id: str, key: str) -> ProviderRequest:
    """Make the request about a prediction. The reply has its input and its logs too."""
    path = f"/v1/predictions/{segment(task_id)}"
    return ProviderRequest("GET", path, bearer(key), reply_max_bytes=END_BODY_MAX_BYTES)


def read_answer(task_id: str, reply: ProviderReply, key: str) -> Answer:
    """Read a prediction."""
    body = fields(reply.data)
    status = word(body.get("status"))
    if reply.status in (200, 201, 202) and names(body.get("id"), task_id):
        if status in ENDS:
            return end_answer(task_id, _ending(body, status), status.lower())
        if status in ALIVE:
            return answer_of(ALIVE[status], reply, status.lower())
    if reply.status == 404 and isinstance(body.get("detail"), str):
        return answer_of(AnswerState.UNKNOWN, reply, "HTTP 404", body["detail"])
    return by_status(reply, body.get("title"), body.get("detail"))


def stop(task_id: str, key: str) -> ProviderRequest:
    """Make the request that cancels a prediction. The reply is the prediction."""
    path = f"/v1/predictions/{segment(task_id)}/cancel"
    return ProviderRequest("POST", path, bearer(key), reply_max_bytes=END_BODY_MAX_BYTES)


def _ending(body: dict[str, Any], status: str) -> Ending:
    error = kept_text(body.get("error"))
    costs = {"usage": kept_output(body["metrics"], METRICS_MAX_BYTES)} if fields(body.get("metrics")) else {}
    if status == "SUCCEEDED":
        return success(output_of_any(body.get("output"), costs), costs=costs or None)
    if status == "CANCELED":
        return Ending("cancelled", error, costs or None)
    if status == "ABORTED":
        return failure(error or ABORTED, ErrorKind.TIMEOUT, costs or None)
    kind = next((kind for code, kind in KINDS if f"({code})" in (error or "")), None)
    return failure(error, kind or kind_of(error), costs or None)


PROVIDER = Provider("replicate", read, standard.fault, ("id",))
PAGE = ProviderPage("replicate", "https://api.replicate.com", ask, read_answer, stop, read_answer)
