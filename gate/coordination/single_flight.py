"""A lock that fails all its waiters at once.

When a store hangs, one call at a time would wait for its whole timeout. The last of a hundred callers would wait for minutes.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from gate.model.errors import StoreDown


class SingleFlight:
    """An async lock. Entering it raises StoreDown if a holder failed with StoreDown while this call waited."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failed: StoreDown | None = None

    async def __aenter__(self) -> None:
        before = self._failed
        await self._lock.acquire()
        if (failed := self._failed) is not None and failed is not before:  # guard: failed-load-fails-its-waiters
            self._lock.release()
            raise StoreDown(failed.store, failed.detail, failed.held) from failed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreDown):
            self._failed = error
        self._lock.release()
