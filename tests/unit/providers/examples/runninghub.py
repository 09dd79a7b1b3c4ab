"""RunningHub: `/openapi/v2/query`, `/task/openapi/outputs` and `cancel`, `/openapi/v2/queue/status`, `/uc/openapi/accountStatus`."""

from __future__ import annotations

import json
from typing import Any

from gate.model.messages import AnswerState, ErrorKind, Room
from gate.providers.callback import Callback
from tests.unit.providers.examples.shape import Example, Examples, Reply

TASK = "2009191190196789249"
URL = "https://rh-images.example/2009191190196789249.png"
QUIET: dict[str, Any] = {
    "errorCode": "",
    "errorMessage": "",
    "failedReason": {},
    "results": None,
    "clientId": "",
    "promptTips": "",
}
COSTS = {"usage": {"consumeCoins": "17", "taskCostTime": "83", "consumeMoney": None, "thirdPartyConsumeMoney": None}}
DONE = {"taskId": TASK, "status": "SUCCESS", **QUIET, "results": [{"url": URL, "outputType": "png", "text": None}], **COSTS}
OOM = {
    "node_id": "13", "node_name": "WanVideoSampler", "exception_type": "torch.OutOfMemoryError",
    "exception_message": "Allocation on device", "traceback": "[]",
}  # fmt: skip
STALE = {"node_name": "LoadImage", "exception_message": "[Errno 116] Stale file handle: '/data/input/a.png'", "node_id": "4"}
FAILED = {"taskId": TASK, "status": "FAILED", **QUIET, "errorCode": "805", "errorMessage": "APIKEY_TASK_STATUS_ERROR",
          "failedReason": OOM}  # fmt: skip
GONE = Reply({"taskId": "", "status": "", **QUIET, "errorCode": "1004", "errorMessage": "Task does not exist or has expired"})


def v1(code: Any, msg: str, data: Any = None, status: int = 200) -> Reply:
    return Reply({"code": code, "msg": msg, "data": data}, status)


def v2(code: str, message: str, **more: Any) -> Reply:
    return Reply({"taskId": "", "status": "FAILED", **QUIET, "errorCode": code, "errorMessage": message, **more})


def callback(event: dict[str, Any]) -> Callback:
    body = {"event": "TASK_END", "taskId": TASK, "eventData": json.dumps(event)}
    return Callback({}, {"token": "t"}, json.dumps(body).encode(), ["t"], 0)


