"""The page of RunningHub: the query of v2, then the outputs of v1; the cancel of v1; the queue status of v2, then the account.

The query answers with the task itself, `{taskId, status, errorCode, errorMessage, results, …}`. The others answer with
`{code, msg, data}`. Codes are numbers, and sometimes text or the name of the code.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gate.model.messages import Answer, AnswerState, Room
from gate.providers.ending import end_answer
from gate.providers.page import (
    Further,
    ProviderPage,
    ProviderReply,
    ProviderRequest,
    answer_of,
    bearer,
    by_status,
    json_body,
    names,
    tally,
    word,
)  # fmt: skip
from gate.providers.parsing import fields, number
from gate.providers.runninghub import ending_of

ENDS: Final = frozenset(("SUCCESS", "FAILED", "CANCELED", "CANCELLED"))
"""Statuses of a task that is over."""
ALIVE: Final = {"RUNNING": AnswerState.RUNNING, "QUEUED": AnswerState.QUEUED, "CREATE": AnswerState.QUEUED}
"""Statuses of a task that goes on."""
NO_CODE, OK, STATUS_ERROR, NO_CANCEL, RATE_LIMIT, BAD_PARAMETER = -1, 0, 805, 817, 1003, 1007
CODES: Final = {
    code: state
    for state, codes in {
        AnswerState.RUNNING: (804,),
        AnswerState.QUEUED: (813,),
        AnswerState.UNKNOWN: (423, 807, 1004),
        AnswerState.BUSY: (415, 421, 429, 500, 502, 503, 504, RATE_LIMIT, 1005, 1010, 1011, 1012),
        AnswerState.BAD_KEY: (401, 403, 416, 801, 802, 806, 811, 812, 1002, 1014),
    }.items()
    for code in codes
}
"""Meaning of each code. 416 and 812 are an empty wallet, which needs its owner as a wrong key does."""
CODE_NAMES: Final = {
    "APIKEY_TASK_IS_RUNNING": 804, "APIKEY_TASK_IS_QUEUED": 813, "APIKEY_TASK_NOT_FOUND": 807, "TASK_NOT_FOUNED": 423,
    "APIKEY_TASK_STATUS_ERROR": STATUS_ERROR, "APIKEY_TASK_CANCEL_NOT_ALLOWED": NO_CANCEL, "TASK_QUEUE_MAXED": 421,
    "TASK_INSTANCE_MAXED": 415, "APIKEY_UNSUPPORTED_FREE_USER": 801, "APIKEY_UNAUTHORIZED": 802, "APIKEY_USER_NOT_FOUND": 806,
    "CORPAPIKEY_INVALID": 811, "CORPAPIKEY_INSUFFICIENT_FUNDS": 812,
}  # fmt: skip
"""Names of codes, which stand in `msg`, and sometimes in `code` itself."""


def ask(task_id: str, key: str) -> ProviderRequest:
    """Make the request about a task."""
    return _post("/openapi/v2/query", {"taskId": task_id}, key)


def read_answer(task_id: str, reply: ProviderReply, key: str) -> Answer | Further[Answer]:
    """Read the task. One that v2 does not know is asked of v1, which keeps other tasks.

    Some versions of v2 call the id of such a task a bad parameter.
    """
    answer = _queried(task_id, reply)
    is_refused = answer.state is AnswerState.UNCLEAR and _task_code(fields(reply.data)) == BAD_PARAMETER
    if answer.state is not AnswerState.UNKNOWN and not is_refused:
        return answer
    request = _post("/task/openapi/outputs", {"apiKey": key, "taskId": task_id}, key)
    return Further(request, partial(_outputs, task_id))


def _queried(task_id: str, reply: ProviderReply) -> Answer:
    task = fields(reply.data)
    code = _task_code(task)
    status, state = word(task.get("status")), CODES.get(code)
    is_own = reply.status == 200 and names(task.get("taskId"), task_id)
    about_request = state in (AnswerState.BAD_KEY, AnswerState.UNKNOWN) or code == RATE_LIMIT
    if is_own and not about_request and status in ENDS:
        return _ended(task_id, task, status)
    if is_own and not about_request and status in ALIVE:
        return answer_of(ALIVE[status], reply, status)
    return _by_code(code, reply, task.get("errorMessage"), task.get("msg"))


def _outputs(task_id: str, reply: ProviderReply) -> Answer:
    """Read the outputs of v1. Without a list of files, a code 0 says nothing: a task that runs has it too."""
    body = fields(reply.data)
    code, data = _code(body.get("code"), name=body.get("msg")), body.get("data")
    if reply.status == 200 and code == OK and isinstance(data, list):
        return _ended(task_id, _event(OK, body), "SUCCESS")
    if reply.status == 200 and code == STATUS_ERROR and fields(data).get("failedReason"):
        return _ended(task_id, _event(STATUS_ERROR, body), "APIKEY_TASK_STATUS_ERROR")
    return _by_code(code, reply, body.get("msg"))


def stop(task_id: str, key: str) -> ProviderRequest:
    """Make the request that stops a task."""
    return _post("/task/openapi/cancel", {"apiKey": key, "taskId": task_id}, key)


def read_stop(task_id: str, reply: ProviderReply, key: str) -> Answer:
    """Read the reply to `stop`. The task is still to be asked about: an accepted cancel takes its time."""
    body = fields(reply.data)
    code = _code(body.get("code"), name=body.get("msg"))
    if reply.status == 200 and code == OK:
        return answer_of(AnswerState.RUNNING, reply, "the cancel is accepted")
    return _by_code(code, reply, body.get("msg"))


def count(key: str) -> ProviderRequest:
    """Make the request about the queue of an account."""
    return ProviderRequest("GET", "/openapi/v2/queue/status", bearer(key))


def read_count(reply: ProviderReply, key: str) -> Room | Answer | Further[Room | Answer]:
    """Read the queue of an account. Keys that have none are asked about as accounts, which have no limit."""
    found = _room(reply)
    if isinstance(found, Room) or found.state in (AnswerState.BAD_KEY, AnswerState.BUSY):
        return found
    return Further(_post("/uc/openapi/accountStatus", {"apikey": key}, key), _room)


def _room(reply: ProviderReply) -> Room | Answer:
    body = fields(reply.data)
    data, code = fields(body.get("data")), _code(body.get("code"), name=body.get("msg"))
    running, queued = tally(data.get("runningCount")), tally(data.get("queuedCount"))
    both = None if running is None or queued is None else running + queued
    totals = (tally(data.get("totalCurrentTasks")), both, tally(data.get("currentTaskCounts")))
    total = next((one for one in totals if one is not None), None)
    if reply.status == 200 and code == OK and total is not None:
        return Room(tally(data.get("concurrentLimit")), total)
    return _by_code(code, reply, body.get("msg"))


def _ended(task_id: str, event: dict[str, Any], why: str) -> Answer:
    ending = ending_of(event)
    assert ending is not None, "a status of ENDS, and code 0 or 805, end a task"
    return end_answer(task_id, ending, why)


def _event(code: int, body: dict[str, Any]) -> dict[str, Any]:
    """Make the event of a callback in the old shape. A `status` beside it would be read before the code."""
    return {name: value for name, value in body.items() if name != "status"} | {"code": code}


def _by_code(code: int, reply: ProviderReply, *messages: object) -> Answer:
    said = [f"code {code}"] if code > 0 else []
    by_http = by_status(reply, *said, *messages)
    state = CODES.get(code)
    return by_http if state is None or by_http.state is not AnswerState.UNCLEAR else answer_of(state, reply, *said, *messages)


def _task_code(task: dict[str, Any]) -> int:
    return _code(task.get("errorCode"), task.get("code"), name=task.get("msg"))


def _code(*values: object, name: object) -> int:
    """Return the first code that is not 0, from a number or a name. Without one it is 0 or NO_CODE."""
    found = [CODE_NAMES.get(word(value), number(value)) for value in values] + [CODE_NAMES.get(word(name))]
    codes = [code for code in found if isinstance(code, int)]
    return next((code for code in codes if code != OK), OK if codes else NO_CODE)


def _post(path: str, body: dict[str, str], key: str) -> ProviderRequest:
    return ProviderRequest("POST", path, {"Content-Type": "application/json", **bearer(key)}, json_body(body))


PAGE = ProviderPage("runninghub", "https://www.runninghub.ai", ask, read_answer, stop, read_stop, count, read_count)
