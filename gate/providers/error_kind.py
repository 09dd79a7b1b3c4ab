"""The kind of a failure by its text, for providers and failures without a code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gate.model.messages import ErrorKind

SEARCHED_MAX: Final = 2_000
"""Characters of a text that are searched. The reason stands at its beginning."""
WORDS: Final = {
    ErrorKind.SAFETY: r"nsfw|flagged|sensitive|safety|moderat\w+|content[ _]polic\w+|content check\w*|inappropriate|审核|真人",
    ErrorKind.QUOTA: r"insufficient \w+|not enough (credit|balance|wallet)\w*|out of credit\w*|payment required|余额不足",
    ErrorKind.INFRASTRUCTURE: (
        r"stale file handle|out ?of ?memory\w*|cuda( driver)? error|cudnn\w*|no space left|disk quota|input/output error|"
        r"connection (reset|refused|error|aborted)|broken pipe|bad gateway|service unavailable|internal (server )?error|"
        r"runner \w+|prediction interrupted|health ?check|unexpected error|显存不足"
    ),
    ErrorKind.TIMEOUT: r"timed? ?out|deadline (exceeded|reached|passed)|took too long|超时",
    ErrorKind.BUSY: r"too many requests|rate limit\w*|throttled|queue (is )?full|queue_maxed|high demand|overloaded|busy|繁忙",
    ErrorKind.INPUT: (
        r"invalid (?!status code)\w+|validation\w*|must be|is required|missing (required )?(field|parameter|input)\w*|unsupported \w+|"
        r"not (a )?valid|unprocessable|does not (match|exist)|too (large|long|small|short)|bad request"
    ),
}
"""Words of each kind. The first kind with a match counts: a refused content is often called invalid too."""
PATTERNS: Final = {kind: re.compile(rf"(?<![a-z])({words})", re.IGNORECASE) for kind, words in WORDS.items()}


def kind_of(text: str | None, *codes: object, known: Mapping[str, ErrorKind] | None = None) -> ErrorKind:
    """Return the kind of a failure: by the first code that is known, or by its text.

    Args:
        text: The error.
        codes: The provider's codes of the failure, in any form.
        known: Kinds of the provider's codes.
    """
    for code in codes:
        if isinstance(code, str | int) and (kind := (known or {}).get(str(code).strip())) is not None:
            return kind
    searched = (text or "")[:SEARCHED_MAX]
    return next((kind for kind, pattern in PATTERNS.items() if pattern.search(searched)), ErrorKind.UNKNOWN)
