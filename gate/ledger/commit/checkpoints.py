"""What SQLite has written ahead goes into its file in a thread: by itself it would do that within a commit, one in ten when many come, and
each time the loop would stand still for some five times as long (docs/performance.md).
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy.engine import Engine

EVERY = 200
"""Requests: about the thousand pages after which SQLite would do it."""


class Checkpoints:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gate-sql-checkpoint")
        self._since = 0
        self._under_way: Future[None] | None = None

    def committed(self, requests: int) -> None:
        self._since += requests
        if self._since >= EVERY and (self._under_way is None or self._under_way.done()):
            self._since = 0
            with contextlib.suppress(RuntimeError):  # there is no thread to be had; another time
                self._under_way = self._thread.submit(self._make)

    def _make(self) -> None:
        # Whatever is wrong with the file, whoever writes finds out; and makes one himself when none has been made for long.
        with contextlib.suppress(Exception), contextlib.closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("pragma wal_checkpoint(passive)").fetchall()

    def close(self) -> None:
        self._thread.shutdown()
