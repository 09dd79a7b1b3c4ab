"""Bodies from outside: bounded, and never more than a typed refusal.

An end is never refused for its texts: `kept_text` and `kept_output` clean a value, cut what is too long and leave a mark.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gate.model.errors import Unreadable
from gate.model.job import LABEL_MAX

BODY_MAX_BYTES = 8 * 1024 * 1024
"""A callback that carries a picture or a log inside must still end its job."""
TEXT_MAX = 4_000
"""Characters of an error."""
OUTPUT_MAX_BYTES = 64 * 1024
MARK = "… (cut)"
"""Ends a text that is longer than what is kept, and stands for a value that is deeper than that."""
DEPTH_MAX = 32
PARSED_DEPTH_MAX = 200
DIGITS_MAX = 400
"""Digits of a whole number that is read. Python refuses numbers of some thousand digits."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""What nests, and strings, in which the same characters nest nothing."""
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: SQL keeps neither."""


def strictly(body: bytes) -> Any:
    """JSON that all would read alike: UTF-8, no name twice, no NaN, no number beyond all bounds."""
    return _parsed(body, "body", "utf-8", object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def leniently(text: bytes | str, field: str = "body") -> Any:
    """Whatever passes for JSON, as `tolerantly` reads it. Raises Unreadable."""
    if len(text) > BODY_MAX_BYTES:
        raise Unreadable(field, f"must be at most {BODY_MAX_BYTES} bytes")
    try:
        return tolerantly(text)
    except ValueError:
        raise Unreadable(field, "it is not JSON") from None


def tolerantly(text: bytes | str, **how: Any) -> Any:
    """JSON of a message that ends a job, and so is not refused for a text or a number in it.

    Bytes that are not UTF-8 are marked; NaN, infinity and numbers of more than 400 digits become null, and so does what is nested
    deeper than 200 levels.

    Args:
        text: the message.
        how: further arguments of `json.loads`.

    Raises:
        ValueError: it is not JSON.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    how |= {"parse_constant": lambda _: None, "parse_int": _whole_or_none, "parse_float": _finite_or_none}
    try:
        return json.loads(text, **how)
    except RecursionError:
        return json.loads(_without_depth(text), **how)


def _whole_or_none(text: str) -> int | None:
    return int(text) if len(text) <= DIGITS_MAX else None


def _finite_or_none(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _without_depth(text: str) -> str:
    """The same JSON with null for what is nested deeper than the parser goes."""
    kept, depth, at = list[str](), 0, 0
    for found in _TOKENS.finditer(text):
        token = found.group()
        if token in "[{":
            depth += 1
            if depth == PARSED_DEPTH_MAX + 1:
                kept += [text[at : found.start()], "null"]
        elif token in "]}":
            depth -= 1
            if depth == PARSED_DEPTH_MAX:
                at = found.end()
    return "".join([*kept, text[at:]]) if depth == 0 else text[:1]


def _parsed(text: bytes | str, field: str, encoding: str, **how: Any) -> Any:
    if len(text) > BODY_MAX_BYTES:
        raise Unreadable(field, f"must be at most {BODY_MAX_BYTES} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode(encoding)
        return json.loads(text, **how)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of too many digits, or too deep
        raise Unreadable(field, "it is not JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unreadable("body", "a name comes twice")
    return found


def _no_number(text: str) -> Any:
    raise Unreadable("body", f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable("body", "a number is too large")
    return number


def clean(text: str) -> str:
    return UNSTORABLE.sub("", text)


def label(value: object, field: str) -> str:
    """The id of a task: printable text, or a whole number, which stays exact.

    Raises:
        Unreadable: it is neither, or longer than 256 characters.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not (isinstance(value, str) and 1 <= len(value) <= LABEL_MAX and value.isprintable()):
        raise Unreadable(field, f"must be 1 to {LABEL_MAX} printable characters, or a whole number")
    return value


def kept_text(value: object, most: int = TEXT_MAX) -> str | None:
    """The part of a value that is kept as an error.

    Args:
        value: a string, or any other value of JSON, of which the JSON text counts.
        most: characters of the result, with the mark of a cut.

    Returns:
        Clean text without blanks at its ends, or None when nothing is left of it.
    """
    if value is None or value == [] or value == {} or (isinstance(value, float) and not math.isfinite(value)):
        return None
    text = (clean(value) if isinstance(value, str) else json_text(value)).strip()
    if len(text) > most:
        text = text[: most - len(MARK)] + MARK
    return text or None


def kept_output(value: object, most: int = OUTPUT_MAX_BYTES) -> Any:
    """The part of a value of JSON that is kept as an output.

    Args:
        value: any value of JSON; NaN and infinity become null, and what is more than 32 levels deep becomes the mark of a cut.
        most: bytes of the result as JSON in UTF-8.

    Returns:
        The clean value, or `{"cut": true, "text": "<the beginning of its JSON>… (cut)"}` when it is too large.
    """
    output = _shallow(value, DEPTH_MAX)
    if size(output) <= most:
        return output
    return {"cut": True, "text": fitted(json_text(output), most - size({"cut": True, "text": ""}) + 2)}


def json_text(value: object) -> str:
    """The clean JSON of a value, as deep as an output may be."""
    return _written(_shallow(value, DEPTH_MAX))


def fitted(text: str, most: int) -> str:
    """As much of a clean text as JSON writes in `most` bytes, quotes included, with a mark when that is not all of it."""
    if size(text) <= most:
        return text
    text = text[:most]
    while (bytes_ := size(text + MARK)) > most and text:
        text = text[: min(len(text) - 1, len(text) * most // bytes_)]
    return text + MARK


def _shallow(value: object, depth: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return MARK
    if isinstance(value, list):
        return [_shallow(one, depth - 1) for one in value]
    return {clean(name): _shallow(one, depth - 1) for name, one in value.items()}


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def size(value: object) -> int:
    """Bytes of clean JSON."""
    return len(_written(value).encode())
