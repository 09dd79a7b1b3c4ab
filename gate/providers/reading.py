"""Bodies from outside: bounded, and never more than a typed refusal."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gate.errors import Unreadable

BODY_MAX_BYTES = 256 * 1024
TEXT_MAX = 4_000
"""Characters of an error."""
OUTPUT_MAX_BYTES = 64 * 1024
DEPTH_MAX = 32
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: SQL keeps neither."""


def strictly(body: bytes) -> Any:
    """JSON that all would read alike: UTF-8, no name twice, no NaN, no number beyond all bounds."""
    return _parsed(body, "body", "utf-8", object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def leniently(text: bytes | str, field: str = "body") -> Any:
    """Whatever passes for JSON. NaN and infinity are dropped to null: nothing can store them."""
    return _parsed(text, field, "utf-8-sig", parse_constant=lambda _: None)


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


def bounded(text: str) -> str:
    return clean(text)[:TEXT_MAX]


def cleaned(value: Any, field: str, depth: int = DEPTH_MAX) -> Any:
    """The same value with all its texts clean."""
    if isinstance(value, str):
        return clean(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise Unreadable(field, f"must be at most {DEPTH_MAX} levels deep")
    if isinstance(value, list):
        return [cleaned(one, field, depth - 1) for one in value]
    return {clean(name): cleaned(one, field, depth - 1) for name, one in value.items()}


def size(value: Any) -> int:
    """Bytes of clean JSON."""
    return len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
