"""The pools that this server has loaded: the epoch of each, its next deadline, and the way to run a script on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from gate.coordination.clock_guard import ClockGuard
from gate.coordination.due_times import DueTimes
from gate.coordination.ledger_age import LedgerAge
from gate.coordination.pool_loader import LOADING_S, KnownPool, PoolLoader
from gate.coordination.pool_slots import PoolSlots
from gate.coordination.single_flight import SingleFlight
from gate.ledger import Ledger, LedgerQueries, Pool
from gate.model.account import Accounts
from gate.model.errors import PoolUnknown, StoreDown
from gate.model.job import POOL_NAME
from gate.slots import (
    NotDone,
    PoolLook,
    ScriptReply,
    Semaphore,
    Undone,
)
from gate.telemetry import counters

R = TypeVar("R", bound=ScriptReply[StrEnum])

REST_S = 3.0
"""Time (s) after its last call on a pool in which a server ticks it although it is idle, or another server's own.

The last tick of an idle pool carries the events of that call. The owner of a pool finds a job in SQL within two seconds."""
COLD_WAIT_S = 5.0
"""Longest time (s) that a call waits for its pool to be loaded, before it answers 503."""
TICK_EVERY_S = 1.0
"""Longest pause (s) between two ticks of a pool with jobs. After 2.5 s without a call the scripts assume that gate was away."""
LOAD_EVERY_S = 600.0
"""Age (s) of what this server knows of the pools, above which it reads all of them again."""
GRID_S = 0.1
"""Ticks without a deadline are due at multiples of this time (s), so that many pools share a round trip."""
LOOK_AGAIN_S = 0.02
"""Pause (s) before a call is made again whose pool another server is loading."""


class PoolRegistry:
    """Knows the pools and their epochs, and runs scripts on them.

    Every call of a script goes through `run`, because a reply may ask for more work. There may be an outbox to record, or a
    further tick to make. There may be a deadline for the ticker, or a pool to load again.

    Attributes:
        on_emitted: Called with pool, epoch and reply when a script has written to the outbox.
        on_forgotten: Called with the name of each pool that was deleted.
        due: When pools need their next tick. A pool without jobs needs none.
        busy: The pools that had a live job in SQL when the ticker looked last, up to a second ago.
        owns: Says whether a pool is this server's own, so that it has to tick it (see `PoolOwners`).
        age: Finds out that SQL has gone back.
    """

    def __init__(
        self, semaphore: Semaphore, ledger: Ledger, reading: LedgerQueries, accounts: Accounts | None = None
    ) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._link = semaphore.link
        self._known: dict[str, KnownPool] = {}
        self._names: list[str] | None = None
        self._restless: set[str] = set()
        """Pools in which the last script of this server left a job or an unrecorded entry."""
        self._version: int | None = None
        self._loaded_at = 0.0
        self._turning = SingleFlight()
        self._clock_guard = ClockGuard(semaphore, ledger)
        self.on_emitted: Callable[[str, int, ScriptReply[StrEnum]], None] = lambda pool, epoch, reply: None
        self.on_forgotten: list[Callable[[str], None]] = [counters.forget]
        self.due = DueTimes()
        self.busy: frozenset[str] = frozenset()
        self.owns: Callable[[str], bool] = lambda pool: True
        self.age = LedgerAge(semaphore, ledger, reading)
        self._loader = PoolLoader(semaphore, ledger, self._clock_guard, self.age, accounts or Accounts())

    @property
    def names(self) -> list[str]:
        """Names of the pools, sorted. Do not change the list."""
        if self._names is None:
            self._names = sorted(self._known)
        return self._names

    @property
    def newest(self) -> int:
        """ID of the newest event that was read from SQL."""
        return self.age.newest

    async def load(self) -> None:
        """Read the pools and their epochs from SQL, and forget those that were deleted.

        Raises:
            StoreDown: SQL does not answer.
        """
        before = set(self._known)
        self._version, self._loaded_at = await self._reading.pools_version(), time.monotonic()
        rows = await self._reading.pools()
        for name in before.difference(row.name for row in rows):  # one that was made meanwhile is not in `before`
            self._forget(name)
        for row in rows:
            self._take(row)

    async def load_changes(self) -> None:
        """Read the pools from SQL if one was made, changed or deleted since they were read last.

        The event that shows it may be committed after one with a higher id, and is then overlooked. So they are read now and then anyway.

        Raises:
            StoreDown: SQL does not answer.
        """
        if time.monotonic() - self._loaded_at > LOAD_EVERY_S or await self._reading.pools_version() != self._version:
            await self.load()

    async def _load_one(self, pool: str) -> None:
        """Read one pool from SQL, which this server does not know or whose epoch is out of date.

        Raises:
            StoreDown: SQL does not answer.
        """
        rows = (
            await self._reading.named([pool]) if POOL_NAME.fullmatch(pool) else {}
        )  # SQL refuses a statement with another name
        if (row := rows.get(pool)) is not None:
            self._take(row)
        else:
            self._forget(pool)

    def _take(self, row: Pool) -> None:
        if row.name not in self._known:
            self._names = None
        known = self._known.setdefault(row.name, KnownPool())
        self._semaphore.belongs(row.name, row.ledger_id)
        if known.epoch is None or known.epoch < row.epoch:
            known.take(row.epoch, row.redis)

    def pool(self, name: str) -> PoolSlots:
        """Return the slots and the queue of a pool. This reads nothing; only the calls on it raise PoolUnknown."""
        return PoolSlots(self, self._semaphore, name)

    async def run(
        self,
        pool: str,
        script: Callable[[int], Awaitable[R]],
        *,
        grants_or_reaps: bool = True,
        is_tick: bool = False,
    ) -> R:
        """Run a script under the current epoch. If Redis does not have the pool under it, load the pool first.

        Args:
            pool: Name of the pool.
            script: Makes the call under the epoch that it is given.
            grants_or_reaps: Whether the script may grant or reap. Such a script does not run while SQL cannot be written.
            is_tick: The script is a tick. Every other one is a call, after which an idle pool needs one more tick.

        Returns:
            The reply of the script.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer, or the pool could not be loaded for 5 s.
        """
        give_up = time.monotonic() + COLD_WAIT_S
        if grants_or_reaps and not self._ledger.reached(pool):
            await self._ledger.reach(pool)  # guard: reach-sql-before-a-reap
        while True:
            known = self._known.get(pool)
            if known is None or known.epoch is None or known.redis != self._link.of(pool).identity:
                await self.epoch(pool)
                known = self._of(pool)
            epoch = known.epoch
            assert epoch is not None
            loads, identity = known.loads, known.redis
            try:
                reply = await script(epoch)
            except NotDone as undone:
                why = await self._judged(pool, epoch, undone)
            else:
                reply.epoch = epoch
                known.asked_at = reply.asked
                if not is_tick:
                    known.rest_at = time.monotonic() + REST_S
                self._heed(pool, epoch, reply)
                return reply
            if time.monotonic() > give_up:
                raise StoreDown("redis", f"Redis has lost pool {pool!r} and it could not be rebuilt yet")
            if why is Undone.STEPPED:
                continue
            if why is Undone.ELSEWHERE:
                await self._turn(pool, identity)
            elif time.monotonic() < known.taken_at + LOADING_S:  # guard: one-server-loads
                await asyncio.sleep(LOOK_AGAIN_S)  # another server is loading it
            else:
                await self.rebuild(pool, epoch, loads)

    async def _judged(self, pool: str, epoch: int, undone: NotDone) -> Undone:
        """Put the pool's clock in order if that is why nothing was done; return what is left to do."""
        if undone.stepped is None:
            return undone.why
        try:
            await self._clock_guard.judge(pool, epoch, undone.stepped)
        except NotDone as meanwhile:
            return meanwhile.why
        return undone.why

    async def writable(self) -> None:
        """Check that SQL can be written.

        Raises:
            StoreDown: It cannot.
        """
        await self._ledger.reach()

    async def know(self, pool: str) -> None:
        """Check that a pool exists, in SQL if this server does not have it.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        if pool not in self._known:
            await self._load_one(pool)
        self._of(pool)

    def _of(self, pool: str) -> KnownPool:
        if (known := self._known.get(pool)) is None:
            raise PoolUnknown(f"there is no pool {pool!r}")
        return known

    async def epoch(self, pool: str) -> int:
        """Return the epoch of a pool in the Redis to which this server is pinned. Load the pool there if that is necessary.

        Call Redis before you await anything else. Otherwise the epoch may be of another Redis than the one that answers.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        await self.know(pool)
        while (known := self._of(pool)).epoch is None or known.redis != self._link.of(pool).identity:
            if known.epoch is None:
                await self._load_one(pool)
            else:
                await self.rebuild(pool)
        return known.epoch

    async def _turn(self, pool: str, former: str) -> None:
        """Pin this server to the Redis that has a pool now. The epochs that it knows do not count there."""
        async with self._turning:
            await self._link.look()
            link = self._link.of(pool)
            if link.identity == former:
                link.pin(await link.meet())

    def outdated(self, pool: str, epoch: int) -> None:
        """Forget an epoch because SQL did not record an answer under it. The next call reads the epoch from SQL."""
        counters.stale[pool] += 1
        known = self._known.get(pool)
        if known is not None and known.epoch == epoch:
            known.epoch = None

    async def rebuild(
        self, pool: str, refused: int | None = None, loads: int | None = None, *, even_a_former: bool = False
    ) -> None:
        """Load a pool from SQL under a new epoch, or take over the epoch under which another server has loaded it.

        The new epoch is committed before the load. A server that stops between the two leaves an epoch that no server uses.

        Args:
            pool: Name of the pool.
            refused: The epoch that Redis did not have; None when the pool was loaded in another Redis than this server sees.
            loads: Number of loads when Redis refused that epoch. If there was one since, nothing is done.
            even_a_former: Load even into a Redis that other servers have left for another.

        Raises:
            StoreDown: A store does not answer, other servers have left this Redis, or a gate with another ledger uses the
                pool in it.
        """
        known = self._of(pool)
        async with known.rebuilding:
            here = known.redis == self._link.of(pool).identity
            if (here if refused is None else known.epoch != refused) or loads not in (None, known.loads):
                return  # another call of this server has loaded it
            try:
                await self._loader.load(pool, known, refused, even_a_former)
            except PoolUnknown:  # another server has deleted it
                self._forget(pool)
                raise

    async def remove(self, pool: str) -> None:
        """Delete the keys of a pool that was deleted in SQL, and forget it.

        Another server may have made the pool again meanwhile. Then it loads it again, as after any loss of Redis.

        Raises:
            StoreDown: Redis does not answer.
        """
        self._forget(pool)
        await self._semaphore.delete(pool)

    def _forget(self, pool: str) -> None:
        if self._known.pop(pool, None) is None:
            return
        self._names = None
        self._restless.discard(pool)
        self._semaphore.forget_clock(pool)
        self.due.drop(pool)
        for forgotten in self.on_forgotten:
            forgotten(pool)

    async def reload(self, pool: str) -> None:
        """Load a pool again for an operator, even into a Redis that other servers have left for another.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        await self._load_one(pool)
        await self.rebuild(pool, self._of(pool).epoch, even_a_former=True)

    def _heed(self, pool: str, epoch: int, reply: ScriptReply[StrEnum]) -> None:
        if (known := self._known.get(pool)) is None:
            return  # it was deleted meanwhile
        if is_idle := reply.next_ms is None and not reply.more and not reply.emitted:
            self._restless.discard(pool)
        else:
            self._restless.add(pool)
        if reply.emitted:
            self.on_emitted(pool, epoch, reply)
        if reply.more:
            self.due_within(pool, 0)
        elif reply.next_ms is not None:
            # One millisecond more: a deadline is over only when the clock is past it, so a tick at it would reap nothing.
            within_s = (reply.next_ms - reply.now_ms + 1) / 1000
            if self.owns(pool):
                within_s = min(
                    within_s,
                    TICK_EVERY_S,  # guard: tick-a-pool-that-is-no-longer-idle
                )
                self.due_within(pool, within_s)
            elif time.monotonic() + within_s < known.rest_at:
                self.due_within(pool, within_s)
        elif is_idle and known.rest_at > time.monotonic():
            self.due.by(pool, known.rest_at)

    def next_tick(self, pool: str) -> None:
        """Let a pool that was just ticked be ticked again in time: an own one with jobs each second, an idle one after its last call."""
        now = time.monotonic()
        if not self.is_idle(pool):
            if self.owns(pool):
                self.due.by(pool, (now + TICK_EVERY_S) // GRID_S * GRID_S)
        elif (known := self._known.get(pool)) is not None and known.rest_at > now:
            self.due.by(pool, known.rest_at)

    def take_over(self, has_died: bool) -> None:
        """Let the pools with jobs that have become this server's own be ticked at once."""
        for pool in self.at_work():
            if pool not in self.due and self.owns(pool):
                self.due_within(pool, 0)  # guard: take-over-at-once

    async def find_busy(self) -> None:
        """Read from SQL which pools have live jobs. Each of them that is this server's own gets a due time, unless it has one.

        Raises:
            StoreDown: SQL does not answer.
        """
        found = await self._reading.busy()
        for pool in found.difference(self._known):
            await self._load_one(pool)
        now = time.monotonic()
        for pool in [pool for pool in self._restless if pool not in found and not self.owns(pool)]:
            if self._known[pool].rest_at < now:
                self._restless.discard(pool)  # another server has ended its jobs
        for pool in found:
            if pool in self._known and pool not in self.due and self.owns(pool):
                self.due_within(pool, TICK_EVERY_S if pool in self.busy else 0)  # guard: tick-what-has-jobs-in-sql
        self.busy = frozenset(found)

    async def look_at_ledger(self, pools: Sequence[str] = ()) -> None:
        """Pause pools, in both stores, whose ledger has gone back: those named, or all since the last look. See `LedgerAge`."""
        for pool in set(await (self.age.hold(pools) if pools else self.age.look())).intersection(self._known):
            self._known[pool].epoch = None  # SQL may have an older one: the pool is loaded above that of Redis
            with contextlib.suppress(PoolUnknown):
                await self.pool(pool).configure({"paused": 1, "recorded": self.age.newest})

    def expected_ms(self, pool: str) -> int:
        """Say what the pool's clock shows now (ms since 1970), without a call. See `Semaphore.expected_ms`."""
        return self._semaphore.expected_ms(pool)

    def due_within(self, pool: str, within_s: float) -> None:
        """Let the pool's next tick come within this time (s)."""
        self.due.by(pool, time.monotonic() + within_s)

    def is_idle(self, pool: str) -> bool:
        """Return whether a pool had no job when SQL was looked at last, and the last script of this server left none in it."""
        return pool not in self._restless and pool not in self.busy

    async def answers(self, pool: str) -> None:
        """Make sure that the primary that has, or is going to have, a pool answers and takes writes.

        Raises:
            StoreDown: It does not.
        """
        await self._link.look()
        await self._semaphore.probe(pool)

    async def reaches(self, pool: str) -> bool:
        """Return whether the primary that has a pool answers and takes writes."""
        try:
            await self.answers(pool)
        except StoreDown:
            return False
        return True

    def at_work(self) -> set[str]:
        """Return the pools that are not idle."""
        return {*self._restless, *self.busy}.intersection(self._known)

    async def looks(self, pools: Sequence[str], settings: Iterable[str]) -> dict[str, PoolLook]:
        """Look at pools in Redis, without a script, by one round trip. See `Semaphore.looks`.

        Raises:
            StoreDown: Redis does not answer.
        """
        return await self._semaphore.looks(pools, list(settings))
