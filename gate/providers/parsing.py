"""Parsing of callback bodies. All work is bounded, and the only error for a bad body is Unreadable.

gate never refuses the end of a job because of a text in it. `kept_text` and `kept_output` clean a value, and cut with a mark
what is too long.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gate.model import strict_json
from gate.model.errors import Unreadable
from gate.model.label import FIT, is_label
from gate.model.limits import DEPTH_MAX, END_BODY_MAX_BYTES, LABEL_MAX, OUTPUT_MAX_BYTES, TEXT_MAX

MARK = "… (cut)"
"""Ends a text that was cut, and replaces a value that is nested too deeply."""
PARSED_DEPTH_MAX = 200
"""Levels that are parsed again when a body is too deep for the parser. It must be far below Python's recursion limit."""
DIGITS_MAX = 400
"""Digits of a whole number that is read. Python refuses numbers of some thousand digits."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""Brackets of JSON, and strings, because brackets inside a string do not count."""
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates, which SQL cannot store."""


def strictly(body: bytes) -> Any:
    """Parse JSON that every parser reads in the same way: UTF-8, no name twice, no NaN and no infinite number.

    Raises:
        Unreadable: The body is too large, or it is not such JSON.
    """
    if len(body) > END_BODY_MAX_BYTES:
        raise Unreadable("body", f"must be at most {END_BODY_MAX_BYTES} bytes")
    try:
        return strict_json.loads(body.decode("utf-8"))
    except strict_json.Ambiguous as error:
        raise Unreadable("body", "a name comes twice" if error.message == "is named twice" else error.message) from None
    except (ValueError, RecursionError):  # also for bad UTF-8, a number with too many digits, and deep nesting
        raise Unreadable("body", "it is not JSON") from None


def leniently(text: bytes | str, field: str = "body") -> Any:
    """Parse JSON with all tolerances of `tolerantly`.

    Args:
        text: The JSON.
        field: Name of the field for the error.

    Raises:
        Unreadable: The text is too large, or it is not JSON.
    """
    if len(text) > END_BODY_MAX_BYTES:
        raise Unreadable(field, f"must be at most {END_BODY_MAX_BYTES} bytes")
    try:
        return tolerantly(text)
    except ValueError:
        raise Unreadable(field, "it is not JSON") from None


def tolerantly(text: bytes | str, **how: Any) -> Any:
    """Parse JSON of a message that ends a job, which must not fail because of a single text or number.

    Bytes that are not UTF-8 become replacement characters. NaN, infinity and numbers of more than 400 digits become null.
    When the JSON is too deep for the parser, all below 200 levels becomes null.

    Args:
        text: The message.
        how: Further arguments of `json.loads`.

    Raises:
        ValueError: It is not JSON.
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
    """Replace all values below PARSED_DEPTH_MAX levels by null, so that the parser's recursion ends."""
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


def clean(text: str) -> str:
    """Remove characters that SQL cannot store."""
    return UNSTORABLE.sub("", text)


def label(value: object, field: str) -> str:
    """Read the id of a task: a label, or a whole number, which stays exact.

    Args:
        value: The value from the body.
        field: Name of the field for the error.

    Raises:
        Unreadable: It is neither, or longer than 256 characters.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not (isinstance(value, str) and is_label(value)):
        raise Unreadable(field, f"must be 1 to {LABEL_MAX} characters, or a whole number, and {FIT}")
    return value


def number(value: object) -> float | int | None:
    """Read a finite number, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(found):
        return None
    return int(found) if found.is_integer() and abs(found) < 2**53 else found


def fields(value: object) -> dict[str, Any]:
    """Return an object, and an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def carries(value: object) -> bool:
    """Return whether a value has any content. Empty texts, lists and objects, null, false and 0 are none."""
    level = [value]
    while level:
        inside: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                inside += one.values() if isinstance(one, dict) else one
            elif clean(one).strip() if isinstance(one, str) else one:
                return True
        level = inside
    return False


def kept_text(value: object, most: int = TEXT_MAX) -> str | None:
    """Make the text of an error from a value.

    Args:
        value: A string. Any other value is written as JSON.
        most: Characters of the result at most, with the mark of a cut.

    Returns:
        Clean text without blanks at its ends; None when it would be empty.
    """
    if value is None or value == [] or value == {} or (isinstance(value, float) and not math.isfinite(value)):
        return None
    text = (clean(value) if isinstance(value, str) else json_text(value)).strip()
    if len(text) > most:
        text = text[: most - len(MARK)] + MARK
    return text or None


def kept_output(value: object, most: int = OUTPUT_MAX_BYTES) -> Any:
    """Make an output of bounded size from a value.

    Args:
        value: Any value of JSON. NaN and infinity become null. A value below 32 levels becomes the mark of a cut.
        most: Size (bytes) of the result as JSON in UTF-8 at most.

    Returns:
        The clean value, or `{"cut": true, "text": "<the beginning of its JSON>… (cut)"}` when it is too large.
    """
    output = _shallow(value, DEPTH_MAX)
    if size(output) <= most:
        return output
    return {"cut": True, "text": fitted(json_text(output), most - size({"cut": True, "text": ""}) + 2)}


def json_text(value: object) -> str:
    """Write a value as clean JSON, to the depth of an output."""
    return _written(_shallow(value, DEPTH_MAX))


def fitted(text: str, most: int) -> str:
    """Cut a clean text to a size as JSON. A text that is cut ends with the mark.

    Args:
        text: The text.
        most: Size (bytes) of its JSON at most, with the quotes.
    """
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
    """Return the size (bytes) of a clean value as JSON."""
    return len(_written(value).encode())