OUTPUTS = [{"fileUrl": URL, "fileType": "png", "taskCostTime": "83", "nodeId": "12", "consumeCoins": "17"}]
FILE = {"url": URL, "type": "png"}
CODES = {
    "804": AnswerState.RUNNING, "813": AnswerState.QUEUED, "1003": AnswerState.BUSY, "1005": AnswerState.BUSY,
    "1010": AnswerState.BUSY, "1011": AnswerState.BUSY, "1012": AnswerState.BUSY, "421": AnswerState.BUSY,
    "801": AnswerState.BAD_KEY, "802": AnswerState.BAD_KEY, "806": AnswerState.BAD_KEY, "811": AnswerState.BAD_KEY,
    "812": AnswerState.BAD_KEY, "1002": AnswerState.BAD_KEY, "1014": AnswerState.BAD_KEY, "416": AnswerState.BAD_KEY,
    "301": AnswerState.UNCLEAR, "1001": AnswerState.UNCLEAR, "9999": AnswerState.UNCLEAR,
}  # fmt: skip
ASK = {
    "queued": Example(AnswerState.QUEUED, (Reply({"taskId": TASK, "status": "QUEUED", **QUIET}),)),
    "created": Example(AnswerState.QUEUED, (Reply({"taskId": TASK, "status": "CREATE", **QUIET}),)),
    "running": Example(AnswerState.RUNNING, (Reply({"taskId": TASK, "status": "RUNNING", **QUIET}),)),
    "a task as a number": Example(AnswerState.RUNNING, (Reply({"taskId": int(TASK), "status": "RUNNING", **QUIET}),)),
    "completed": Example(
        AnswerState.ENDED, (Reply(DONE),), "completed", output={"files": [FILE], "coins": 17, **COSTS},
    ),
    "failed": Example(AnswerState.ENDED, (Reply(FAILED),), "failed", ErrorKind.INFRASTRUCTURE,
                      "Allocation on device (APIKEY_TASK_STATUS_ERROR)"),
    "failed: stale file handle": Example(AnswerState.ENDED, (Reply(FAILED | {"failedReason": STALE}),), "failed",
                                         ErrorKind.INFRASTRUCTURE),
    "failed: content": Example(
        AnswerState.ENDED,
        (Reply(FAILED | {"errorCode": "1501", "errorMessage": "Content security check failed", "failedReason": {}}),),
        "failed", ErrorKind.SAFETY, "Content security check failed",
    ),
    "failed: upstream": Example(
        AnswerState.ENDED, (Reply(FAILED | {"errorCode": "1012", "errorMessage": "upstream", "failedReason": None}),),
        "failed", ErrorKind.INFRASTRUCTURE, "upstream",
    ),
    "failed: no reason": Example(
        AnswerState.ENDED, (Reply({"taskId": TASK, "status": "FAILED", **QUIET}),), "failed", ErrorKind.UNKNOWN,
        "the task failed, no reason was given",
    ),
    "cancelled": Example(AnswerState.ENDED, (Reply({"taskId": TASK, "status": "CANCELLED", **QUIET}),), "cancelled"),
    "canceled": Example(AnswerState.ENDED, (Reply({"taskId": TASK, "status": "CANCELED", **QUIET}),), "cancelled"),
    "a success without output": Example(
        AnswerState.ENDED, (Reply(DONE | {"results": []}),), "failed", ErrorKind.UNKNOWN, "the task succeeded without output",
        COSTS | {"coins": 17}, is_without_output=True,
    ),
    "unknown": Example(AnswerState.UNKNOWN, (GONE, v1(807, "APIKEY_TASK_NOT_FOUND"))),
    "unknown, said as a failure of this task": Example(
        AnswerState.UNKNOWN, (v2("1004", "Task does not exist", taskId=TASK), v1(423, "TASK_NOT_FOUNED"))
    ),
    "v1 knows it: running": Example(AnswerState.RUNNING, (GONE, v1(804, "APIKEY_TASK_IS_RUNNING", {"netWssUrl": "wss://x"}))),
    "v1 knows it: queued": Example(AnswerState.QUEUED, (GONE, v1(0, "APIKEY_TASK_IS_QUEUED"))),
    "v1 knows it: completed": Example(
        AnswerState.ENDED, (GONE, v1(0, "success", OUTPUTS)), "completed",
        output={"files": [FILE | {"taskCostTime": "83", "nodeId": "12", "consumeCoins": "17"}]},
    ),
    "v1 knows it: failed": Example(
        AnswerState.ENDED, (GONE, v1(805, "APIKEY_TASK_STATUS_ERROR", {"failedReason": STALE})), "failed",
        ErrorKind.INFRASTRUCTURE, f"{STALE['exception_message']} (APIKEY_TASK_STATUS_ERROR)",
    ),
    "v1 has a status beside the code": Example(
        AnswerState.ENDED, (GONE, Reply({"code": 0, "msg": "success", "data": OUTPUTS, "status": 7})), "completed"
    ),
    "v1 says success and gives nothing": Example(AnswerState.UNCLEAR, (GONE, v1(0, "success"))),
    "v1 says 805 without a reason": Example(AnswerState.UNCLEAR, (GONE, v1(805, "APIKEY_TASK_STATUS_ERROR"))),
    "v1 has an empty list": Example(AnswerState.ENDED, (GONE, v1(0, "success", [])), "failed", ErrorKind.UNKNOWN,
                                    "the task succeeded without output (success)", is_without_output=True),
    "v2 calls the id a bad parameter, and v1 knows it": Example(
        AnswerState.RUNNING, (v2("1007", "taskId is invalid"), v1(804, "APIKEY_TASK_IS_RUNNING"))
    ),
    "a bad parameter for both": Example(AnswerState.UNCLEAR, (v2("1007", "taskId is invalid"), v1(301, "PARAMS_INVALID"))),
    "busy": Example(AnswerState.BUSY, (Reply({"error": "slow down"}, 429, {"Retry-After": "7"}),), retry_s=7),
    "busy: a gateway": Example(AnswerState.BUSY, (Reply(b"<html><h1>502 Bad Gateway</h1>", 502),)),
    "rate limit, said as a failure of this task": Example(AnswerState.BUSY, (v2("1003", "Rate limit", taskId=TASK),)),
    "bad key": Example(AnswerState.BAD_KEY, (Reply({"code": 401, "msg": "Unauthorized"}, 401),)),
    "unclear": Example(AnswerState.UNCLEAR, (Reply({"code": 301, "msg": "taskId must be positive", "data": None}),)),
    "another task": Example(AnswerState.UNCLEAR, (Reply(DONE | {"taskId": "1"}),)),
    "a status that is new": Example(AnswerState.UNCLEAR, (Reply({"taskId": TASK, "status": "PAUSED", **QUIET}),)),
    **{f"code {code} of v2": Example(state, (v2(code, "its message"),)) for code, state in CODES.items()},
    **{f"code {code} of v1": Example(state, (GONE, v1(int(code), "its message"))) for code, state in CODES.items()},
}  # fmt: skip
STOP = {
    "accepted": Example(AnswerState.RUNNING, (v1(0, "success"),)),
    "too late": Example(AnswerState.UNCLEAR, (v1(817, "APIKEY_TASK_CANCEL_NOT_ALLOWED"),)),
    "too late, in words": Example(
        AnswerState.UNCLEAR, (v1("APIKEY_TASK_CANCEL_NOT_ALLOWED", "APIKEY_TASK_CANCEL_NOT_ALLOWED"),)
    ),
    "unknown": Example(AnswerState.UNKNOWN, (v1(807, "APIKEY_TASK_NOT_FOUND"),)),
    "bad key": Example(AnswerState.BAD_KEY, (v1(802, "APIKEY_UNAUTHORIZED"),)),
    "busy": Example(AnswerState.BUSY, (Reply(b"", 503),)),
}
QUEUE = {"apiKeyType": "SHARED", "concurrentLimit": 3, "runningCount": "1", "queuedCount": "1", "totalCurrentTasks": "2"}
NO_QUEUE = v1(1009, "Request method not supported")
COUNT = {
    "queue": ((v1(0, "success", QUEUE),), Room(3, 2)),
    "queue without a total": ((v1(0, "success", QUEUE | {"totalCurrentTasks": None}),), Room(3, 2)),
    "account": (
        (NO_QUEUE, v1(0, "success", {"remainCoins": "177814", "currentTaskCounts": "4", "apiType": "NORMAL"})),
        Room(None, 4),
    ),
    "bad key": ((v1(802, "APIKEY_UNAUTHORIZED"),), AnswerState.BAD_KEY),
    "bad key of the account": ((NO_QUEUE, v1(806, "APIKEY_USER_NOT_FOUND")), AnswerState.BAD_KEY),
    "busy": ((Reply(b"", 500),), AnswerState.BUSY),
    "unclear": ((NO_QUEUE, v1(1601, "param apiKey is required")), AnswerState.UNCLEAR),
    "a count that is none": ((NO_QUEUE, v1(0, "success", {"currentTaskCounts": "-1"})), AnswerState.UNCLEAR),
}
CALLBACKS = {
    "completed": callback(DONE),
    "failed": callback(FAILED),
    "v1 knows it: completed": callback({"code": 0, "msg": "success", "data": OUTPUTS}),
    "v1 knows it: failed": callback({"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR", "data": {"failedReason": STALE}}),
    "cancelled": callback({"taskId": TASK, "status": "CANCELLED", **QUIET}),
}
EXAMPLES = Examples(TASK, ASK, STOP, COUNT, CALLBACKS)
