"""Makes gate/client/sync_calls.py of async_calls.py: `python -m tests.checks.sync_client`. A test holds them equal."""

from __future__ import annotations

import re

from tests.support.paths import GATE

SOURCE, MADE = GATE / "client" / "async_calls.py", GATE / "client" / "sync_calls.py"
HEADER = '"""The plain calls of version 1, for threads. Generated from `async_calls.py` by tests/checks; do not edit."""'
WORDS = {r"\basync def\b": "def", r"\bawait ": "", r"\bAsyncCalls\b": "Calls", r"\bAsyncClient\b": "Client"}


def made() -> str:
    """Return the text of the module for threads."""
    text = SOURCE.read_text()
    for word, other in WORDS.items():
        text = re.sub(word, other, text)
    return HEADER + text[text.index('"""', 3) + 3 :]


if __name__ == "__main__":
    MADE.write_text(made())
