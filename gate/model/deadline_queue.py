"""Timeouts for futures that all have the same time limit.

The future that was added first has the earliest deadline, so one timer serves all. A timer for each future would cost as much
as the operation that it limits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class DeadlineQueue:
    """Watches futures, and calls a function with each one that is not done in time."""

    def __init__(self, within_s: float, over: Callable[[asyncio.Future[Any]], None]) -> None:
        """Make an empty queue.

        Args:
            within_s: Time (s) that each future has, from the call of `watch`.
            over: Called with a future that was not done in time.
        """
        self._within_s, self._over = within_s, over
        self._watched: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any]) -> None:
        """Start the time of a future."""
        loop = future.get_loop()
        self._drop_done()
        self._watched.append((future, loop.time() + self._within_s))
        if self._alarm is None:
            self._alarm = loop.call_later(self._within_s, self._look)

    def stop(self) -> None:
        """Watch none of the futures any more."""
        self._watched.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _look(self) -> None:
        self._alarm = None
        while self._drop_done():
            future, due = self._watched[0]
            loop = future.get_loop()
            if (left := due - loop.time()) > 0:
                self._alarm = loop.call_later(left, self._look)
                return
            self._watched.popleft()
            self._over(future)

    def _drop_done(self) -> bool:
        """Drop the futures at the head that are done. Returns whether any future is left."""
        while self._watched and self._watched[0][0].done():
            self._watched.popleft()
        return bool(self._watched)
