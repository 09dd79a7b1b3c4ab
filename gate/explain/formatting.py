"""Times, numbers and names formatted for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

NAMED_MAX = 5
"""Most jobs of a queue that a sentence names. A longer sentence is hard to read."""
SHORT_MAX = 300
"""Longest text (characters) that a sentence quotes in full. Outputs and callbacks may be far longer."""


def clock(ms: int) -> str:
    """Format a time (ms since 1970) in this machine's zone, with the date if it is not today."""
    then = datetime.fromtimestamp(ms / 1000)
    return f"{then:%H:%M:%S}" if then.date() == datetime.now().date() else f"{then:%Y-%m-%d %H:%M:%S}"


def when(ms: int | None) -> str | None:
    """Format a time for a table: as `clock` does; None stays None."""
    return None if ms is None else clock(ms)


def until(ms: int, now: int) -> str:
    """Format a deadline with its distance from `now`. Both are in ms since 1970."""
    return f"until {clock(ms)} ({f'in {span(ms - now)}' if ms >= now else f'{span(now - ms)} ago'})"


def span(ms: int) -> str:
    """Format a length of time (ms) in at most two units, such as `3 min 20 s`. A negative one becomes `0 s`."""
    seconds = max(round(ms / 1000), 0)
    for unit, size, under in (("d", 86_400, "h"), ("h", 3600, "min"), ("min", 60, "s")):
        if seconds >= size:
            rest = seconds % size // {"h": 3600, "min": 60, "s": 1}[under]
            return f"{seconds // size} {unit}" + (f" {rest} {under}" if rest else "")
    return f"{seconds} s"


def several(count: int, what: str) -> str:
    """Format a count with its noun, which takes an `s` in the plural."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def names(known: Sequence[str], count: int) -> str:
    """Name the first NAMED_MAX of `known`, and say how many of all `count` are left out."""
    named = known[:NAMED_MAX]
    more = count - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def short(text: str) -> str:
    """Cut a text at SHORT_MAX characters, and state its full length."""
    return text if len(text) <= SHORT_MAX else f"{text[:SHORT_MAX]} … ({len(text)} characters)"
