"""RunningHub: `{event: "TASK_END", taskId, eventData}`, unsigned, so that the secret is `?token=`.

`eventData` is an object, or JSON in a string, of an old shape `{code, msg, data}` or a new one `{status, results, …}`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from typing import Any

from gate.errors import Forged, Unreadable
from gate.jobs import LABEL_MAX
from gate.providers.reading import OUTPUT_MAX_BYTES, TEXT_MAX, bounded, clean, leniently, size
from gate.providers.said import NO_SECRET, Callback, Outcome, Provider, Said

NO_OUTPUT = "the task succeeded without output"
NO_REASON = "the task failed, no reason was given"
Ending = tuple[Outcome, str | None, Any]


def read(callback: Callback) -> Said | None:
    _known(callback)
    body = leniently(callback.body)
    if not isinstance(body, dict):
        raise Unreadable("body", "must be an object")
    if not isinstance(body.get("event"), str):
        raise Unreadable("event", "must be a string")
    if body["event"] != "TASK_END":
        return None
    task_id = _task_id(body.get("taskId"))
    event = body.get("eventData")
    if isinstance(event, str):
        event = leniently(event, "eventData")
    if not isinstance(event, dict):
        raise Unreadable("eventData", "must be an object, or one as JSON in a string")
    if event.get("status") is not None:
        outcome, error, output = _new(event)
    elif event.get("code") is not None:
        outcome, error, output = _old(event)
    else:
        raise Unreadable("eventData", "must have a code or a status")
    return Said(outcome, _delivery_id(task_id, outcome, error, output), task_id, None, error, output)


def _known(callback: Callback) -> None:
    if not any(callback.secrets):
        raise Forged(NO_SECRET)
    shown = _bytes(callback.query.get("token", ""))
    if not any([hmac.compare_digest(shown, _bytes(secret)) for secret in callback.secrets if secret]):
        raise Forged("the token is missing or wrong")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _task_id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**LABEL_MAX:
        value = str(value)
    if not (isinstance(value, str) and 1 <= len(value) <= LABEL_MAX and value.isprintable()):
        raise Unreadable("taskId", f"must be 1 to {LABEL_MAX} printable characters")
    return value


def _old(event: dict[str, Any]) -> Ending:
    code, data = event["code"], event.get("data")
    if isinstance(code, bool) or not isinstance(code, int | float | str):
        raise Unreadable("eventData.code", "must be a number")
    if str(code) in ("0", "0.0"):
        return _success(_files(data, "fileUrl", "fileType"), _text(event.get("msg")), {})
    reason = data.get("failedReason") if isinstance(data, dict) else None
    return "failed", _why(reason, _text(event.get("msg")) or f"code {clean(str(code))[:LABEL_MAX]}"), None


def _new(event: dict[str, Any]) -> Ending:
    status, said = event["status"], _text(event.get("errorMessage"))
    if status == "SUCCESS":
        usage = event.get("usage")
        coins = _number(usage.get("consumeCoins")) if isinstance(usage, dict) else None
        return _success(_files(event.get("results"), "url", "outputType"), said, {} if coins is None else {"coins": coins})
    if status == "FAILED":
        code = event.get("errorCode")
        code = str(code) if isinstance(code, int) and abs(code) < 10**9 else _text(code)
        return "failed", _why(event.get("failedReason"), said or (code and f"code {code}")), None
    raise Unreadable("eventData.status", "must be SUCCESS or FAILED")


def _success(files: list[dict[str, str]], said: str | None, more: dict[str, Any]) -> Ending:
    if not files:
        return "failed", _with_brackets(NO_OUTPUT, said), None
    return "completed", None, {"files": files, **more}


def _files(found: Any, url: str, kind: str) -> list[dict[str, str]]:
    """Those that have an address, as many as an output has room for."""
    files: list[dict[str, str]] = []
    room = OUTPUT_MAX_BYTES - 256
    for one in found if isinstance(found, list) else []:
        address = _text(one.get(url)) if isinstance(one, dict) else None
        if address is None or len(one[url]) > TEXT_MAX:
            continue
        file = {"url": address, "type": (_text(one.get(kind)) or "")[:LABEL_MAX]}
        room -= size(file) + 2
        if room < 0:
            break
        files.append(file)
    return files


def _why(reason: Any, said: str | None) -> str:
    exception = _text(reason.get("exception_message")) if isinstance(reason, dict) else _text(reason)
    if exception is None:
        return said or NO_REASON
    return _with_brackets(exception, said)


def _with_brackets(first: str, said: str | None) -> str:
    if said is None or said == first:
        return first
    room = TEXT_MAX - min(len(said), TEXT_MAX // 4) - 3
    return bounded(f"{first[:room]} ({said[: TEXT_MAX // 4]})")


def _text(value: Any) -> str | None:
    """None too when there is nothing to read in it."""
    return (bounded(value).strip() or None) if isinstance(value, str) else None


def _number(value: Any) -> float | int | None:
    """Also of a text, as it comes at times."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _delivery_id(task_id: str, *meant: Any) -> str:
    """It sends none. What means the same of the same task is the same, however it is written."""
    return hashlib.sha256(json.dumps([task_id, *meant], sort_keys=True).encode()).hexdigest()


def fault(secret: str) -> str | None:
    return None if secret and secret.isprintable() else "must be printable characters, at least one"


PROVIDER = Provider("runninghub", read, fault)
