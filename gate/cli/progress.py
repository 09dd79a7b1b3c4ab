"""A progress bar for long work. It is shown on stderr, if that is a terminal, after one second."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate.diagnostics.verify import Progress

SHOWN_AFTER_S = 1.0
"""Time (s) until the bar appears. Short work shows none, so that the terminal does not flicker."""


@contextlib.contextmanager
def bar(what: str, json: bool) -> Iterator[Progress]:
    """Show a progress bar while the block runs.

    Args:
        what: The text before the bar.
        json: True to show none, because the output is for a program.

    Yields:
        The function to call on progress. It does nothing when no bar is shown.
    """
    if json or not sys.stderr.isatty():
        yield lambda done, whole: None
        return
    from rich import progress
    from rich.console import Console

    columns = progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), progress.TaskProgressColumn()
    shown = progress.Progress(*columns, progress.TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    task = shown.add_task(what, total=None)
    begin = threading.Timer(SHOWN_AFTER_S, shown.start)
    begin.daemon = True
    begin.start()
    try:
        yield lambda done, whole: shown.update(task, completed=done, total=whole or None)
    finally:
        begin.cancel()
        begin.join()
        shown.stop()
