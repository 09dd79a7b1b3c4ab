"""The rule for labels: names of users, tools and sessions, and a provider's names of tasks. It is the same on every way in."""

from __future__ import annotations

import re
from typing import Final

from gate.model.limits import LABEL_MAX

_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, separators of lines, characters that turn the direction of text, and lone surrogates.

They break lines, or let a name pose as another in a list. The set is fixed, because `str.isprintable` follows the Unicode
version of Python: the same name could be accepted by one server and refused by another.
"""
FIT: Final = "must be without control characters, line separators and characters that turn the direction of text"
"""What is wrong with a text that has such a character."""


def is_fit(text: str) -> bool:
    """Say whether every character of a text may be in a label.

    Joiners (ZWJ, ZWNJ) and every kind of space may, as names and emoji need them. Nothing is trimmed or normalised.
    """
    return text.isprintable() or _UNFIT.search(text) is None


def is_label(text: str) -> bool:
    """Say whether a text is a label: 1 to LABEL_MAX characters, each of them fit."""
    return 0 < len(text) <= LABEL_MAX and is_fit(text)


def plain(text: str) -> str:
    """Replace each character that is unfit. A terminal could run it as a control sequence, or reverse the text."""
    return text if text.isprintable() else _UNFIT.sub("\ufffd", text)
