"""Move SQLite's write-ahead log into its file, in a thread.

SQLite itself would do that within a commit, under load in one of ten. That commit would block the event loop for about five
times as long as the others (docs/performance.md).

Measured gain (`python -m bench ablation`): none in CPU or p99 on a fast disk. It is kept for slow ones, where a checkpoint
within a commit would block the event loop.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy.engine import Engine

EVERY = 200
"""Requests between two checkpoints. They write about the thousand pages after which SQLite would make one itself."""


class Checkpoints:
    """Makes checkpoints in a thread of its own, after each EVERY requests."""

    def __init__(self, engine: Engine) -> None:
        """Start without a thread; the first checkpoint starts it.

        Args:
            engine: Engine of the SQLite file that may write.
        """
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gate-sql-checkpoint")
        self._since = 0
        self._under_way: Future[None] | None = None

    def committed(self, requests: int) -> None:
        """Count committed requests, and start a checkpoint when it is due and none is running.

        Args:
            requests: Number of requests in the commit.
        """
        self._since += requests
        if self._since >= EVERY and (self._under_way is None or self._under_way.done()):
            self._since = 0
            with contextlib.suppress(RuntimeError):  # no thread can be started now; a later commit tries again
                self._under_way = self._thread.submit(self._make)

    def _make(self) -> None:
        # A fault of the file shows in the next write, so it is not reported here. If no checkpoint succeeds for long, a
        # write makes one itself.
        with contextlib.suppress(Exception), contextlib.closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("pragma wal_checkpoint(passive)").fetchall()

    def close(self) -> None:
        """Wait for the running checkpoint, then end the thread."""
        self._thread.shutdown()
