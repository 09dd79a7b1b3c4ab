"""gate/client/sync_calls.py is generated."""

from __future__ import annotations

from tests.checks.sync_client import MADE, made


def test_the_calls_for_threads_are_those_for_asyncio() -> None:
    assert MADE.read_text() == made(), "make them anew: python -m tests.checks.sync_client"
