"""The output of a RunningHub event: its files, texts and costs, wherever the event has them.

Files are in `results` or `data`, or below that in `outputFileList`. They are a list or one value. Each is an object with
`url` or `fileUrl`, or a bare address. The kind of a file is `outputType` in the new shape, and `fileType` in the old one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from gate.model.limits import LABEL_MAX, OUTPUT_MAX_BYTES
from gate.providers.parsing import carries, clean, fitted, json_text, kept_output, kept_text, number, size

ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
"""A text that counts as a file without an object around it."""
URLS: Final = ("url", "fileUrl")
"""Fields for the address of a file; the first that is not empty counts."""
KINDS: Final = ("outputType", "fileType", "type")
"""Fields for the kind of a file; the first that is not empty counts."""
INSIDE: Final = (*URLS, "outputFileList", "results", "data", "outputs", "files")
"""Fields of an object that may hold further files."""
NO_OUTPUT_FIELDS: Final = frozenset(
    ("taskId", "taskStatus", "status", "code", "msg", "message", "errorCode", "errorMessage", "failedReason", "usage",
     "taskUsageList", "taskCostTime", "clientId", "promptId", "promptTips", "netWssUrl")
)  # fmt: skip
"""Fields of an event that describe the task and are no output of it."""
DEPTH: Final = 6
"""Levels of lists and objects that are searched for files."""
FIELDS_MAX: Final = 16
"""Further fields of a file that are kept at most."""
NAME_MAX: Final = 64
"""Characters of the name of such a field that are kept."""
RAW_MAX_BYTES: Final = 16 * 1024
"""Size (bytes) as JSON that is kept of an event with an unknown shape."""
USAGE_MAX_BYTES: Final = 4 * 1024
"""Size (bytes) of `usage` that is kept. A real one has some hundred bytes."""
USAGE_LIST_MAX_BYTES: Final = 12 * 1024
"""Size (bytes) of `taskUsageList` that is kept. It has one `usage` for each part of a task, and there are few."""
PART_MIN_BYTES: Final = 64
"""Size (bytes) of a usual file or text. With less space left, the search ends."""
MARGIN_BYTES: Final = 64
"""Size (bytes) of the names and brackets around files and texts."""


def output_of(event: dict[str, Any]) -> tuple[dict[str, Any], bool] | None:
    """Read the output of a success.

    Returns:
        The output, and whether its shape is known. A known output is
        `{"files": [{url, type, …}], "texts"?, "coins"?, "usage"?, "taskUsageList"?, "cut"?}`. An unknown one has no files,
        and the event itself under `raw`. None when the event has no output.
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
    """Read the costs of a task.

    Returns:
        `coins` as a number, and `usage` and `taskUsageList` with a bounded size. Each is there only when the event has it.
    """
    costs: dict[str, Any] = {}
    usage, parts = event.get("usage"), event.get("taskUsageList")
    if isinstance(usage, dict) and (coins := number(usage.get("consumeCoins"))) is not None:
        costs["coins"] = coins
    if usage not in (None, "", [], {}):
        costs["usage"] = kept_output(usage, USAGE_MAX_BYTES)
    if parts not in (None, "", [], {}):
        costs["taskUsageList"] = kept_output(parts, USAGE_LIST_MAX_BYTES)
    return costs


def _is_output(name: str, value: Any) -> bool:
    if name in ("results", "data"):
        return carries(value)
    return name not in NO_OUTPUT_FIELDS and isinstance(value, str | dict | list) and carries(value)


def _within(found: list[Any], costs: dict[str, Any]) -> dict[str, Any]:
    """Make an output that fits into OUTPUT_MAX_BYTES, files before texts. It has `cut` when something is left out."""
    space = OUTPUT_MAX_BYTES - size({"files": [], **costs}) - MARGIN_BYTES
    files, space, files_cut = _files(found, space)
    texts, texts_cut = _texts(found, space)
    output = {"files": files, **({"texts": texts} if texts else {}), **costs}
    return output | {"cut": True} if files_cut or texts_cut else output


def _files(found: list[Any], space: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Return the files that fit, the space (bytes) that is left, and whether a file is left out.

    A file is never cut, because a part of an address is useless.
    """
    files: list[dict[str, Any]] = []
    cut, addresses = False, {""}
    for part in _parts(found, DEPTH):
        address = _address(part)
        if address in addresses:  # an event may name a file in both shapes
            continue
        addresses.add(address)
        file = {"url": address, "type": _kind(part), **_more(part)}
        needed = size(file) + 2
        if needed <= space:
            space -= needed
            files.append(file)
            continue
        cut = True
        if space < PART_MIN_BYTES:
            break
    return files, space, cut


def _texts(found: list[Any], space: int) -> tuple[list[str], bool]:
    """Return the texts that fit, and whether anything is left out. The last text may be cut."""
    texts: list[str] = []
    cut, known = False, {""}
    for part in _parts(found, DEPTH):
        text = _line(part.get("text"))
        if text in known:
            continue
        if space < PART_MIN_BYTES:
            return texts, True
        known.add(text)
        kept = fitted(text, space - 2)
        cut = cut or kept != text
        space -= size(kept) + 2
        texts.append(kept)
    return texts, cut


def _parts(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield each object that has an address or a text. A bare address becomes such an object."""
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
    """Return further plain fields of a file, such as its cost and its node."""
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
    """Return clean text without blanks at its ends; empty for a value that is no text."""
    return clean(value).strip() if isinstance(value, str) else ""
