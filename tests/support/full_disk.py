"""A disk that is full, for one process: each of its files may grow by a few pages and no further, as under a quota."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

FRAME_BYTES = 4_120
"""Size (bytes) of a page in SQLite's log."""


@contextlib.contextmanager
def full_disk(pid: int, log: Path, pages: int = 6) -> Iterator[None]:
    """Let the log of SQLite grow by `pages` more pages: too few for the commit of a job, and enough for a small row."""
    room = log.stat().st_size + pages * FRAME_BYTES
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
