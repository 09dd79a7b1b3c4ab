"""The look at idle pools. It finds what only Redis has, in pools that have no job in SQL and are therefore not ticked.

Such a job is left by a server that was killed between Redis and SQL, or by an operator with redis-cli. A few pools a second are looked at
all the time, however many there are. All of them are looked at when a server has died, and at the start of this one, which may have died
before. A pool that Redis does not have is loaded, so that after a loss of Redis all pools are there again, those with jobs first: calls
and ticks load theirs at once.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

import structlog

from gate.coordination.pool_owners import PoolOwners
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import LedgerQueries, Pool
from gate.model.errors import PoolUnknown, StoreDown
from gate.slots import PoolLook

log = structlog.get_logger("gate.look")

EVERY_S = 1.0
"""Pause (s) between two looks."""
ROUND_LOOKS = 5
"""Number of looks in which all pools are looked at, if they are few."""
AT_A_TIME = 30
"""Pools of one look at most: 90 commands of Redis and 30 rows of SQL. Ten thousand idle pools are looked at in six minutes."""
WHOLE_PAGE = 250
"""Pools of one round trip of a look at all pools. More would keep the event loop for milliseconds."""
WHOLE_PAUSE_S = 0.02
"""Pause (s) between two such round trips, in which calls are served."""
LOADS_AT_ONCE = 20
"""Pools that are loaded at once. They share commits, and a caller of SQL does not wait behind more of them."""
LOADS_PAUSE_S = 0.2
"""Pause (s) between two such loads, so that most of the CPU is left to callers."""


class IdleLook:
    """Looks at the idle pools of this server.

    Attributes:
        suspects: Pools that differed from SQL, for the reconciler.
    """

    def __init__(self, pools: PoolRegistry, reading: LedgerQueries, owners: PoolOwners, suspects: set[str]) -> None:
        self._pools, self._reading, self._owners, self.suspects = pools, reading, owners, suspects
        self._after = ""
        self._whole = asyncio.Event()
        self._whole.set()  # this server may have died before it started

    def look_at_all(self, has_died: bool) -> None:
        """Look at all pools soon if a server has died."""
        if has_died:
            self._whole.set()  # guard: look-at-all-after-a-death

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            try:
                if self._whole.is_set():
                    self._whole.clear()
                    await self._look_at_all()
                await self.look(self._next_page())
            except StoreDown as error:
                log.debug("look.store_away", error=str(error))
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._whole.wait()
            except TimeoutError:
                continue

    def _next_page(self) -> list[str]:
        """Take the next names in order, and return those of them that are this server's own and idle."""
        names = self._pools.names
        count = min(-(-len(names) // ROUND_LOOKS), AT_A_TIME)
        first = bisect_right(names, self._after)
        page = names[first : first + count] or names[:count]
        self._after = page[-1] if page else ""
        return self._idle(page)

    def _idle(self, names: Sequence[str]) -> list[str]:
        return [pool for pool in names if self._pools.is_idle(pool) and self._owners.owns(pool)]

    async def _look_at_all(self) -> None:
        try:
            names = list(self._pools.names)
            missing: list[str] = []
            for first in range(0, len(names), WHOLE_PAGE):
                missing += await self._look(self._idle(names[first : first + WHOLE_PAGE]))
                await asyncio.sleep(WHOLE_PAUSE_S)
        except StoreDown:
            self._whole.set()
            raise
        for first in range(0, len(missing), LOADS_AT_ONCE):
            await self._load(missing[first : first + LOADS_AT_ONCE])
            await asyncio.sleep(LOADS_PAUSE_S)

    async def look(self, pools: Sequence[str]) -> None:
        """Look at these pools. One that holds something is ticked at once, one that Redis does not have is loaded.

        Raises:
            StoreDown: A store does not answer.
        """
        await self._load(await self._look(pools))

    async def _look(self, pools: Sequence[str]) -> list[str]:
        """Look at these pools, and return those that Redis does not have."""
        if not pools:
            return []
        rows = await self._reading.named(pools)
        missing = []
        for pool, seen in (await self._pools.looks(pools, _fields(rows))).items():
            if seen.holds:
                self._pools.due_within(pool, 0)  # guard: look-at-idle-pools
                self.suspects.add(pool)
            elif not seen.mark.epoch:
                missing.append(pool)
            elif (row := rows.get(pool)) is None or differs(seen, row, self._pools.age.newest):
                self.suspects.add(pool)  # guard: look-at-what-idle-pools-differ-in
        return missing

    async def _load(self, pools: Sequence[str]) -> None:
        loads = (self._pools.pool(pool).tick() for pool in pools)
        for failed in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(failed, BaseException) and not isinstance(failed, (PoolUnknown, StoreDown)):
                raise failed


def _fields(rows: dict[str, Pool]) -> list[str]:
    first = next(iter(rows.values()), None)
    return [*(first.in_redis() if first is not None else ()), "ahead_ms"]


def differs(seen: PoolLook, row: Pool, newest: int) -> bool:
    """Return whether Redis and SQL differ about an idle pool of this ledger.

    Args:
        seen: The pool in Redis.
        row: The pool in SQL.
        newest: ID of the newest event in SQL.
    """
    if seen.mark.ledger_id != row.ledger_id:
        return False  # another ledger has it, or the next call finds that it was made again
    asked = dict(seen.settings)
    ahead_ms = asked.pop("ahead_ms", 0)
    gone_back = seen.mark.epoch > row.epoch or seen.mark.recorded > newest
    return gone_back or asked != row.in_redis() or ahead_ms != 0 or row.clock_ahead_ms != 0
