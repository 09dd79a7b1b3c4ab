"""The end of a caller's connection before its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class HangUp:
    """Tells whether the caller of a request has disconnected.

    The HTTP server keeps one for each connection, because a connection that is lost has no further requests.

    Attributes:
        happened: The connection is lost.
    """

    __slots__ = ("_wakeups", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._wakeups: set[asyncio.Event] = set()

    def happen(self) -> None:
        """Say that the connection is lost, and wake what waits for its caller."""
        self.happened = True
        for wakeup in self._wakeups:
            wakeup.set()

    @contextlib.contextmanager
    def wakes(self, wakeup: asyncio.Event) -> Iterator[None]:
        """Set an event when the caller disconnects, for the length of a block."""
        self._wakeups.add(wakeup)
        try:
            yield
        finally:
            self._wakeups.discard(wakeup)
