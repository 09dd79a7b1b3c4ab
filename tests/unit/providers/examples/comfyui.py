"""ComfyUI: `GET /history/ID`, `GET /queue`, `POST /api/jobs/ID/cancel`, `POST /queue`."""

from __future__ import annotations

from typing import Any

from gate.model.messages import AnswerState, ErrorKind, Room
from tests.unit.providers.examples.shape import Example, Examples, Reply

TASK = "cf546edc-4d59-466b-b3fe-412cf4ea2d1f"
OTHER = "8278b4e6-656a-4dbd-8ec9-4a0784babac7"
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 8613883012, "steps": 20, "cfg": 8, "denoise": 1}}}
IMAGE = {"filename": "ComfyUI_00362_.png", "subfolder": "a b", "type": "output"}
FILE = {"url": "/view?filename=ComfyUI_00362_.png&subfolder=a+b&type=output", "type": "png", "filename": "ComfyUI_00362_.png",
        "nodeId": "9"}  # fmt: skip
START = ["execution_start", {"prompt_id": TASK, "timestamp": 1760000000000}]
NONE = Reply({})


def entry(status: Any, outputs: Any) -> Reply:
    return Reply({TASK: {"prompt": [37, TASK, GRAPH, {}, ["9"]], "outputs": outputs, "status": status, "meta": {}}})


def done(outputs: Any) -> Reply:
    messages = [START, ["execution_success", {"prompt_id": TASK, "timestamp": 1760000001000}]]
    return entry({"status_str": "success", "completed": True, "messages": messages}, outputs)


def error(kind: str, **reason: Any) -> Reply:
    messages = [START, [kind, {"prompt_id": TASK, "node_id": "3", "node_type": "KSampler", "executed": [], **reason}]]
    return entry({"status_str": "error", "completed": False, "messages": messages}, {})


def queue(running: list[str], pending: list[str]) -> Reply:
    return Reply({"queue_running": [[0, one, GRAPH, {}, ["9"]] for one in running],
                  "queue_pending": [[1, one, GRAPH, {}, ["9"]] for one in pending]})  # fmt: skip


ASK = {
    "queued": Example(AnswerState.QUEUED, (NONE, queue([OTHER], [TASK]))),
    "running": Example(AnswerState.RUNNING, (NONE, queue([TASK], [OTHER]))),
    "completed": Example(AnswerState.ENDED, (done({"9": {"images": [IMAGE]}}),), "completed", output={"files": [FILE]}),
    "completed: previews are left out": Example(
        AnswerState.ENDED, (done({"4": {"images": [IMAGE | {"type": "temp"}]}, "9": {"images": [IMAGE]}}),), "completed",
        output={"files": [FILE]},
    ),
    "completed: a text": Example(
        AnswerState.ENDED, (done({"5": {"text": ["a poem"]}}),), "completed", output={"files": [], "texts": ["a poem"]}
    ),
    "a success without output": Example(
        AnswerState.ENDED, (done({}),), "failed", ErrorKind.UNKNOWN, "the task succeeded without output", is_without_output=True
    ),
    "failed": Example(
        AnswerState.ENDED,
        (error("execution_error", exception_type="torch.OutOfMemoryError", exception_message="Allocation on device 0 would exceed"),),
        "failed", ErrorKind.INFRASTRUCTURE, "Allocation on device 0 would exceed (KSampler)",
    ),
    "failed: input": Example(
        AnswerState.ENDED,
        (error("execution_error", exception_type="ValueError", exception_message="Invalid image file: a.png"),), "failed",
        ErrorKind.INPUT, "Invalid image file: a.png (KSampler)",
    ),
    "cancelled": Example(AnswerState.ENDED, (error("execution_interrupted"),), "cancelled", error="interrupted"),
    "unknown": Example(AnswerState.UNKNOWN, (NONE, queue([OTHER], []))),
    "a queue that is none": Example(AnswerState.UNCLEAR, (NONE, Reply({"queue_running": []}))),
    "busy": Example(AnswerState.BUSY, (Reply(b"<html>502 Bad Gateway</html>", 502),)),
    "busy at the queue": Example(AnswerState.BUSY, (NONE, Reply(b"", 503, {"Retry-After": "3"})), retry_s=3),
    "bad key": Example(AnswerState.BAD_KEY, (Reply(b"<html>401</html>", 401),)),
    "unclear": Example(AnswerState.UNCLEAR, (entry({"status_str": "paused", "completed": False, "messages": []}, {}),)),
    "an entry of an old server": Example(AnswerState.UNCLEAR, (entry(None, {"9": {"images": [IMAGE]}}),)),
    "success, and not completed": Example(
        AnswerState.UNCLEAR, (entry({"status_str": "success", "completed": False, "messages": []}, {}),)
    ),
    "another task": Example(AnswerState.UNCLEAR, (Reply({OTHER: done({}).body[TASK]}),)),
    "a wrong address": Example(AnswerState.UNCLEAR, (Reply(b"<html>404</html>", 404),)),
}  # fmt: skip
STOP = {
    "accepted": Example(AnswerState.RUNNING, (Reply({"cancelled": True}),)),
    "neither waits nor runs": Example(AnswerState.UNCLEAR, (Reply({"cancelled": False}),)),
    "an old server": Example(AnswerState.UNCLEAR, (Reply(b"404: Not Found", 404), Reply(b""))),
    "an old server with another method": Example(AnswerState.BUSY, (Reply(b"405", 405), Reply(b"", 500))),
    "busy": Example(AnswerState.BUSY, (Reply(b"", 500),)),
    "bad key": Example(AnswerState.BAD_KEY, (Reply(b"", 403),)),
}
COUNT = {
    "queue": ((queue([OTHER], [TASK, "x"]),), Room(None, 3)),
    "bad key": ((Reply(b"", 401),), AnswerState.BAD_KEY),
    "busy": ((Reply(b"", 500),), AnswerState.BUSY),
    "unclear": ((Reply([1]),), AnswerState.UNCLEAR),
}
EXAMPLES = Examples(TASK, ASK, STOP, COUNT, None)
