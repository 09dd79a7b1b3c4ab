"""ComfyUI, a server of your own: a task is a prompt, and its id is the `prompt_id`. It has no callbacks.

A prompt that ended is in the history, one that waits or runs is in the queue. A server that was started anew has forgotten both.
Files of its output have addresses below the server's own: `/view?filename=…`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from gate.model.limits import END_BODY_MAX_BYTES, LABEL_MAX
from gate.model.messages import Answer, AnswerState, ErrorKind, Room
from gate.providers.ending import Ending, end_answer, failure, success
from gate.providers.error_kind import kind_of
from gate.providers.output import output_of_any
from gate.providers.page import (
    Further,
    ProviderPage,
    ProviderReply,
    ProviderRequest,
    answer_of,
    bearer,
    by_status,
    json_body,
    segment,
    word,
)  # fmt: skip
from gate.providers.parsing import clean, fields, kept_text

QUEUES: Final = {"queue_running": AnswerState.RUNNING, "queue_pending": AnswerState.QUEUED}
"""Lists of the queue. Each entry of one is `[number, prompt_id, …]`."""
KINDS: Final = {"torch.OutOfMemoryError": ErrorKind.INFRASTRUCTURE, "torch.cuda.OutOfMemoryError": ErrorKind.INFRASTRUCTURE}
"""Kinds of failures by the type of the exception."""
FILES_MAX: Final = 1_000
"""Files of a prompt that are read. An output has no room for more."""


def ask(task_id: str, key: str) -> ProviderRequest:
    """Make the request about a prompt in the history. The reply has its whole graph too."""
    return _get(f"/history/{segment(task_id)}", key)


def read_answer(task_id: str, reply: ProviderReply, key: str) -> Answer | Further[Answer]:
    """Read the history. A prompt that is not there is looked for in the queue."""
    if reply.status != 200 or not isinstance(reply.data, dict):
        return by_status(reply)
    if task_id not in reply.data:
        # A history that has only other prompts is not the reply to this question.
        return by_status(reply, "another prompt") if reply.data else Further(_get("/queue", key), partial(_queued, task_id))
    entry = fields(reply.data[task_id])
    status = fields(entry.get("status"))
    said = word(status.get("status_str"))
    if said == "SUCCESS" and status.get("completed") is True:
        return end_answer(task_id, _success(entry), "success")
    if said == "ERROR":
        return end_answer(task_id, _failure(status), "error")
    return by_status(reply, kept_text(status.get("status_str")))


def _queued(task_id: str, reply: ProviderReply) -> Answer:
    lists = _lists(reply)
    if lists is None:
        return by_status(reply)
    for name, state in QUEUES.items():
        if any(isinstance(one, list) and len(one) > 1 and one[1] == task_id for one in lists[name]):
            return answer_of(state, reply, name)
    return answer_of(AnswerState.UNKNOWN, reply, "neither in the history nor in the queue")


def stop(task_id: str, key: str) -> ProviderRequest:
    """Make the request that stops a prompt, whether it waits or runs, and no other one."""
    return ProviderRequest("POST", f"/api/jobs/{segment(task_id)}/cancel", _headers(key))


def read_stop(task_id: str, reply: ProviderReply, key: str) -> Answer | Further[Answer]:
    """Read the reply to `stop`. A server that cannot stop a prompt by its id still removes it from the queue.

    Such a server has only an interrupt of whatever runs, which would end the prompt of another job.
    """
    cancelled = fields(reply.data).get("cancelled")
    if reply.status == 200 and isinstance(cancelled, bool):
        state = AnswerState.RUNNING if cancelled else AnswerState.UNCLEAR
        return answer_of(state, reply, "the cancel is accepted" if cancelled else "it neither waits nor runs")
    if reply.status in (404, 405):
        body = json_body({"delete": [task_id]})
        return Further(ProviderRequest("POST", "/queue", _headers(key), body), _removed)
    return by_status(reply)


def _removed(reply: ProviderReply) -> Answer:
    if reply.status != 200:
        return by_status(reply)
    return answer_of(AnswerState.UNCLEAR, reply, "removed from the queue; this ComfyUI cannot stop one prompt that runs")


def count(key: str) -> ProviderRequest:
    """Make the request about the queue."""
    return _get("/queue", key)


def read_count(reply: ProviderReply, key: str) -> Room | Answer:
    """Count the queue. ComfyUI has no limit."""
    lists = _lists(reply)
    return by_status(reply) if lists is None else Room(None, sum(len(entries) for entries in lists.values()))


def _lists(reply: ProviderReply) -> dict[str, list[Any]] | None:
    lists = {name: entries for name in QUEUES if isinstance(entries := fields(reply.data).get(name), list)}
    return lists if reply.status == 200 and len(lists) == len(QUEUES) else None


def _success(entry: dict[str, Any]) -> Ending:
    files = [file for _, file in zip(range(FILES_MAX), _files(fields(entry.get("outputs"))), strict=False)]
    texts = [{"text": one} for node in fields(entry.get("outputs")).values() for one in _texts(fields(node).get("text"))]
    return success(output_of_any([*files, *texts], {}))


def _files(outputs: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield each file of each node. Previews of the type `temp` are none when the prompt has others."""
    found = [
        (clean(node_id)[:LABEL_MAX], file)
        for node_id, node in outputs.items()
        for entries in fields(node).values()
        for file in (entries if isinstance(entries, list) else ())
        if isinstance(fields(file).get("filename"), str) and file["filename"]
    ]
    lasting = [(node_id, file) for node_id, file in found if file.get("type") != "temp"]
    for node_id, file in lasting or found:
        named = {name: clean(file[name]) for name in ("filename", "subfolder", "type") if isinstance(file.get(name), str)}
        extension = named["filename"].rpartition(".")[2]
        yield {"url": f"/view?{urlencode(named)}", "outputType": extension, "filename": named["filename"], "nodeId": node_id}


def _texts(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _failure(status: dict[str, Any]) -> Ending:
    messages = status.get("messages")
    events = [one for one in messages if isinstance(one, list) and len(one) == 2] if isinstance(messages, list) else []
    if any(event[0] == "execution_interrupted" for event in events):
        return Ending("cancelled", "interrupted")
    reason = next((fields(event[1]) for event in events if event[0] == "execution_error"), {})
    error, node = kept_text(reason.get("exception_message")), kept_text(reason.get("node_type"), LABEL_MAX)
    said = kept_text(f"{error} ({node})") if error and node else error
    kind = reason.get("exception_type")
    return failure(said, kind_of(f"{kept_text(kind, LABEL_MAX) or ''} {said or ''}", kind, known=KINDS))


def _get(path: str, key: str) -> ProviderRequest:
    return ProviderRequest("GET", path, bearer(key), reply_max_bytes=END_BODY_MAX_BYTES)


def _headers(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", **bearer(key)}


PAGE = ProviderPage("comfyui", None, ask, read_answer, stop, read_stop, count, read_count)
