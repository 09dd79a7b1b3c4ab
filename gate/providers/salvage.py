"""Salvage of callback bodies that no provider's module could read: the task that a body names, and its content as an output.

This module may be tolerant where the providers' modules are strict, because an operator decides how the job ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from gate.model.errors import Unreadable
from gate.model.label import is_label
from gate.model.limits import LABEL_MAX, OUTPUT_MAX_BYTES
from gate.providers.parsing import clean, kept_output, leniently

VALUE = r"""\b\\*["']?\s*[:=]\s*\\*(?:"([^"\\]{1,256})\\*"|'([^'\\]{1,256})\\*'|([\w.:-]{1,256})(?![\w.:-]))"""
"""What follows the name of a field in broken JSON, in JSON inside a string and in a form. A value without its end may be cut,
so it is none."""
WORDS = frozenset({"null", "none", "true", "false", "undefined"})
"""Values without quotes that are no name."""


def task_id(body: str, names: Sequence[str]) -> str | None:
    """Find the task that a body names: at its top level, one level below, or anywhere in its text.

    Args:
        body: Text of the callback.
        names: Fields in which its provider names the task.

    Returns:
        None when it names none.
    """
    try:
        found = leniently(body)
    except Unreadable:
        found = None
    if isinstance(found, dict):
        for part in (found, *found.values()):
            for name in names if isinstance(part, dict) else ():
                if (label := _label(part.get(name))) is not None:
                    return label
    for match in _named(tuple(names)).finditer(body):
        quoted = match[1] or match[2]
        if quoted is None and match[3].lower() in WORDS:
            continue
        if (label := _label(quoted or match[3])) is not None:
            return label
    return None


@cache
def _named(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))}){VALUE}", re.IGNORECASE)


def output(body: str) -> dict[str, Any]:
    """Make the output of a completed job from a body.

    Returns:
        The JSON of the body under `raw`, or its text when it is no JSON or too large.
    """
    try:
        found = leniently(body)
    except Unreadable:
        found = clean(body)
    return {"raw": kept_output(found, OUTPUT_MAX_BYTES - 1024)}


def _label(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**LABEL_MAX:
        value = str(value)
    if isinstance(value, str) and is_label(value.strip()):
        return value.strip()
    return None
