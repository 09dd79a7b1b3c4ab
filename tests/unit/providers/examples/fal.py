"""fal: `GET /OWNER/APP/requests/ID/status`, the result at `GET /OWNER/APP/requests/ID`, and `PUT …/cancel`."""

from __future__ import annotations

import json
from typing import Any

from gate.model.messages import AnswerState, ErrorKind
from gate.providers.callback import Callback
from tests.unit.providers.examples.shape import Example, Examples, Reply

REQUEST = "80e732af-660e-45cd-bd63-580e4f2a94cc"
TASK = f"fal-ai/fast-sdxl/requests/{REQUEST}"
ADDRESS = f"https://queue.fal.run/{TASK}"
COMPLETED = Reply({"status": "COMPLETED", "request_id": REQUEST, "response_url": ADDRESS, "status_url": f"{ADDRESS}/status",
                   "cancel_url": f"{ADDRESS}/cancel", "logs": None, "metrics": {"inference_time": 3.7}})  # fmt: skip
IMAGE = {"url": "https://v3.fal.media/files/a/out.png", "content_type": "image/png", "width": 1024, "height": 1024,
         "file_name": "out.png", "file_size": 1824075}  # fmt: skip
RESULT = {"images": [IMAGE], "seed": 196619188014358660, "has_nsfw_concepts": [False], "prompt": "a cat"}
FILE = {"url": IMAGE["url"], "type": "image/png", "width": 1024, "height": 1024, "file_name": "out.png", "file_size": 1824075}
FLAGGED = {"detail": [{"loc": ["body", "prompt"], "msg": "The content was flagged by a content checker.", "input": "a cat",
                       "type": "content_policy_violation", "url": "https://docs.fal.ai/errors#content_policy_violation"}]}  # fmt: skip
MISSING = {"detail": [{"loc": ["body", "prompt"], "msg": "field required", "type": "value_error.missing"}]}
TIMEOUT = {"detail": "Request timed out", "error_type": "request_timeout"}
CANCELLED = {"detail": "The request was cancelled by the client", "error_type": "client_cancelled"}


def over(result: Any, status: int = 200) -> tuple[Reply, Reply]:
    return COMPLETED, Reply(result, status)


def callback(body: dict[str, Any]) -> Callback:
    query = {"token": "t", "app": "fal-ai/fast-sdxl"}
    body = {"request_id": REQUEST, "gateway_request_id": REQUEST, "error": None, **body}
    return Callback({}, query, json.dumps(body).encode(), ["t"], 0)


ASK = {
    "queued": Example(AnswerState.QUEUED, (Reply({"status": "IN_QUEUE", "queue_position": 2, "response_url": ADDRESS}, 202),)),
    "running": Example(AnswerState.RUNNING, (Reply({"status": "IN_PROGRESS", "request_id": REQUEST, "logs": []}, 202),)),
    "completed": Example(AnswerState.ENDED, over(RESULT), "completed", output={"files": [FILE]}),
    "completed: a text": Example(
        AnswerState.ENDED, over({"output": "a poem", "reasoning": None}), "completed",
        output={"files": [], "raw": {"output": "a poem", "reasoning": None}},
    ),
    "a success without output": Example(
        AnswerState.ENDED, over({"images": [], "seed": 1}), "failed", ErrorKind.UNKNOWN, "the task succeeded without output",
        is_without_output=True,
    ),
    "failed": Example(AnswerState.ENDED, over(FLAGGED, 422), "failed", ErrorKind.SAFETY,
                      "The content was flagged by a content checker. (body.prompt)"),
    "failed: a missing field": Example(AnswerState.ENDED, over(MISSING, 422), "failed", ErrorKind.INPUT,
                                       "field required (body.prompt)"),
    "failed: timeout": Example(AnswerState.ENDED, over(TIMEOUT, 504), "failed", ErrorKind.TIMEOUT, "Request timed out"),
    "failed: runner": Example(AnswerState.ENDED, over({"detail": "gone", "error_type": "runner_disconnected"}, 503), "failed",
                              ErrorKind.INFRASTRUCTURE, "gone"),
    "failed: in words": Example(AnswerState.ENDED, over({"detail": "Prompt must be non-empty"}, 422), "failed", ErrorKind.INPUT,
                                "Prompt must be non-empty"),
    "failed: downstream": Example(
        AnswerState.ENDED,
        over({"detail": [{"loc": ["body"], "msg": "Downstream service error", "type": "downstream_service_error"}]}, 500),
        "failed", ErrorKind.INFRASTRUCTURE,
    ),
    "cancelled": Example(AnswerState.ENDED, over(CANCELLED, 499), "cancelled", error=CANCELLED["detail"]),
    "over, and the result says it goes on": Example(
        AnswerState.RUNNING, over({"detail": "Request is still in progress"}, 400)
    ),
    "over, and the gateway fails": Example(AnswerState.BUSY, over({"detail": "Internal Server Error"}, 500)),
    "over, and the gateway is an HTML page": Example(AnswerState.BUSY, over(b"<html>503</html>", 503)),
    "over, and the result is cut off": Example(AnswerState.UNCLEAR, over(b'{"images": [{"url": "https://v3.fal.me')),
    "over, and the method is refused": Example(AnswerState.UNCLEAR, over({"detail": "Method Not Allowed"}, 405)),
    "over, and the key is refused": Example(AnswerState.BAD_KEY, over({"detail": "Invalid key"}, 401)),
    "over, and too many ask": Example(AnswerState.BUSY, over({"detail": "Too many requests", "error_type": "rate_limit"}, 429)),
    "unknown": Example(AnswerState.UNKNOWN, (Reply({"detail": "Request not found"}, 404),)),
    "a wrong address": Example(AnswerState.UNCLEAR, (Reply(b"<html>404</html>", 404),)),
    "busy": Example(AnswerState.BUSY, (Reply({"detail": "slow down"}, 429, {"Retry-After": "2"}),), retry_s=2),
    "bad key": Example(
        AnswerState.BAD_KEY, (Reply({"detail": "Authentication is required to access this application."}, 401),)
    ),
    "locked": Example(AnswerState.BAD_KEY, (Reply({"detail": "User is locked. Reason: Exhausted balance."}, 403),)),
    "unclear": Example(AnswerState.UNCLEAR, (Reply({"status": "PAUSED", "request_id": REQUEST}),)),
    "another task": Example(AnswerState.UNCLEAR, (Reply({"status": "COMPLETED", "request_id": "another"}),)),
}  # fmt: skip
STOP = {
    "it left the queue": Example(AnswerState.ENDED, (Reply({"status": "OK"}),), "cancelled"),
    "asked of the runner": Example(AnswerState.RUNNING, (Reply({"status": "CANCELLATION_REQUESTED"}, 202),)),
    "too late": Example(AnswerState.UNCLEAR, (Reply({"status": "ALREADY_COMPLETED"}, 400),)),
    "unknown": Example(AnswerState.UNKNOWN, (Reply({"status": "NOT_FOUND"}, 404),)),
    "busy": Example(AnswerState.BUSY, (Reply(b"", 502),)),
    "bad key": Example(AnswerState.BAD_KEY, (Reply({"detail": "Invalid key"}, 401),)),
}
CALLBACKS = {
    "completed": callback({"status": "OK", "payload": RESULT}),
    "failed": callback({"status": "ERROR", "error": "Invalid status code: 422", "payload": FLAGGED}),
    "failed: timeout": callback({"status": "ERROR", "error": "Request timed out", "payload": TIMEOUT}),
}
EXAMPLES = Examples(TASK, ASK, STOP, None, CALLBACKS)
