"""Wakes parked waiters that a lost message left asleep: the one who should have sent it died between commit and word.

Not how they wake, only the net below: each second one look at some of them, all in one query.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.coordination.waiters import Waiters
from gate.ledger import LedgerQueries
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.wake")

EVERY_S = 1.0
AT_A_TIME = 500


class WaiterPoll:
    def __init__(self, reading: LedgerQueries, waiters: Waiters) -> None:
        self._reading, self._waiters = reading, waiters

    async def keep(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except StoreDown as error:
                log.debug("not looked", error=str(error))

    async def look(self) -> None:
        """Wakes those whose job has another status than they know: nobody else has to read his job for it."""
        self._waiters.compare(await self._reading.statuses(self._waiters.some(AT_A_TIME)))  # guard: wake-after-a-lost-message
