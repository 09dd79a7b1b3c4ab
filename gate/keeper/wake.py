"""Wakes parked waiters that a lost message left asleep: the one who should have sent it died between commit and word.

Not how they wake, only the net below: each second one look at some of them, all in one query.
"""

from __future__ import annotations

import asyncio

import structlog

from gate.errors import StoreDown
from gate.ledger import Reading
from gate.waiters import Waiters

log = structlog.get_logger("gate.wake")

EVERY_S = 1.0
AT_A_TIME = 500


class Wake:
    def __init__(self, reading: Reading, waiters: Waiters) -> None:
        self._reading, self._waiters = reading, waiters
        self._seen: dict[str, str] = {}

    async def keep(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except StoreDown as error:
                log.debug("not looked", error=str(error))

    async def look(self) -> None:
        """Wakes those whose job has another status than at the look before, or was not looked at before."""
        now = await self._reading.statuses(self._waiters.some(AT_A_TIME))
        self._waiters.wake(job_id for job_id, status in now.items() if self._seen.get(job_id) != status)
        self._seen = {**{job_id: s for job_id, s in self._seen.items() if self._waiters.waits(job_id)}, **now}
