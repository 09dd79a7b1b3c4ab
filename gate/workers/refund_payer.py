"""The worker that has refunds paid by the owner's function, one at a time. A failed payment is logged and tried again."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from gate.ledger import BillingHooks
from gate.model.errors import StoreDown

log = structlog.get_logger("gate.settle")

EVERY_S = 1.0
"""Longest pause (s) between two looks for refunds that are due. Another server may have recorded one."""


class RefundPayer:
    """Calls the owner's function for each refund that is due."""

    def __init__(self, owner: BillingHooks) -> None:
        self._owner = owner
        self._due = asyncio.Event()

    def kick(self) -> None:
        """Wake the worker, because a refund may be due."""
        self._due.set()

    async def keep(self) -> None:
        """Pay refunds that are due, for ever."""
        trouble = None
        while True:
            self._due.clear()
            try:
                while (settled := await self._owner.settle_next()) is not None:
                    fields = {"job_id": settled.job_id, "amount": settled.amount, "attempts": settled.attempts}
                    if settled.error is None:
                        log.info("refund_payer.paid", **fields)
                    else:
                        log.error("refund_payer.payment_failed", why=settled.error, **fields)
                trouble = None
            except StoreDown as error:
                if str(error) != trouble:
                    log.warning("refund_payer.store_away", error=str(error))
                trouble = str(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._due.wait()
