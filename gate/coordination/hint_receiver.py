"""Hints of providers: callbacks that any caller may send. Each makes gate ask, and a flood of them must not slow the pool.

A hint that changes something is a transaction under the lock of the pool's row. So a read decides first whether it does. A task has its
question made due once in the shortest spacing of questions. Hints about tasks that no job is bound to are limited over all tasks.
"""

from __future__ import annotations

import time

from gate.coordination.single_flight import SingleFlight
from gate.ledger import CallbackResult, HintUse, Ledger, LedgerQueries
from gate.model.messages import ProviderReport

EARLY_PER_S = 20
"""Hints a second that a server keeps for tasks that no job is bound to. A task whose hint is dropped is asked about as without hints."""
BURST_S = 1.0
"""Time (s) without such hints that counts towards their limit."""


class HintReceiver:
    """Makes gate ask because of hints, and bounds what they cost."""

    def __init__(self, ledger: Ledger, rows: LedgerQueries) -> None:
        self._ledger, self._rows = ledger, rows
        self._turn = SingleFlight()
        self._early_from = 0.0

    async def hint(self, pool: str, provider: str, report: ProviderReport, raw: str) -> CallbackResult:
        """Ask soon about the task of a callback that is not believed. The callback itself changes no job.

        Args:
            pool: Name of the pool.
            provider: Name of the provider.
            report: The meaning of the callback, about a task.
            raw: The callback's body as it came.

        Returns:
            `hint`, also when it changes nothing.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        assert report.task_id is not None
        about = (pool, provider, report.task_id)
        if await self._rows.hint_use(*about) is HintUse.NONE:
            return CallbackResult.HINT
        async with self._turn:
            use = await self._rows.hint_use(*about)  # an equal one may have been first
            if use is HintUse.NUDGE or (use is HintUse.EARLY and self._takes_early()):  # guard: hints-of-a-flood-only-read
                await self._ledger.hint(pool, provider, report, raw)
        return CallbackResult.HINT

    def _takes_early(self) -> bool:
        """Return whether one more hint about an unknown task may be kept now, and count it."""
        now = time.monotonic()
        since = max(self._early_from, now - BURST_S)
        if now - since < 1 / EARLY_PER_S:
            return False
        self._early_from = since + 1 / EARLY_PER_S
        return True
