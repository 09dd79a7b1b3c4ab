"""The pools as this server knows them: the epoch of each, when it is due next, and how to run a script on one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import structlog

from gate.coordination.single_flight import SingleFlight
from gate.ledger import EpochResult, Ledger, LedgerQueries
from gate.model.errors import PoolUnknown, StoreDown
from gate.model.job import Job, Request
from gate.model.messages import OutboxEntry
from gate.slots import (
    AcquireReply,
    ExtendReply,
    NotDone,
    QueueState,
    RebuildResult,
    RedisSnapshot,
    RestoreResult,
    ScriptReply,
    Semaphore,
    Undone,
    entry_codec,
)

log = structlog.get_logger("gate.pools")
R = TypeVar("R", bound=ScriptReply[StrEnum])

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
    rebuilding: SingleFlight = field(default_factory=SingleFlight)


class PoolRegistry:
    """Every call of a script goes through `run`, because of what its reply asks for: an outbox to record, a bound that was met,
    a deadline to be awake at, a Redis that has forgotten the pool, another Redis."""

    def __init__(self, semaphore: Semaphore, ledger: Ledger, reading: LedgerQueries) -> None:
        self._semaphore, self._ledger, self._reading = semaphore, ledger, reading
        self._link = semaphore.link
        self._known: dict[str, _Known] = {}
        self._turning = SingleFlight()
        self.on_emitted: Callable[[str, int, ScriptReply[StrEnum]], None] = lambda pool, epoch, reply: None
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

    def pool(self, name: str) -> PoolSlots:
        """The slots and the queue of one pool. Nothing is looked up yet: each of its calls raises PoolUnknown."""
        return PoolSlots(self, self._semaphore, name)

    async def run(self, pool: str, script: Callable[[int], Awaitable[R]], *, grants_or_reaps: bool = True) -> R:
        """Run a script under the epoch that counts, and load the pool first when Redis does not have it.

        Args:
            pool: Name of the pool.
            script: Makes the call; it is given the epoch.
            grants_or_reaps: The script may do so. Then it is not run while SQL cannot be written.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer, or the pool could not be loaded for 5 s.
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
            try:
                reply = await script(epoch)
            except NotDone as undone:
                why = undone.why
            else:
                reply.epoch = epoch
                self._heed(pool, epoch, reply)
                return reply
            if time.monotonic() > give_up:
                raise StoreDown("redis", f"Redis has lost pool {pool!r} and it could not be rebuilt yet")
            if why is Undone.ELSEWHERE:
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
            if found.result is EpochResult.REPLACED:
                raise StoreDown("redis", REPLACED)
            if found.result is EpochResult.TAKEN:
                return self._take(known, found.epoch, identity)
            try:
                loaded = await self._semaphore.rebuild(
                    pool,
                    found.epoch,
                    found.pool.in_redis(),
                    [(job.job_id, entry_codec.holding(job)) for job in found.leases],
                    [(job.job_id, entry_codec.waiting(job)) for job in found.waiters],
                )
            except NotDone:  # another Redis answers meanwhile
                known.epoch = None
                return
            if loaded.result is RebuildResult.FOREIGN:
                raise StoreDown("redis", FOREIGN.format(pool=pool))
            if loaded.result is RebuildResult.REFUSED:
                known.floor = loaded.epoch
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

    def _heed(self, pool: str, epoch: int, reply: ScriptReply[StrEnum]) -> None:
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


