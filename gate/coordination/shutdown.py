"""The stop of this server: what begins it, and the delay before its listener closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Shutdown:
    """Tells that this server is about to stop.

    From its beginning `/readyz` is 503, and each answer closes its connection. All calls are still served for `delay_s`, so that proxies
    and load balancers send their calls elsewhere before the port is closed.

    Attributes:
        delay_s: Time (s) from the beginning to the close of the listener.
        is_begun: The stop has begun. It cannot be taken back.
        on_begin: Functions that are called once, when it begins.
        pass_on: Passes the request of a caller on to the other processes of this server; None when there are none.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.is_begun = False
        self.on_begin: list[Callable[[], None]] = []
        self.pass_on: Callable[[], None] | None = None
        self._begun, self._hurried = asyncio.Event(), asyncio.Event()

    def begin(self) -> None:
        """Begin the stop. Further calls do nothing."""
        if self.is_begun:
            return
        self.is_begun = True
        self._begun.set()
        for call in self.on_begin:
            call()

    def request(self) -> None:
        """Begin the stop of this server, with all of its processes, because a caller asks for it."""
        if not self.is_begun:
            self.begin()
            if self.pass_on is not None:
                self.pass_on()

    def hurry(self) -> None:
        """Begin the stop if it has not begun, and end its delay."""
        self.begin()
        self._hurried.set()

    async def wait(self) -> None:
        """Return when the stop has begun and its delay is over."""
        await self._begun.wait()
        try:
            async with asyncio.timeout(self.delay_s):
                await self._hurried.wait()
        except TimeoutError:
            pass
