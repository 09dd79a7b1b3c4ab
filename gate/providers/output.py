"""The output of a task from what a provider gives: its files, texts and costs, wherever a value has them.

Each file is an object with `url` or `fileUrl`, or a bare address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gate.model.limits import LABEL_MAX, OUTPUT_MAX_BYTES
from gate.providers.parsing import carries, clean, fitted, json_text, kept_output, kept_text, size

ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
"""A text that counts as a file without an object around it."""
URLS: Final = ("url", "fileUrl")
"""Fields for the address of a file; the first that is not empty counts."""
KINDS: Final = ("outputType", "fileType", "content_type", "type")
"""Fields for the kind of a file; the first that is not empty counts."""
DEPTH: Final = 6
"""Levels of lists and objects that are searched for files."""
FIELDS_MAX: Final = 16
"""Further fields of a file that are kept at most."""
NAME_MAX: Final = 64
"""Characters of the name of such a field that are kept."""
RAW_MAX_BYTES: Final = 16 * 1024
"""Size (bytes) as JSON that is kept of a result with an unknown shape."""
PART_MIN_BYTES: Final = 64
"""Size (bytes) of a usual file or text. With less space left, the search ends."""
MARGIN_BYTES: Final = 64
"""Size (bytes) of the names and brackets around files and texts."""
MEDIA: Final = frozenset(("images", "image", "videos", "video", "audio", "audios", "files", "file"))
"""Fields that hold the files of a result. When all of them are empty, the rest (a seed, the times) is no output."""


def output_of_any(value: Any, costs: dict[str, Any]) -> tuple[dict[str, Any], bool] | None:
    """Read the output of a provider whose models decide its shape.

    Args:
        value: The output: files anywhere in it, a text, a text in pieces, or anything else.
        costs: Further fields of the output.

    Returns:
        The output, and that its shape is known: `{"files": [{url, type, …}], "texts"?, "raw"?, "cut"?}` with the costs. `raw`
        has a value without files and texts. None for no output.
    """
    pieces = isinstance(value, list) and all(isinstance(one, str) for one in value)
    output = gather([value], costs)
    if not output["files"] and (pieces or isinstance(value, str)):
        output = gather([{"text": "".join(value)}], costs)
    if output["files"] or "texts" in output:
        return output, True
    is_empty = isinstance(value, dict) and not MEDIA.isdisjoint(value)
    if is_empty or not (carries(value) or isinstance(value, int | float)):
        return None
    return {"files": [], "raw": raw_of(value), **costs}, True


def raw_of(value: Any) -> Any:
    """Make a value of bounded size that stands for an output without files and texts."""
    raw = kept_output(value)
    return raw if size(raw) <= RAW_MAX_BYTES else fitted(json_text(value), RAW_MAX_BYTES)


def gather(found: list[Any], costs: dict[str, Any], inside: Sequence[str] | None = None) -> dict[str, Any]:
    """Make an output that fits into OUTPUT_MAX_BYTES, files before texts. It has `cut` when something is left out.

    Args:
        found: Values that may hold files and texts.
        costs: Further fields of the output.
        inside: Fields of an object that may hold further files; None for all.
    """
    space = OUTPUT_MAX_BYTES - size({"files": [], **costs}) - MARGIN_BYTES
    parts = list(_parts(found, DEPTH, inside))
    files, space, files_cut = _files(parts, space)
    texts, texts_cut = _texts(parts, space)
    output = {"files": files, **({"texts": texts} if texts else {}), **costs}
    return output | {"cut": True} if files_cut or texts_cut else output


def _files(parts: list[dict[str, Any]], space: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Return the files that fit, the space (bytes) that is left, and whether a file is left out.

    A file is never cut, because a part of an address is useless.
    """
    files: list[dict[str, Any]] = []
    cut, addresses = False, {""}
    for part in parts:
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


def _texts(parts: list[dict[str, Any]], space: int) -> tuple[list[str], bool]:
    """Return the texts that fit, and whether anything is left out. The last text may be cut."""
    texts: list[str] = []
    cut, known = False, {""}
    for part in parts:
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


def _parts(value: Any, depth: int, inside: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Yield each object that has an address or a text. A bare address becomes such an object."""
    if depth == 0:
        return
    if isinstance(value, str) and ADDRESS.fullmatch(_line(value)):
        yield {"url": value}
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one, depth - 1, inside)
    elif isinstance(value, dict):
        address = _address(value)
        if address or _line(value.get("text")):
            yield value
        for name in value if inside is None else inside:
            if not (address and name in URLS):
                yield from _parts(value.get(name), depth - 1, inside)


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