class PoolSlots:
    """The slots, the queue and the outbox of one pool, at the epoch that counts.

    Each call that runs a script loads the pool first when Redis has lost it. All raise PoolUnknown and StoreDown.
    """

    def __init__(self, pools: PoolRegistry, semaphore: Semaphore, name: str) -> None:
        self._pools, self._semaphore, self._name = pools, semaphore, name

    async def acquire(self, request: Request, or_wait: bool = True) -> AcquireReply:
        """Take a slot, or join the queue; see `Semaphore.acquire`."""
        facts = (request.job_id, request.user, request.tool, request.lease_ms, or_wait, request.starts, request.queue_ms)
        return await self._run(lambda epoch: self._semaphore.acquire(self._name, epoch, *facts))

    async def claim(self, job_id: str, lease_id: str, by_gate: bool = False) -> ExtendReply:
        """Say that a granted job has started."""
        return await self._run(lambda epoch: self._semaphore.claim(self._name, epoch, job_id, lease_id, by_gate))

    async def renew(self, job_id: str, lease_id: str, lease_ms: int | None = None) -> ExtendReply:
        """Extend a lease by `lease_ms` from now; None for the job's own length."""
        return await self._run(lambda epoch: self._semaphore.renew(self._name, epoch, job_id, lease_id, lease_ms))

    async def hold(self, job_id: str, lease_id: str) -> ExtendReply:
        """Keep a grant whose start call is under way."""
        return await self._run(lambda epoch: self._semaphore.hold(self._name, epoch, job_id, lease_id))

    async def release(self, job_id: str, lease_id: str) -> None:
        """Give the slot of a lease back, if it still holds one."""
        await self._run(lambda epoch: self._semaphore.release(self._name, epoch, job_id, lease_id))

    async def cancel(self, job_id: str, ticket: int | None = None) -> None:
        """Take a job out, if it is there; with `ticket`, only if it came under that ticket."""
        await self._run(lambda epoch: self._semaphore.cancel(self._name, epoch, job_id, ticket))

    async def undo(self, job_id: str, ticket: int) -> None:
        """Take back the place that a first call under `ticket` took, unless another call relies on it."""
        script = self._semaphore.undo
        await self._pools.run(self._name, lambda epoch: script(self._name, epoch, job_id, ticket), grants_or_reaps=False)

    async def requeue(self, job: Job, fence: int, why: str) -> None:
        """Put a job whose grant was given back to its place; see `Semaphore.requeue`."""
        entry = entry_codec.waiting(job)  # the lease may have been reaped since SQL let go of it
        script = self._semaphore.requeue
        await self._run(
            lambda epoch: script(
                self._name,
                epoch,
                job.job_id,
                fence,
                why,
                entry,  # guard: requeue-restores-a-reaped-job
            )
        )

    async def restore(self, job: Job) -> bool:
        """Put a lease back that SQL has and Redis has lost. False when that is not possible, or not necessary."""
        entry = entry_codec.holding(job)
        reply = await self._run(lambda epoch: self._semaphore.restore(self._name, epoch, job.job_id, entry))
        return reply.result is RestoreResult.RESTORED  # guard: sweep-restored-lease

    async def configure(self, settings: dict[str, int]) -> None:
        """Bring settings of SQL into Redis."""
        await self._run(lambda epoch: self._semaphore.configure(self._name, epoch, settings))

    async def tick(self) -> int:
        """Reap what has run out and grant what is free. Returns the epoch that counts."""
        return (await self._run(lambda epoch: self._semaphore.tick(self._name, epoch))).epoch

    async def status(self, job_id: str | None = None, most: int = 0) -> QueueState:
        """Read the pool, with the position of one waiter, and the names of `most` waiters and holders."""
        return await self._run(lambda epoch: self._semaphore.status(self._name, epoch, job_id, most))

    async def snapshot(self) -> RedisSnapshot:
        """Read everything of the pool at one moment. Nothing is reaped or granted by it."""
        return await self._semaphore.survey(self._name)

    async def outbox(self, after: str | None = None, most: int = 500) -> list[OutboxEntry]:
        """Read the oldest entries of the outbox behind `after`."""
        return await self._semaphore.notes(self._name, after, most)

    async def delete_from_outbox(self, entry_ids: Iterable[str]) -> None:
        """Delete entries that SQL has recorded."""
        await self._semaphore.delete_notes(self._name, entry_ids)

    async def _run(self, script: Callable[[int], Awaitable[R]]) -> R:
        return await self._pools.run(self._name, script)
