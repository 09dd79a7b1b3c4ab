"""Finds out that SQL has gone back: a backup was restored, or a standby that lagged was promoted.

Redis keeps the newest event that gate has read from SQL, in the field `recorded` of `meta`. Only committed events are read, and
their ids only grow. So SQL has lost commits when Redis has a higher number than SQL has, read afterwards. The same holds for
the epoch, which SQL commits before Redis has it. A ticket or a fence proves nothing: an admission whose commit failed draws
them too. A file in the data directory keeps the same number, in case Redis was emptied too.

A pool of such a ledger is paused by gate. While it is, the reconciler repairs nothing that depends on what SQL has forgotten.
An operator resumes the pool. The history of the pool has both, so the hold outlives Redis and gate.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from gate.coordination.ledger_mark import LEDGERS_MAX, Mark, MarkFile
from gate.ledger import Ledger, LedgerQueries
from gate.model.errors import StoreDown
from gate.slots import Semaphore

log = structlog.get_logger("gate.ledger")

WENT_BACK = "SQL has gone back: its newest event is {now}, and it has had {then}"
"""Reason of the pause in the history. A restored backup or a late standby does this."""
EPOCH_WENT_BACK = "SQL has gone back: its epoch of the pool is {now}, and it has had {then}"
"""Reason of the pause when the epoch shows it."""
RESTORED = "SQL has gone back: it is a copy that gate backup has made, and its jobs may have ended since"
"""Reason of the pause after the restore of a file that `gate backup` has made."""


class LedgerAge:
    """Compares the age of SQL with what Redis has seen of it.

    Attributes:
        newest: ID of the newest event in SQL when it was read last. Ticks carry it to Redis.
    """

    def __init__(self, semaphore: Semaphore, ledger: Ledger, reading: LedgerQueries) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._file: MarkFile | None = None
        self._found: Mark | None = None
        self._kept: Mark | None = None
        self.newest = 0

    def keep_in(self, file: MarkFile) -> None:
        """Keep the newest event in a file too. Call it before the first commit, because it takes back that gate has stopped."""
        self._file, self._found = file, file.forget_stop()

    async def look(self) -> list[str]:
        """Read the newest event of SQL. If it is older than the one that was read before, pause every pool.

        Returns:
            The pools, when SQL has gone back since the last look. They are paused in SQL, and not yet in Redis.

        Raises:
            StoreDown: SQL does not answer, or takes no pause. The next look then finds the same.
        """
        before = self.newest
        newest = await self._reading.newest()
        back: list[str] = []
        if newest < before:  # guard: look-for-a-ledger-that-goes-back
            back = [row.name for row in await self._reading.pools()]
            await self.pause(dict.fromkeys(back, WENT_BACK.format(now=newest, then=before)))
        self.newest = newest
        await self._keep()
        return back

    async def _keep(self, stopped: bool = False) -> None:
        """Write the newest event into the file. After a pause it is the pause itself, so the same loss is found once."""
        mark = Mark(self.newest, sorted(self._semaphore.ledger_ids.values())[:LEDGERS_MAX], stopped)
        if self._file is not None and mark != self._kept:
            await asyncio.to_thread(self._file.write, mark)
            self._kept = mark

    async def stop(self) -> None:
        """Write the newest event of all into the file. Call it after the last commit."""
        if self._file is not None:
            with contextlib.suppress(StoreDown):
                self.newest = await self._reading.newest()
                await self._keep(stopped=True)

    async def compare_with_file(self) -> None:
        """Pause every pool if the file shows that SQL has gone back. Redis may know nothing of it.

        Raises:
            StoreDown: SQL does not answer, or takes no pause.
        """
        rows = await self._reading.pools()
        if self._found is None or not self._found.is_of(row.ledger_id for row in rows):
            return
        newest = await self._reading.newest()
        if newest < self._found.newest:  # guard: file-shows-a-ledger-that-went-back
            await self.pause(dict.fromkeys((row.name for row in rows), WENT_BACK.format(now=newest, then=self._found.newest)))

    async def hold(self, pools: Sequence[str]) -> list[str]:
        """Pause those of the pools whose ledger has gone back.

        Args:
            pools: Names of the pools.

        Returns:
            The pools whose mark in Redis is above SQL's, and those that `look` has paused. They may not be paused in Redis yet.

        Raises:
            StoreDown: A store does not answer.
        """
        seen = await self._semaphore.marks(pools)
        if not any(mark.epoch for mark in seen.values()):
            return []
        found = await self.look()  # guard: read-redis-before-sql
        rows = await self._reading.named([pool for pool, mark in seen.items() if mark.epoch])
        back = {}
        for pool, mark in seen.items():
            row = rows.get(pool)
            if row is None or mark.ledger_id != row.ledger_id:
                continue
            if mark.epoch > row.epoch:  # guard: epoch-shows-a-ledger-that-went-back
                back[pool] = EPOCH_WENT_BACK.format(now=row.epoch, then=mark.epoch)
            elif mark.recorded > self.newest:
                back[pool] = WENT_BACK.format(now=self.newest, then=mark.recorded)
        await self.pause(back)
        return sorted({*back, *found})

    async def pause(self, reasons: dict[str, str]) -> None:
        """Pause pools because SQL has gone back, unless they are held already.

        Args:
            reasons: Reason of each pool, for the history.

        Raises:
            StoreDown: SQL cannot be written.
        """
        held = await self._reading.held(list(reasons))
        for pool, reason in reasons.items():
            if pool not in held:
                await self._ledger.change_pool(pool, {"paused": True}, by="gate", reason=reason)
                log.error("ledger.gone_back", pool=pool, reason=reason)

    async def pause_restored(self) -> None:
        """Pause each pool with a live job in a restored copy: the job may have ended since, and nothing says so.

        The file may say it: when gate has stopped in order with the event that is the newest of the copy, nothing came since.

        Raises:
            StoreDown: SQL does not answer, or cannot be written.
        """
        if (
            (found := self._found) is not None
            and found.stopped  # guard: copy-is-equal-only-after-a-stop
            and found.newest == await self._reading.newest()
            and found.is_of(row.ledger_id for row in await self._reading.pools())
        ):
            return
        await self.pause(dict.fromkeys(sorted(await self._reading.busy()), RESTORED))
