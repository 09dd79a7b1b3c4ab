"""The recorder: what scripts did on their own (grants, expiries) from the outbox into SQL, and to those who wait.

Read, apply, commit, tell, delete, in this order: an entry that was applied and not deleted is applied again, and does nothing,
because SQL judges each by compare-and-set.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum

import structlog

from gate.coordination.notifier import Notifier
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import GrantReturn, Ledger
from gate.model.errors import StoreDown
from gate.model.messages import EntryKind, OutboxEntry
from gate.slots import ScriptReply

log = structlog.get_logger("gate.recorder")


PAGE_IS_GOOD_S = 0.25
"""How long a page may wait for SQL: half the shortest claim time."""
AGAIN_S = 0.02
"""How soon an entry is looked at again whose job SQL does not know yet: its commit is on its way. Then after twice as long, and so on,
until it is as seldom as the tick looks anyway."""
LATE_MAX = 3
"""How often a page is read again before it is recorded whatever the time: a slow SQL must not stop everything."""


@dataclass(frozen=True, slots=True)
class _Page:
    epoch: int
    notes: list[OutboxEntry]
    good_until: float


class OutboxRecorder:
    def __init__(self, ledger: Ledger, pools: PoolRegistry, news: Notifier) -> None:
        self._ledger, self._pools, self._news = ledger, pools, news
        self._next: dict[str, asyncio.Task[None]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._told: dict[str, _Page] = {}
        self._unread: set[str] = set()
        """Pools whose outbox may hold more than what was told."""
        self._unknown: dict[str, set[str]] = {}
        """Jobs that the outbox speaks of and SQL did not know, by pool; and after how long it was looked at again."""
        self._again_s: dict[str, float] = {}
        pools.on_emitted = self._emitted

    def admitted(self, pool: str, job_id: str) -> None:
        """SQL knows this job from now on: what was passed over because it did not is recorded in the background."""
        if job_id in self._unknown.get(pool, ()):
            self._read_all(pool)

    def _emitted(self, pool: str, epoch: int, reply: ScriptReply[StrEnum]) -> None:
        """A script has put something there. When it said all that is there, that is as good as read."""
        if reply.outbox:
            self._told[pool] = _Page(epoch, list(reply.outbox), time.monotonic() + PAGE_IS_GOOD_S)
            self._pass(pool)
        else:
            self._read_all(pool)

    async def run(self, pool: str) -> None:
        """Returns when everything is in SQL that was in the outbox at the call. Raises StoreDown."""
        await asyncio.shield(self._read_all(pool))

    def _read_all(self, pool: str) -> asyncio.Task[None]:
        self._unread.add(pool)
        return self._pass(pool)

    async def settle(self) -> None:
        """Waits for what was kicked."""
        await asyncio.gather(*self._next.values(), *(self._pass(pool) for pool in self._locks), return_exceptions=True)

    def _pass(self, pool: str) -> asyncio.Task[None]:
        # A pass that has not begun yet will see what is there now: everybody shares it.
        task = self._next.get(pool)
        if task is None:
            task = self._next[pool] = asyncio.create_task(self._record(pool))
            task.add_done_callback(_look)
        return task

    async def _record(self, pool: str) -> None:
        async with self._locks[pool]:
            del self._next[pool]
            page = self._told.pop(pool, None)
            more = (
                page is None
                # guard: read-what-others-emitted
                or pool in self._unread
            )
            self._unread.discard(pool)
            unknown: set[str] = set()
            after: str | None = None
            late = 0
            while (page := page or await self._read(pool, after)).notes:
                passed_over = await self.apply(pool, page.epoch, page.notes, page.good_until if late < LATE_MAX else None)
                if passed_over is None:
                    late += 1
                else:
                    unknown |= passed_over
                    after = page.notes[-1].entry_id
                    if not more:
                        break
                page = None
            self._remember(pool, unknown)

    def _remember(self, pool: str, unknown: set[str]) -> None:
        if unknown:
            self._unknown[pool] = unknown
            again_s = self._again_s[pool] = self._again_s.get(pool, AGAIN_S / 2) * 2
            # guard: look-again-for-a-missing-row
            self._pools.due_within(pool, again_s)  # another server may commit it, of which nobody here would hear
        else:
            self._unknown.pop(pool, None)
            self._again_s.pop(pool, None)

    async def _read(self, pool: str, after: str | None) -> _Page:
        # The epoch first: notes of an earlier life must not pass for those of a later one.
        epoch = await self._pools.epoch(pool)
        notes = await self._pools.pool(pool).outbox(after)
        return _Page(epoch, notes, time.monotonic() + PAGE_IS_GOOD_S)

    async def apply(
        self, pool: str, epoch: int, notes: list[OutboxEntry], good_until: float | None = None
    ) -> set[str] | None:
        """What `notes` say, into SQL; then out of the outbox, and to those who wait. The jobs that were passed over because SQL does
        not know them yet; None when all that came too late, and they have to be read again: a grant that ran out meanwhile must
        be seen together with its end.
        """
        recorded = await self._ledger.record(pool, epoch, notes, good_until)  # guard: record-before-delete
        if recorded.late:
            return None
        if recorded.stale:
            self._pools.outdated(pool, epoch)
            return set()
        for note in notes:
            if note.kind is EntryKind.UNREADABLE:
                log.warning("an entry of the outbox that gate did not write: thrown away", pool=pool, entry=note.entry_id)
        self._news.show(pool, recorded.changed)  # guard: show-recorded-jobs
        done = set(recorded.done)
        passed_over = {note.job_id for note in notes if note.entry_id not in done}
        if passed_over:  # at once: their rows may be there before this pass is over
            self._unknown.setdefault(pool, set()).update(passed_over)
        if done:
            # guard: record-before-delete: then
            await self._pools.pool(pool).delete_from_outbox([note.entry_id for note in notes if note.entry_id in done])
        for grant in recorded.returns:
            await self.give_back(pool, grant)
        return passed_over

    async def give_back(self, pool: str, grant: GrantReturn) -> None:
        """A grant that SQL would not take goes to its place by its ticket. Nobody was told of it."""
        log.warning("SQL would not take a grant", pool=pool, job_id=grant.job.job_id, fence=grant.fence)
        await self._pools.pool(pool).requeue(grant.job, grant.fence, grant.why)


def _look(task: asyncio.Task[None]) -> None:
    """Whoever only kicked does not see the failure; the tick comes again within a second."""
    if not task.cancelled() and isinstance(task.exception(), StoreDown):
        log.warning("not recorded yet", error=str(task.exception()))
