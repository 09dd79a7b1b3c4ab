"""Replicate: `GET /v1/predictions/ID` and `POST /v1/predictions/ID/cancel`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import Webhook

from gate.model.messages import AnswerState, ErrorKind
from gate.providers.callback import Callback
from tests.unit.providers.examples.shape import Example, Examples, Reply

TASK = "rrr4z55ocneqzikepnug6xezpe"
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_760_000_000
URL = f"https://replicate.delivery/pbxt/{TASK}/out-0.png"
METRICS = {"predict_time": 4.484541, "total_time": 5.017388}
BASE = {
    "id": TASK, "model": "black-forest-labs/flux-schnell", "version": "be04660a5b93ef2aff61e3668dedb4cb", "source": "api",
    "input": {"prompt": "oak tree with boletus growing on its branches"}, "output": None, "error": None, "logs": "",
    "data_removed": False, "created_at": "2022-09-13T22:54:18.578761Z", "started_at": None, "completed_at": None,
    "urls": {"get": f"https://api.replicate.com/v1/predictions/{TASK}",
             "cancel": f"https://api.replicate.com/v1/predictions/{TASK}/cancel"},
    "metrics": {},
}  # fmt: skip
DONE = BASE | {"status": "succeeded", "output": [URL], "metrics": METRICS, "logs": "Using seed: 36941..."}
FILE = {"url": URL, "type": ""}
SENSITIVE = "The input or output was flagged as sensitive. Please try again with different inputs. (E005) (uIJ6l3ruRD)"
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"


def failed(error: Any) -> Reply:
    return Reply(BASE | {"status": "failed", "error": error, "metrics": METRICS})


def callback(body: dict[str, Any]) -> Callback:
    raw = json.dumps(body)
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW, UTC), raw)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": signature}
    return Callback(headers, {}, raw.encode(), [SECRET], NOW)


ASK = {
    "queued": Example(AnswerState.QUEUED, (Reply(BASE | {"status": "starting"}),)),
    "running": Example(AnswerState.RUNNING, (Reply(BASE | {"status": "processing", "logs": "10%"}),)),
    "completed": Example(AnswerState.ENDED, (Reply(DONE),), "completed", output={"files": [FILE], "usage": METRICS}),
    "completed: one address": Example(
        AnswerState.ENDED, (Reply(DONE | {"output": URL, "metrics": None}),), "completed", output={"files": [FILE]}
    ),
    "completed: a text in pieces": Example(
        AnswerState.ENDED, (Reply(DONE | {"output": ["Hello", ",", " you"], "metrics": {}}),), "completed",
        output={"files": [], "texts": ["Hello, you"]},
    ),
    "completed: an object": Example(
        AnswerState.ENDED, (Reply(DONE | {"output": {"score": 0.25, "label": "cat"}, "metrics": {}}),), "completed",
        output={"files": [], "raw": {"score": 0.25, "label": "cat"}},
    ),
    "completed: a number": Example(
        AnswerState.ENDED, (Reply(DONE | {"output": 0, "metrics": {}}),), "completed", output={"files": [], "raw": 0}
    ),
    "a success without output": Example(
        AnswerState.ENDED, (Reply(DONE | {"output": None}),), "failed", ErrorKind.UNKNOWN, "the task succeeded without output",
        {"usage": METRICS}, is_without_output=True,
    ),
    "failed": Example(AnswerState.ENDED, (failed(SENSITIVE),), "failed", ErrorKind.SAFETY, SENSITIVE),
    "failed: interrupted": Example(AnswerState.ENDED, (failed(INTERRUPTED),), "failed", ErrorKind.INFRASTRUCTURE, INTERRUPTED),
    "failed: director": Example(
        AnswerState.ENDED, (failed("Director: unexpected error handling prediction (E8765)"),), "failed", ErrorKind.INFRASTRUCTURE
    ),
    "failed: high demand": Example(
        AnswerState.ENDED, (failed("Service is currently unavailable due to high demand. Please try again later. (E003)"),),
        "failed", ErrorKind.BUSY,
    ),
    "failed: memory": Example(
        AnswerState.ENDED, (failed("CUDA out of memory. Tried to allocate 270.00 MiB."),), "failed", ErrorKind.INFRASTRUCTURE
    ),
    "failed: nothing said": Example(
        AnswerState.ENDED, (failed(None),), "failed", ErrorKind.UNKNOWN, "the task failed, no reason was given"
    ),
    "cancelled": Example(AnswerState.ENDED, (Reply(BASE | {"status": "canceled"}),), "cancelled"),
    "aborted": Example(
        AnswerState.ENDED, (Reply(BASE | {"status": "aborted"}),), "failed", ErrorKind.TIMEOUT,
        "aborted: its deadline passed before it began",
    ),
    "unknown": Example(AnswerState.UNKNOWN, (Reply({"detail": "Prediction not found", "status": 404}, 404),)),
    "a wrong address": Example(AnswerState.UNCLEAR, (Reply(b"<html>404 Not Found</html>", 404),)),
    "busy": Example(
        AnswerState.BUSY,
        (Reply({"detail": "Request was throttled. Expected available in 1 second."}, 429, {"retry-after": "1"}),), retry_s=1,
    ),
    "busy: a date": Example(AnswerState.BUSY, (Reply(b"", 503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),)),
    "bad key": Example(
        AnswerState.BAD_KEY,
        (Reply({"title": "Unauthenticated", "detail": "You did not pass a valid authentication token", "status": 401}, 401),),
    ),
    "empty wallet": Example(AnswerState.BAD_KEY, (Reply({"title": "Insufficient credit", "status": 402}, 402),)),
    "unclear": Example(AnswerState.UNCLEAR, (Reply(BASE | {"status": "resting"}),)),
    "another task": Example(AnswerState.UNCLEAR, (Reply(DONE | {"id": "another"}),)),
}  # fmt: skip
STOP = {
    "cancelled": Example(AnswerState.ENDED, (Reply(BASE | {"status": "canceled"}),), "cancelled"),
    "still running": Example(AnswerState.RUNNING, (Reply(BASE | {"status": "processing"}),)),
    "too late": Example(AnswerState.ENDED, (Reply(DONE),), "completed"),
    "unknown": Example(AnswerState.UNKNOWN, (Reply({"detail": "Prediction not found", "status": 404}, 404),)),
    "busy": Example(AnswerState.BUSY, (Reply(b"", 500),)),
    "bad key": Example(AnswerState.BAD_KEY, (Reply({"title": "Unauthenticated", "status": 401}, 401),)),
}
CALLBACKS = {
    "completed": callback(DONE),
    "failed": callback(failed(SENSITIVE).body),
    "cancelled": callback(BASE | {"status": "canceled"}),
    "aborted": callback(BASE | {"status": "aborted"}),
}
EXAMPLES = Examples(TASK, ASK, STOP, None, CALLBACKS)
