"""JSON that every parser reads in the same way: no name twice in an object, no NaN, no number out of range."""

from __future__ import annotations

import json
import math
from typing import Any


class Ambiguous(ValueError):
    """The text is JSON that parsers read differently.

    Attributes:
        field: The name at fault; None when no name is.
        message: What is wrong with it, such as `is named twice`.
    """

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


def loads(text: str) -> Any:
    """Parse strict JSON.

    Raises:
        Ambiguous: Parsers read it differently.
        ValueError: It is no JSON, or a whole number has thousands of digits.
        RecursionError: It is nested too deep.
    """
    return _decoder.decode(text)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs.

    Raises:
        Ambiguous: A name comes twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Ambiguous(name if name.isprintable() else None, "is named twice")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise Ambiguous(None, f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Ambiguous(None, "a number is too large")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=once, parse_constant=_no_number, parse_float=_finite)
