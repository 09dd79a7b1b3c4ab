"""Pays the refunds that the owner's function has to pay, one at a time. A function that fails is asked again, and said so."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from gate.ledger import BillingHooks
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.settle")

EVERY_S = 1.0


class RefundPayer:
    def __init__(self, owner: BillingHooks) -> None:
        self._owner = owner
        self._due = asyncio.Event()

    def kick(self) -> None:
        """There may be something to pay."""
        self._due.set()

    async def keep(self) -> None:
        """For ever."""
        while True:
            self._due.clear()
            try:
                while (settled := await self._owner.settle_next()) is not None:
                    told = {"job_id": settled.job_id, "amount": settled.amount, "attempts": settled.attempts}
                    if settled.error is None:
                        log.info("refunded by the owner's function", **told)
                    else:
                        log.error("a refund is owed: the owner's function failed", why=settled.error, **told)
            except StoreDown as error:
                log.warning("refunds wait", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._due.wait()
