"""fal: a task is a request of its queue. Its id is the path of the request, `OWNER/APP/requests/REQUEST_ID`.

The path is that of `response_url` in the answer of fal. The status of a request says that it is over, and not how. The status
code of its result does.

A callback is `{request_id, status: OK | ERROR, payload, error}`. fal signs it with keys that would have to be fetched, and a page
has no network. So the address has a secret as `?token=`, and the application as `&app=OWNER/APP`, because the callback does not
name it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gate.model.errors import Unreadable
from gate.model.limits import END_BODY_MAX_BYTES, TEXT_MAX
from gate.model.messages import Answer, AnswerState, ErrorKind, ProviderReport
from gate.providers.callback import Callback, Provider, check_token, plain_fault
from gate.providers.ending import Ending, end_answer, failure, report_of, success
from gate.providers.error_kind import kind_of
from gate.providers.output import output_of_any
from gate.providers.page import Further, ProviderPage, ProviderReply, ProviderRequest, answer_of, by_status, segment, word
from gate.providers.parsing import fields, kept_text, label, leniently

ALIVE: Final = {"IN_QUEUE": AnswerState.QUEUED, "IN_PROGRESS": AnswerState.RUNNING}
"""Statuses of a request that goes on."""
REQUESTS: Final = "requests"
"""Part of a task id between the application and the id of the request."""
NAMESPACES: Final = frozenset(("workflows", "comfy"))
"""First parts of applications that have three: a namespace, an owner and a name."""
CANCELLED: Final = "client_cancelled"
"""`error_type` of a request that was cancelled."""
OF_QUEUE: Final = frozenset((401, 402, 403, 404, 429))
"""Status codes about the question for a result. They are none of the request itself."""
REFUSED_INPUT: Final = frozenset((400, 422))
"""Status codes by which a model refuses its input. It may say why in a text of its own."""
KINDS: Final = {
    name: kind
    for kind, types in {
        ErrorKind.SAFETY: ("content_policy_violation", "no_media_generated"),
        ErrorKind.TIMEOUT: ("request_timeout", "startup_timeout", "generation_timeout"),
        ErrorKind.INFRASTRUCTURE: (
            "runner_scheduling_failure", "runner_connection_timeout", "runner_disconnected", "runner_connection_refused",
            "runner_connection_error", "runner_incomplete_response", "runner_server_error", "internal_error",
            "internal_server_error", "downstream_service_error", "downstream_service_unavailable",
        ),
        ErrorKind.INPUT: ("bad_request", "missing", "value_error", "image_too_small", "image_too_large", "image_load_error",
                          "file_download_error", "file_too_large", "face_detection_error"),
    }.items()
    for name in types
}  # fmt: skip
"""Kinds of failures by `error_type` of a request, or `type` of the first entry of `detail`."""


def read(callback: Callback) -> ProviderReport | None:
    """Read a callback. Each ends a task.

    Raises:
        Forged: The token is missing or wrong.
        Unreadable: The body has another form.
    """
    check_token(callback)
    body = leniently(callback.body)
    if not isinstance(body, dict):
        raise Unreadable("body", "must be an object")
    request_id, status = label(body.get("request_id"), "request_id"), word(body.get("status"))
    app = _app(callback.query.get("app", ""))
    task_id = label("/".join((*app, REQUESTS, request_id)), "app") if app else request_id
    if status == "OK":
        return report_of(task_id, _result(body.get("payload"), body.get("payload_error")))
    if status == "ERROR":
        return report_of(task_id, _failure(body.get("payload"), body.get("error")))
    raise Unreadable("status", "must be OK or ERROR")


def ask(task_id: str, key: str) -> ProviderRequest:
    """Make the request about the status of a request."""
    return ProviderRequest("GET", f"{_path(task_id)}/status", _headers(key))


def read_answer(task_id: str, reply: ProviderReply, key: str) -> Answer | Further[Answer]:
    """Read the status. A request that is over is asked for its result."""
    body = fields(reply.data)
    status = word(body.get("status"))
    own = body.get("request_id") in (None, task_id.rpartition("/")[2])
    if reply.status in (200, 202) and own and status in ALIVE:
        return answer_of(ALIVE[status], reply, status)
    if reply.status in (200, 202) and own and status == "COMPLETED":
        request = ProviderRequest("GET", _path(task_id), _headers(key), reply_max_bytes=END_BODY_MAX_BYTES)
        return Further(request, partial(_verdict, task_id))
    return _absent(reply)


def _verdict(task_id: str, reply: ProviderReply) -> Answer:
    """Read the result of a request that is over. Its status code is the verdict, when the request itself wrote the reply."""
    if reply.status == 200 and isinstance(reply.data, dict):
        return end_answer(task_id, _result(reply.data), "COMPLETED, HTTP 200")
    body = fields(reply.data)
    detail = body.get("detail")
    is_of_request = isinstance(body.get("error_type"), str) or isinstance(detail, list) or reply.status in REFUSED_INPUT
    if reply.status >= 400 and reply.status not in OF_QUEUE and detail and is_of_request and not _goes_on(reply):
        return end_answer(task_id, _failure(body, None), f"COMPLETED, HTTP {reply.status}")
    return _absent(reply)


def _goes_on(reply: ProviderReply) -> bool:
    return reply.status == 400 and "in progress" in str(fields(reply.data).get("detail"))


def _absent(reply: ProviderReply) -> Answer:
    body = fields(reply.data)
    if reply.status == 404 and (body.get("detail") or word(body.get("status")) == "NOT_FOUND"):
        return answer_of(AnswerState.UNKNOWN, reply, "HTTP 404", body.get("detail"))
    if _goes_on(reply):
        return answer_of(AnswerState.RUNNING, reply, body["detail"])
    return by_status(reply, body.get("detail"))


def stop(task_id: str, key: str) -> ProviderRequest:
    """Make the request that cancels a request."""
    return ProviderRequest("PUT", f"{_path(task_id)}/cancel", _headers(key))


def read_stop(task_id: str, reply: ProviderReply, key: str) -> Answer:
    """Read the reply to `stop`. Only a request that still waited is over then; a model decides when it stops."""
    status = word(fields(reply.data).get("status"))
    if reply.status == 200 and status == "OK":
        return end_answer(task_id, Ending("cancelled", None), "it left the queue")
    if reply.status in (200, 202) and status == "CANCELLATION_REQUESTED":
        return answer_of(AnswerState.RUNNING, reply, status)
    if reply.status == 400 and status == "ALREADY_COMPLETED":
        return answer_of(AnswerState.UNCLEAR, reply, status)
    return _absent(reply)


def _result(payload: Any, error: object = None) -> Ending:
    if payload is None and error:
        return Ending("completed", None, {"files": [], "raw": {"payload_error": kept_text(error)}}, understood=False)
    return success(output_of_any(payload, {}))


def _failure(payload: Any, error: object) -> Ending:
    body = fields(payload)
    detail = body.get("detail")
    first = fields(detail[0]) if isinstance(detail, list) and detail else {}
    said = kept_text(first.get("msg")) or kept_text(detail) or kept_text(error)
    place = ".".join(str(part) for part in first.get("loc", ()) if isinstance(part, str | int)) if _has_place(first) else ""
    text = kept_text(f"{said} ({place})", TEXT_MAX) if said and place else said
    if body.get("error_type") == CANCELLED:
        return Ending("cancelled", text)
    kind = kind_of(text, body.get("error_type"), first.get("type"), known=KINDS)
    return failure(text, ErrorKind.INPUT if kind is ErrorKind.UNKNOWN and place else kind)


def _has_place(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("loc"), list) and 0 < len(entry["loc"]) <= 8


def _path(task_id: str) -> str:
    """Return the path of a request. An address of the queue has the application without the path of a model in it.

    An id without an application leads to an address that fal does not have. So fal says that it does not know the task.
    """
    app, _, request_id = task_id.rpartition(f"/{REQUESTS}/")
    return "/" + "/".join(map(segment, (*_app(app), REQUESTS, request_id or task_id)))


def _app(text: str) -> list[str]:
    parts = [part for part in text.split("/") if part]
    return parts[: 3 if parts and parts[0] in NAMESPACES else 2]


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Key {key}"} if key else {}


PROVIDER = Provider("fal", read, plain_fault, ("request_id",))
PAGE = ProviderPage("fal", "https://queue.fal.run", ask, read_answer, stop, read_stop)
