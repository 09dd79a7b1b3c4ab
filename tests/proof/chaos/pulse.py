"""How long this process itself stood still: an answer that came in time is read late by that."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from itertools import takewhile

EVERY_S = 0.02
USUAL_S = 0.03
REMEMBERED = 10_000


class Pulse:
    def __init__(self) -> None:
        self._beats: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        """When a beat came, and how late it was; the newest first."""

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()
            self._beats.clear()

    async def _beat(self) -> None:
        while True:
            due = time.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._beats.appendleft((time.time(), time.time() - due))

    def stood_still_s(self, since: float, now: float) -> float:
        """In all from `since` to `now`, by time.time(); the beat that is due, and has not come yet, counts too."""
        missing = max(now - max(since, self._beats[0][0]) - EVERY_S, 0) if self._beats else 0
        return missing + sum(late for _, late in takewhile(lambda beat: beat[0] >= since, self._beats) if late > USUAL_S)
