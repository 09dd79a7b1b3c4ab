"""Whether the two stores answer and take writes. A change is logged once, however many calls and workers meet it.

A store that is full still answers reads. Without a write of its own, gate would learn of it from the first caller that is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.presence import Presence
from gate.ledger import Ledger
from gate.model.errors import StoreDown
from gate.model.job import now_ms
from gate.slots import Semaphore

log = structlog.get_logger("gate.stores")

FRESH_S = 0.5
"""Age (s) up to which a trouble counts as one of now. While a store is away, every worker asks again and again."""


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """A store that does not answer, or that takes no writes.

    Attributes:
        store: `redis` or `sql`.
        why: The error, in one line.
        refuses: It answers, and takes no writes.
        since_ms: When that was first seen (ms since 1970).
    """

    store: str
    why: str
    refuses: bool
    since_ms: int


class StoreHealth:
    """Looks at both stores, and keeps what is wrong with them.

    Attributes:
        troubles: What was wrong at the last look, by store.
    """

    def __init__(self, semaphore: Semaphore, ledger: Ledger, registry: PoolRegistry) -> None:
        self._questions: dict[str, tuple[Callable[[], Awaitable[None]], ...]] = {
            "redis": (semaphore.probe,),
            "sql": (registry.look_at_ledger, self._prove_sql),
        }
        self._ledger, self._registry = ledger, registry
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._looked_at: dict[str, float] = {}
        self.troubles: dict[str, StoreTrouble] = {}
        self._presence = Presence()
        semaphore.present_since = self._presence.since

    @property
    def refusing(self) -> StoreTrouble | None:
        """A store that answers and takes no writes; None when there is none."""
        return next((one for one in self.troubles.values() if one.refuses), None)

    async def look(self) -> bool:
        """Look at both stores, and log what has changed.

        Returns:
            True when both answer and take writes.
        """
        await asyncio.gather(*(self._look_once(store) for store in self._questions))
        # At rest SQL is seldom proven, and no lease is there that could be given grace.
        self._presence.looked(not self.troubles and bool(self._registry.at_work()))  # guard: present-while-sql-is-proven
        return not self.troubles

    async def settle(self) -> None:
        """End the looks that are under way, because the stores are about to be closed."""
        looking = list(self._looking.values())
        for look in looking:
            look.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    async def _prove_sql(self) -> None:
        at_rest = not self._registry.at_work()  # guard: probe-often-while-a-job-is-live
        await self._ledger.prove(at_rest)

    async def _look_once(self, store: str) -> None:
        """Look at a store once for all callers that come meanwhile."""
        if store in self.troubles and time.monotonic() - self._looked_at[store] < FRESH_S:
            return
        if store not in self._looking:
            looking = self._looking[store] = asyncio.create_task(self._look(store))
            looking.add_done_callback(lambda _: self._looking.pop(store))
        await asyncio.shield(self._looking[store])

    async def _look(self, store: str) -> None:
        error: StoreDown | None = None
        try:
            for question in self._questions[store]:
                await question()
        except StoreDown as found:
            error = found
        self._looked_at[store] = time.monotonic()
        self._note(store, error)

    def _note(self, store: str, error: StoreDown | None) -> None:
        before = self.troubles.pop(store, None)
        if error is not None:
            since_ms = before.since_ms if before is not None else now_ms()
            self.troubles[store] = StoreTrouble(store, error.detail, error.refuses, since_ms)
            if before is None:
                log.error("store.down", store=store, takes_no_writes=error.refuses, why=error.detail)
        elif before is not None:
            log.warning("store.up", store=store, down_seconds=round((now_ms() - before.since_ms) / 1000, 1))
