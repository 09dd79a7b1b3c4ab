"""The recorder of the outbox. It copies the grants and expiries that scripts made from Redis to SQL, and notifies waiters.

The order of a pass is: read, apply, commit, notify, delete. A crash may leave an entry that was applied and not deleted. Such
an entry is applied again and changes nothing, because SQL checks each entry by compare-and-set.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from gate.slots import NotDone, ScriptReply

log = structlog.get_logger("gate.recorder")


PAGE_IS_GOOD_S = 0.25
"""Age (s) up to which a page of the outbox may be recorded: half the shortest claim time."""
AGAIN_S = 0.02
"""Pause (s) before an entry is read again whose job is not in SQL yet, because its commit is under way.

The pause doubles each time, until the ticker reads the outbox as often anyway."""
LATE_MAX = 3
"""Times that a page is read again because SQL was slow. Then it is recorded at any age, or a slow SQL would stop all."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Entries of the outbox.

    Attributes:
        epoch: Epoch of the pool when they were read.
        notes: The entries, in order.
        good_until: Time by `time.monotonic()` (s) up to which they may be recorded.
    """

    epoch: int
    notes: list[OutboxEntry]
    good_until: float


class OutboxRecorder:
    """Copies outbox entries to SQL, in passes. A pool has one pass at a time."""

    def __init__(self, ledger: Ledger, pools: PoolRegistry, news: Notifier) -> None:
        self._ledger, self._pools, self._news = ledger, pools, news
        self._next: dict[str, asyncio.Task[None]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pages: dict[str, _Page] = {}
        """By pool: the page that came with the reply of a script, so that it need not be read."""
        self._unread: set[str] = set()
        """Pools whose outbox may hold entries that came with no reply."""
        self._unknown: dict[str, set[str]] = {}
        """By pool: jobs that the outbox names and SQL did not have."""
        self._again_s: dict[str, float] = {}
        pools.on_emitted = self._emitted
        pools.on_forgotten.append(self._forget)

    def admitted(self, pool: str, job_id: str) -> None:
        """Say that SQL has a job from now on. Entries about it that were passed over are recorded in the background."""
        if job_id in self._unknown.get(pool, ()):
            self._read_all(pool)

    def _forget(self, pool: str) -> None:
        for kept in (self._pages, self._unknown, self._again_s):
            kept.pop(pool, None)
        self._unread.discard(pool)
        if pool not in self._next and not self._locks[pool].locked():
            del self._locks[pool]

    def _emitted(self, pool: str, epoch: int, reply: ScriptReply[StrEnum]) -> None:
        """Start a pass for entries that a script has written. A reply that holds the whole outbox saves the read."""
        if reply.outbox:
            self._pages[pool] = _Page(epoch, list(reply.outbox), time.monotonic() + PAGE_IS_GOOD_S)
            self._pass(pool)
        else:
            self._read_all(pool)

    async def run(self, pool: str) -> None:
        """Return when SQL has every entry that was in the outbox at the time of the call.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        await asyncio.shield(self._read_all(pool))

    def _read_all(self, pool: str) -> asyncio.Task[None]:
        self._unread.add(pool)
        return self._pass(pool)

    async def settle(self) -> None:
        """Return when the passes that were started have ended, or have failed."""
        await asyncio.gather(*self._next.values(), *(self._pass(pool) for pool in self._locks), return_exceptions=True)

    def _pass(self, pool: str) -> asyncio.Task[None]:
        # A pass that has not begun yet will read what is there now, so all callers share it.
        task = self._next.get(pool)
        if task is None:
            task = self._next[pool] = asyncio.create_task(self._record(pool))
            task.add_done_callback(_log_failure)
        return task

    async def _record(self, pool: str) -> None:
        async with self._locks[pool]:
            del self._next[pool]
            page = self._pages.pop(pool, None)
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
            self._pools.due_within(pool, again_s)  # another server may commit the job, and this one would not learn of that
        else:
            self._unknown.pop(pool, None)
            self._again_s.pop(pool, None)

    async def _read(self, pool: str, after: str | None) -> _Page:
        # The epoch is read first. Otherwise entries of an earlier epoch could be recorded under a later one.
        while True:
            epoch = await self._pools.epoch(pool)
            with contextlib.suppress(
                NotDone
            ):  # another primary of the cluster has the pool now, and it is loaded there first
                notes = await self._pools.pool(pool).outbox(after)
                return _Page(epoch, notes, time.monotonic() + PAGE_IS_GOOD_S)

    async def apply(
        self, pool: str, epoch: int, notes: list[OutboxEntry], good_until: float | None = None
    ) -> set[str] | None:
        """Record entries in SQL, notify waiters, then delete the entries from the outbox.

        Args:
            pool: Name of the pool.
            epoch: Epoch under which the entries were read.
            notes: The entries, in order.
            good_until: Time by `time.monotonic()` (s) after which nothing is recorded; None for no bound.

        Returns:
            The jobs that were passed over, because SQL does not have them yet. None when `good_until` had passed. The entries
            must then be read again, because a grant that has run out has to be recorded together with its end.

        Raises:
            StoreDown: A store does not answer.
        """
        recorded = await self._ledger.record(pool, epoch, notes, good_until)  # guard: record-before-delete
        if recorded.late:
            return None
        if recorded.stale:
            self._pools.outdated(pool, epoch)
            return set()
        for note in notes:
            if note.kind is EntryKind.UNREADABLE:
                log.warning("recorder.entry_discarded", pool=pool, entry=note.entry_id)  # gate did not write it
        self._news.show(pool, recorded.changed)  # guard: show-recorded-jobs
        done = set(recorded.done)
        passed_over = {note.job_id for note in notes if note.entry_id not in done}
        if passed_over:  # before the next await: `admitted` may be called for these jobs while this pass still runs
            self._unknown.setdefault(pool, set()).update(passed_over)
        if done:
            # guard: record-before-delete: then
            await self._pools.pool(pool).delete_from_outbox([note.entry_id for note in notes if note.entry_id in done])
        for grant in recorded.returns:
            await self.give_back(pool, grant)
        return passed_over

    async def give_back(self, pool: str, grant: GrantReturn) -> None:
        """Put a job back to the place of its ticket, because SQL did not record its grant or Redis lost its place.

        No caller was told of such a grant.

        Raises:
            StoreDown: A store does not answer.
        """
        log.warning("recorder.grant_returned", pool=pool, job_id=grant.job.job_id, fence=grant.fence)
        await self._pools.pool(pool).requeue(grant.job, grant.fence, grant.why)


def _log_failure(task: asyncio.Task[None]) -> None:
    """Log the failure of a pass, for which perhaps no caller waits. The ticker starts another pass within a second.

    A store that is away is logged by `StoreHealth`, and an error of this pool alone by the ticker.
    """
    if not task.cancelled() and isinstance(task.exception(), StoreDown):
        log.debug("recorder.store_away", error=str(task.exception()))
