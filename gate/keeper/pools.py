"""The pools as this server knows them: the epoch of each, when it is due next, and how to run a script on one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from gate.errors import PoolUnknown, StoreDown
from gate.keeper.turn import Turn
from gate.ledger import Ledger, Reading
from gate.slots import NOT_DONE, Reply, Semaphore, entries

log = structlog.get_logger("gate.pools")
R = TypeVar("R", bound=Reply)

REPLACED = "this server reaches a Redis that other servers have left for another; point GATE_REDIS_URL at theirs, or restart this Redis"
FOREIGN = "pool {pool!r} in this Redis belongs to a gate with another ledger, which called less than ten seconds ago"

COLD_WAIT_S = 5.0
"""How long a call that met `cold` waits for the rebuild and goes on (PROTOCOL, Rebuild)."""
LOADING_S = 2.0
"""How long another server may take between its commit of an epoch and the end of its load, before it counts as dead."""
LOOK_AGAIN_S = 0.02


@dataclass(slots=True)
class _Known:
    """`epoch` is good in the Redis of identity `redis` only; `last` is the highest ever. `taken_at`: when it was heard of from
    SQL, where the server that loads it has written it."""

    epoch: int | None = None
    redis: str = ""
    last: int = 0
    floor: int = 0
    loads: int = 0
    taken_at: float = -LOADING_S
    due: float | None = None
    alarm: asyncio.Event = field(default_factory=asyncio.Event)
    rebuilding: Turn = field(default_factory=Turn)


class Pools:
    """Every call of a script goes through `run`, because of what its reply asks for: an outbox to record, a bound that was met,
    a deadline to be awake at, a Redis that has forgotten the pool, another Redis."""

    def __init__(self, semaphore: Semaphore, ledger: Ledger, reading: Reading) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._link = semaphore.link
        self._known: dict[str, _Known] = {}
        self._turning = Turn()
        self.on_emitted: Callable[[str, int, Reply], None] = lambda pool, epoch, reply: None
        self.on_known: Callable[[str], None] = lambda pool: None

    @property
    def names(self) -> list[str]:
        return sorted(self._known)

    async def load(self) -> None:
        """Reads from SQL which pools there are, and their epochs."""
        for pool in await self._reading.pools():
            new = pool.name not in self._known
            known = self._known.setdefault(pool.name, _Known())
            self._semaphore.belongs(pool.name, pool.ledger_id)
            if known.epoch is None or known.epoch < pool.epoch:
                self._take(known, pool.epoch, pool.redis)
            if new:
                self.on_known(pool.name)

    async def run(self, pool: str, script: Callable[[int], Awaitable[R]], *, grants_or_reaps: bool = True) -> tuple[int, R]:
        """The reply of `script`, which is given the epoch, and that epoch. One that grants or reaps is not run while SQL
        cannot be written.

        Raises PoolUnknown; StoreDown when a store does not answer or the pool stays cold for 5 s.
        """
        give_up = time.monotonic() + COLD_WAIT_S
        if grants_or_reaps and not self._ledger.reached(pool):
            await self._ledger.reach(pool)  # guard: reach-sql-before-a-reap
        while True:
            known = self._known.get(pool)
            if known is None or known.epoch is None or known.redis != self._link.identity:
                await self.epoch(pool)
                known = self._known[pool]
            epoch = known.epoch
            assert epoch is not None
            loads, identity = known.loads, self._link.identity
            reply = await script(epoch)
            if reply.word not in NOT_DONE:
                self._heed(pool, epoch, reply)
                return epoch, reply
            if time.monotonic() > give_up:
                raise StoreDown("redis", f"Redis has lost pool {pool!r} and it could not be rebuilt yet")
            if reply.word == "elsewhere":
                await self._turn(identity)
            elif time.monotonic() < known.taken_at + LOADING_S:  # guard: one-server-loads
                await asyncio.sleep(LOOK_AGAIN_S)  # somebody else is loading it
            else:
                await self.rebuild(pool, epoch, loads)

    async def writable(self) -> None:
        """Raises StoreDown while SQL takes nothing."""
        await self._ledger.reach()

    async def know(self, pool: str) -> None:
        """Raises PoolUnknown."""
        if pool not in self._known:
            await self.load()
        if pool not in self._known:
            raise PoolUnknown(f"there is no pool {pool!r}")

    async def epoch(self, pool: str) -> int:
        """The epoch of the pool in the Redis that this server is pinned to; it is loaded there if it has to be.

        Whoever uses it calls Redis before anything else is awaited: then both are of one life.
        """
        await self.know(pool)
        known = self._known[pool]
        while known.epoch is None or known.redis != self._link.identity:
            if known.epoch is None:
                await self.load()
            else:
                await self.rebuild(pool)
        return known.epoch

    async def _turn(self, former: str) -> None:
        """To the Redis that answers now; whose pools are then no longer those this server knows."""
        async with self._turning:
            if self._link.identity == former:
                self._link.pin(await self._link.meet())

    @staticmethod
    def _take(known: _Known, epoch: int, redis: str) -> None:
        if epoch > known.last:
            known.taken_at = time.monotonic()
        known.epoch, known.redis, known.last = epoch, redis, max(epoch, known.last)

    def outdated(self, pool: str, epoch: int) -> None:
        """SQL has another epoch than the one a script answered under: read it anew."""
        known = self._known[pool]
        if known.epoch == epoch:
            known.epoch = None

    async def rebuild(
        self, pool: str, refused: int | None = None, loads: int | None = None, *, even_a_former: bool = False
    ) -> None:
        """Loads the pool from SQL under a new epoch, or takes the epoch under which somebody else has loaded it.

        Committed first, loaded second: a server that stops between the two leaves an epoch that nobody uses. `refused` is the
        epoch that Redis did not know (None: the pool lives in another Redis than this server sees), `loads` how many loads
        there were then: one since may have mended it.
        """
        known = self._known[pool]
        async with known.rebuilding:
            here = known.redis == self._link.identity
            if (here if refused is None else known.epoch != refused) or loads not in (None, known.loads):
                return  # somebody here was faster
            identity = await self._link.meet()
            self._link.pin(identity)
            found = await self._ledger.begin_rebuild(pool, identity, refused, known.floor, even_a_former=even_a_former)
            if found.word == "replaced":
                raise StoreDown("redis", REPLACED)
            if found.word == "taken":
                return self._take(known, found.epoch, identity)
            loaded = await self._semaphore.rebuild(
                pool,
                found.epoch,
                found.pool.in_redis(),
                [(job.job_id, entries.holding(job)) for job in found.leases],
                [(job.job_id, entries.waiting(job)) for job in found.waiters],
            )
            if loaded.word == "foreign":
                raise StoreDown("redis", FOREIGN.format(pool=pool))
            if loaded.word == "refused":
                known.floor = loaded.epoch
            if loaded.word != "loaded":
                known.epoch = None
                return
            known.epoch, known.redis, known.last = found.epoch, identity, found.epoch
            known.loads += 1
            if graced := [(job, loaded.graced[job.job_id]) for job in found.leases if job.job_id in loaded.graced]:
                with contextlib.suppress(StoreDown):  # then the next rebuild gives it once more
                    await self._ledger.grace(pool, found.epoch, graced)
        log.info(
            "loaded into Redis from SQL",
            pool=pool,
            epoch=found.epoch,
            leases=len(found.leases),
            waiters=len(found.waiters),
        )

    async def reload(self, pool: str) -> None:
        """By an operator's word: even into a Redis that other servers have left."""
        await self.know(pool)
        await self.load()
        await self.rebuild(pool, self._known[pool].epoch, even_a_former=True)

    def _heed(self, pool: str, epoch: int, reply: Reply) -> None:
        if reply.emitted:
            self.on_emitted(pool, epoch, reply)
        if reply.more:
            self.due_within(pool, 0)
        elif reply.next_ms is not None:
            # One millisecond more: a deadline is over when the clock is past it, not when it is about to be.
            self.due_within(pool, (reply.next_ms - reply.now_ms + 1) / 1000)

    def due_within(self, pool: str, within_s: float) -> None:
        """The tick of the pool comes then at the latest."""
        known, due = self._known[pool], time.monotonic() + within_s
        if known.due is None or due < known.due:
            known.due = due
            known.alarm.set()

    async def sleep_until_due(self, pool: str, at_most_s: float) -> None:
        """Returns at the earliest deadline of the pool, or after `at_most_s`."""
        known = self._known[pool]
        end = time.monotonic() + at_most_s
        while (left := (end if known.due is None else min(end, known.due)) - time.monotonic()) > 0:
            known.alarm.clear()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation that meets the alarm.
                async with asyncio.timeout(left):
                    await known.alarm.wait()
        known.due = None
