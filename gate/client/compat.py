"""What the client takes from Python 3.11 and 3.12 where it has them, and does without on Python 3.10."""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def cancelling(task: asyncio.Task[Any]) -> int:
    """Count the cancellations of a task. Python 3.10 does not count them; it gives 0."""
    return task.cancelling() if sys.version_info >= (3, 11) else 0


def uncancel(task: asyncio.Task[Any]) -> int:
    """Take one cancellation back, and count the others. Python 3.10 does not count them; it gives 0."""
    return task.uncancel() if sys.version_info >= (3, 11) else 0


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception. On Python 3.10 no traceback shows it."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
