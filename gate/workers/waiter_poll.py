"""The poll that wakes waiters whose notification was lost, because a server died between its commit and the message.

It is only a fallback: notifications wake waiters. Each second one query reads the statuses of some of the parked jobs.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.coordination.waiters import Waiters
from gate.ledger import LedgerQueries
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.wake")

EVERY_S = 1.0
"""Pause (s) between two queries."""
AT_A_TIME = 500
"""Jobs in one query, so that its cost does not grow with the number of waiters."""


class WaiterPoll:
    """Compares the statuses that waiters know with SQL."""

    def __init__(self, reading: LedgerQueries, waiters: Waiters) -> None:
        self._reading, self._waiters = reading, waiters

    async def keep(self) -> None:
        """Poll, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except StoreDown as error:
                log.debug("waiter_poll.store_away", error=str(error))

    async def look(self) -> None:
        """Wake the waiters whose job has another status than they know. The others read nothing.

        Raises:
            StoreDown: SQL does not answer.
        """
        self._waiters.compare(await self._reading.statuses(self._waiters.some(AT_A_TIME)))  # guard: wake-after-a-lost-message
