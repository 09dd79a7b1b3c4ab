"""Futures that may all wait equally long. Who began first is over first, so one alarm is enough for all of them: a timer for each
would cost as much as what it waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class DeadlineQueue:
    """Calls `over` with the first future that is not done `within_s` after it was watched; then with the next."""

    def __init__(self, within_s: float, over: Callable[[asyncio.Future[Any]], None]) -> None:
        self._within_s, self._over = within_s, over
        self._watched: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any]) -> None:
        loop = future.get_loop()
        self._drop_done()
        self._watched.append((future, loop.time() + self._within_s))
        if self._alarm is None:
            self._alarm = loop.call_later(self._within_s, self._look)

    def stop(self) -> None:
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
        """Whether anything is left."""
        while self._watched and self._watched[0][0].done():
            self._watched.popleft()
        return bool(self._watched)
