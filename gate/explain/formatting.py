"""Times, numbers and names as a person would say them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

NAMED_MAX = 5
"""Of a line of jobs."""
SHORT_MAX = 300
"""Characters."""


def clock(ms: int) -> str:
    """The time of day, by this machine's zone; with the date when it is another day."""
    then = datetime.fromtimestamp(ms / 1000)
    return f"{then:%H:%M:%S}" if then.date() == datetime.now().date() else f"{then:%Y-%m-%d %H:%M:%S}"


def until(ms: int, now: int) -> str:
    return f"until {clock(ms)} ({f'in {span(ms - now)}' if ms >= now else f'{span(now - ms)} ago'})"


def span(ms: int) -> str:
    """Two units at most: what a person would say."""
    seconds = max(round(ms / 1000), 0)
    for unit, size, under in (("d", 86_400, "h"), ("h", 3600, "min"), ("min", 60, "s")):
        if seconds >= size:
            rest = seconds % size // {"h": 3600, "min": 60, "s": 1}[under]
            return f"{seconds // size} {unit}" + (f" {rest} {under}" if rest else "")
    return f"{seconds} s"


def several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def names(known: Sequence[str], count: int) -> str:
    named = known[:NAMED_MAX]
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def short(text: str) -> str:
    return text if len(text) <= SHORT_MAX else f"{text[:SHORT_MAX]} … ({len(text)} characters)"
