"""When the ticker has to look at each pool next: a heap for all pools that have something to wait for, with one timer."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time


class DueTimes:
    """The earliest due time of each pool, by `time.monotonic()` (s).

    The heap may hold outdated entries: of a pool that has an earlier due time by now, or that was taken or dropped. They are
    skipped.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._earlier = asyncio.Event()

    def by(self, pool: str, at: float) -> None:
        """Let the pool be due at this time at the latest.

        Args:
            pool: Name of the pool.
            at: The time, by `time.monotonic()` (s).
        """
        if at < self._at.get(pool, float("inf")):
            self._at[pool] = at
            heapq.heappush(self._heap, (at, pool))
            if self._heap[0] == (at, pool):
                self._earlier.set()

    def __contains__(self, pool: str) -> bool:
        """Whether the pool has a due time."""
        return pool in self._at

    def drop(self, pool: str) -> None:
        """Forget a pool."""
        self._at.pop(pool, None)

    async def take(self) -> list[str]:
        """Wait until a pool is due. Forget the due time of each pool that is, and return these pools."""
        while True:
            self._earlier.clear()
            if due := self._due():
                return due
            left = self._heap[0][0] - time.monotonic() if self._heap else None
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation that arrives together with the event.
                async with asyncio.timeout(left):
                    await self._earlier.wait()

    def _due(self) -> list[str]:
        now, due = time.monotonic(), []
        while self._heap and self._heap[0][0] <= now:
            at, pool = heapq.heappop(self._heap)
            if self._at.get(pool) == at:
                del self._at[pool]
                due.append(pool)
        return due
