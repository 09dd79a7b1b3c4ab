"""A bar for work that takes a while: on stderr, where that is a terminal, and only once a second has gone by."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

SHOWN_AFTER_S = 1.0
Progress = Callable[[int, int], None]
"""Is told how much is done, and of how much; work that can't say tells nothing."""


@contextlib.contextmanager
def bar(what: str, json: bool) -> Iterator[Progress]:
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
