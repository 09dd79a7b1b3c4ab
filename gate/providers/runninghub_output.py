"""The output of a RunningHub event: its files, texts and costs, wherever the event has them.

Files come as `results` or `data`: a list or one value, of objects with `url` or `fileUrl` or of bare addresses, or inside
`outputFileList`. The newer shape names a kind `outputType`, the older one `fileType`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from gate.model.job import LABEL_MAX
from gate.providers.parsing import OUTPUT_MAX_BYTES, clean, fitted, json_text, kept_output, kept_text, size

ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
URLS: Final = ("url", "fileUrl")
KINDS: Final = ("outputType", "fileType", "type")
INSIDE: Final = (*URLS, "outputFileList", "results", "data", "outputs", "files")
"""Fields of an object that may hold further files."""
NO_OUTPUT_FIELDS: Final = frozenset(
    ("taskId", "taskStatus", "status", "code", "msg", "message", "errorCode", "errorMessage", "failedReason", "usage",
     "taskUsageList", "taskCostTime", "clientId", "promptId", "promptTips", "netWssUrl")
)  # fmt: skip
"""Fields of an event that say something of the task, but are nothing that it made."""
DEPTH: Final = 6
"""Levels of lists and objects that are searched for files."""
FIELDS_MAX: Final = 16
"""Further fields of a file that are kept."""
NAME_MAX: Final = 64
"""Characters of the name of such a field."""
RAW_MAX_BYTES: Final = 16 * 1024
"""Of an event that is not understood: its size as JSON."""
USAGE_MAX_BYTES: Final = 4 * 1024
"""Of what a task cost, of which a real one has some hundred bytes."""
USAGE_LIST_MAX_BYTES: Final = 12 * 1024
"""The same by the parts of a task, of which there are few."""
PART_MIN_BYTES: Final = 64
"""Of a usual file or text: with less room left, the search ends."""
MARGIN_BYTES: Final = 64
"""For the names and brackets around files and texts."""


def output_of(event: dict[str, Any]) -> tuple[dict[str, Any], bool] | None:
    """The output of a success.

    Returns:
        `{"files": [{url, type, …}], "texts"?, "coins"?, "usage"?, "taskUsageList"?, "cut"?}` and True, or, when the event
        carries something of an unknown shape, the same without files but with the event itself under `raw`, and False.
        None when the event carries nothing.
    """
    output = _within([event.get("results"), event.get("data")], costs_of(event))
    if output["files"] or "texts" in output:
        return output, True
    if not any(_is_output(name, value) for name, value in event.items()):
        return None
    raw = kept_output(event)
    if size(raw) > RAW_MAX_BYTES:
        raw = fitted(json_text(event), RAW_MAX_BYTES)
    return {"files": [], "raw": raw, **costs_of(event)}, False


def costs_of(event: dict[str, Any]) -> dict[str, Any]:
    """`coins` as a number, and `usage` and `taskUsageList` as they came, bounded; each only when the event has it."""
    costs: dict[str, Any] = {}
    usage, parts = event.get("usage"), event.get("taskUsageList")
    if isinstance(usage, dict) and (coins := number(usage.get("consumeCoins"))) is not None:
        costs["coins"] = coins
    if usage not in (None, "", [], {}):
        costs["usage"] = kept_output(usage, USAGE_MAX_BYTES)
    if parts not in (None, "", [], {}):
        costs["taskUsageList"] = kept_output(parts, USAGE_LIST_MAX_BYTES)
    return costs


def number(value: object) -> float | int | None:
    """A finite number, also when it comes as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(found):
        return None
    return int(found) if found.is_integer() and abs(found) < 2**53 else found


def carries(value: object) -> bool:
    """Whether a value holds anything but empty texts, lists and objects, null, false and 0."""
    level = [value]
    while level:
        inside: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                inside += one.values() if isinstance(one, dict) else one
            elif _line(one) if isinstance(one, str) else one:
                return True
        level = inside
    return False


def _is_output(name: str, value: Any) -> bool:
    if name in ("results", "data"):
        return carries(value)
    return name not in NO_OUTPUT_FIELDS and isinstance(value, str | dict | list) and carries(value)


def _within(found: list[Any], costs: dict[str, Any]) -> dict[str, Any]:
    """An output of as much as there is room for, files before texts, with `cut` when something is left out."""
    room = OUTPUT_MAX_BYTES - size({"files": [], **costs}) - MARGIN_BYTES
    files, room, files_cut = _files(found, room)
    texts, texts_cut = _texts(found, room)
    output = {"files": files, **({"texts": texts} if texts else {}), **costs}
    return output | {"cut": True} if files_cut or texts_cut else output


def _files(found: list[Any], room: int) -> tuple[list[dict[str, Any]], int, bool]:
    """The files that fit, the room that they leave, and whether one is left out. Half an address is none."""
    files: list[dict[str, Any]] = []
    cut, seen = False, {""}
    for part in _parts(found, DEPTH):
        address = _address(part)
        if address in seen:  # an event may name a file in both shapes
            continue
        seen.add(address)
        file = {"url": address, "type": _kind(part), **_more(part)}
        needed = size(file) + 2
        if needed <= room:
            room -= needed
            files.append(file)
            continue
        cut = True
        if room < PART_MIN_BYTES:
            break
    return files, room, cut


def _texts(found: list[Any], room: int) -> tuple[list[str], bool]:
    """The texts that fit, the last one cut, and whether anything is left out."""
    texts: list[str] = []
    cut, seen = False, {""}
    for part in _parts(found, DEPTH):
        text = _line(part.get("text"))
        if text in seen:
            continue
        if room < PART_MIN_BYTES:
            return texts, True
        seen.add(text)
        kept = fitted(text, room - 2)
        cut = cut or kept != text
        room -= size(kept) + 2
        texts.append(kept)
    return texts, cut


def _parts(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Each object that has an address or a text; of a bare address, such an object."""
    if depth == 0:
        return
    if isinstance(value, str) and ADDRESS.fullmatch(_line(value)):
        yield {"url": value}
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one, depth - 1)
    elif isinstance(value, dict):
        address = _address(value)
        if address or _line(value.get("text")):
            yield value
        for name in INSIDE:
            if not (address and name in URLS):
                yield from _parts(value.get(name), depth - 1)


def _address(part: dict[str, Any]) -> str:
    return next(filter(None, (_line(part.get(name)) for name in URLS)), "")


def _kind(part: dict[str, Any]) -> str:
    return next(filter(None, (_line(part.get(name)) for name in KINDS)), "")[:LABEL_MAX]


def _more(part: dict[str, Any]) -> dict[str, Any]:
    """Further plain fields of a file: its cost, its node."""
    more: dict[str, Any] = {}
    for name, value in part.items():
        name = clean(name)[:NAME_MAX]
        if name in (*URLS, *KINDS, "text") or isinstance(value, dict | list) or len(more) == FIELDS_MAX:
            continue
        kept = kept_text(value, LABEL_MAX) if isinstance(value, str) else kept_output(value, NAME_MAX)
        if kept is not None and not isinstance(kept, dict):
            more[name] = kept
    return more


def _line(value: Any) -> str:
    """Clean text without blanks at its ends; empty for what is no text."""
    return clean(value).strip() if isinstance(value, str) else ""
