"""One at a time, and one failure for all who wait meanwhile: in turn each would wait as long as the one before, and the last of a hundred
callers for minutes.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from gate.errors import StoreDown


class Turn:
    """`async with`: raises the StoreDown of whoever was at it while this one waited."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failures = 0
        self._failure = StoreDown("redis", "")

    async def __aenter__(self) -> None:
        failures = self._failures
        await self._lock.acquire()
        if self._failures != failures:
            self._lock.release()
            raise StoreDown(self._failure.store, self._failure.detail, self._failure.held) from self._failure

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreDown):
            self._failures += 1
            self._failure = error
        self._lock.release()
