"""Replies of RunningHub that are not about what a task does: errors, starts and counts.

The calls of v1, and both counts, reply with `{code, msg, data}`. The run and the query of v2 reply with the task itself, and
name an error in it by `errorCode` and `errorMessage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from gate.simulator.plan import Call

Form = Literal["v1", "v2"]
"""Form of a reply."""
SUCCESS: Final = {"code": 0, "msg": "success"}
"""Code and message of a success in the old shape."""
NO_TASK, RATE, NO_CANCEL, PARAMS, NO_METHOD, NO_PARAM = 807, 1003, 817, 301, 1009, 1601
MESSAGES: Final = {
    PARAMS: "PARAMS_INVALID", 415: "TASK_INSTANCE_MAXED", 416: "TASK_CREATE_FAILED_BY_NOT_ENOUGH_WALLET", 421: "TASK_QUEUE_MAXED",
    801: "APIKEY_UNSUPPORTED_FREE_USER", 802: "APIKEY_UNAUTHORIZED", 806: "APIKEY_USER_NOT_FOUND", NO_TASK: "APIKEY_TASK_NOT_FOUND",
    811: "CORPAPIKEY_INVALID", 812: "CORPAPIKEY_INSUFFICIENT_FUNDS", NO_CANCEL: "APIKEY_TASK_CANCEL_NOT_ALLOWED",
    1002: "Invalid API key", RATE: "rate limit", NO_METHOD: "Request method not supported", 1011: "system busy",
    1014: "Access denied", 1520: "queue limit", NO_PARAM: "param apiKey is required",
}  # fmt: skip
"""Message of each code that is in a body."""
V2_CALLS: Final[frozenset[Call]] = frozenset(("query", "queue"))
"""Calls that exist in v2 only. A run has either form."""
WRONG_KEY: Final = 802
"""Code of a key that v1 does not know. v2 answers such a key with the HTTP status 401."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the provider.

    Attributes:
        body: Its JSON.
        status: Its HTTP status.
    """

    body: dict[str, Any]
    status: int = 200


def success(data: Any) -> Reply:
    """Make the reply of v1 to a call that succeeded."""
    return Reply(SUCCESS | {"data": data})


def refused(form: Form, code: int) -> Reply:
    """Make the reply to a call that did not succeed.

    Args:
        form: Form of the reply.
        code: Its code. One without a message is the HTTP status.
    """
    if code not in MESSAGES:
        return Reply({"error": "the provider cannot answer"}, code)
    if form == "v2":
        return Reply({"taskId": "", "status": "FAILED", "errorCode": code, "errorMessage": MESSAGES[code], "results": None})
    return Reply({"code": code, "msg": MESSAGES[code], "data": None})


def unknown(form: Form) -> Reply:
    """Make the reply about a task that the provider, or this key, does not have."""
    if form == "v1":
        return refused(form, NO_TASK)
    quiet: dict[str, Any] = {"failedReason": {}, "results": None}
    return Reply({"taskId": "", "status": "", "errorCode": str(NO_TASK), "errorMessage": MESSAGES[NO_TASK], **quiet})


def wrong_key(call: Call, form: Form, code: int | None) -> Reply:
    """Make the reply to a key that is not valid.

    Args:
        call: The call.
        form: Form of its replies.
        code: Code of the key's plan; None for a key that the provider does not know.
    """
    is_v2 = form == "v2" or call in V2_CALLS
    status = code if code in (401, 403) else 401 if code is None and is_v2 else None
    if status is not None:
        return Reply({"code": status, "msg": "ApiKey verification failed"}, status)
    return refused(form, code or WRONG_KEY)


def started(form: Form, task_id: str, status: str) -> Reply:
    """Make the reply to a run call that started a task.

    Args:
        form: Form of the reply.
        task_id: The task.
        status: RUNNING or QUEUED.
    """
    if form == "v2":
        return Reply({"taskId": task_id, "status": status, "errorCode": "", "errorMessage": "", "results": None})
    return success({"taskId": task_id, "taskStatus": status, "clientId": "simulator", "netWssUrl": None})


def echoed(value: Any, key: str) -> Any:
    """Return a reply or a callback with the key in every error text, every address and every usage.

    Args:
        value: JSON of the reply.
        key: The key; empty for none.
    """
    if not key:
        return value
    body = _echoed(value, key)
    return body | {"apiKey": key} if isinstance(body, dict) else body


def _echoed(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_echoed(one, key) for one in value]
    if not isinstance(value, dict):
        return value
    body = {name: _echoed(one, key) for name, one in value.items()}
    for name, one in body.items():
        if name in ("url", "fileUrl") and one:
            body[name] = f"{one}?apiKey={key}"
        elif name in ("errorMessage", "exception_message", "error") and isinstance(one, str) and one:
            body[name] = f"{one} (key {key})"
        elif name == "usage" and isinstance(one, dict):
            body[name] = one | {"apiKey": key}
    if body.get("msg") not in (None, SUCCESS["msg"]):
        body["msg"] = f"{body['msg']} (key {key})"
    return body
