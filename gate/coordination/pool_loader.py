"""The load of a pool from SQL into Redis, and what this server knows of each pool."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from gate.coordination.clock_guard import ClockGuard
from gate.coordination.ledger_age import LedgerAge
from gate.coordination.single_flight import SingleFlight
from gate.ledger import EpochResult, Ledger, RebuildPlan
from gate.model.account import Accounts
from gate.model.errors import StoreDown
from gate.model.job import Job
from gate.model.redis_identity import life
from gate.slots import NotDone, RebuildReply, RebuildResult, Semaphore, entry_codec
from gate.slots.entry_codec import Entry

log = structlog.get_logger("gate.pools")

REPLACED = "this server reaches a Redis that other servers have left for another; point GATE_REDIS_URL at theirs, or restart this Redis"
FOREIGN = "pool {pool!r} in this Redis belongs to a gate with another ledger, which called less than ten seconds ago"

LOADING_S = 2.0
"""Time (s) that another server may take from its commit of an epoch to the end of its load, before it counts as dead."""


@dataclass(slots=True)
class KnownPool:
    """State of one pool at this server.

    Attributes:
        epoch: Its epoch; None when it has to be read from SQL.
        redis: Identity of the Redis in which that epoch was loaded, without its epoch in a cluster. It counts in no other.
        last: The highest epoch that this server has seen.
        floor: The highest epoch under which Redis has refused a load. The next one must be above it.
        loads: Number of loads by this server.
        taken_at: Time by `time.monotonic()` (s) at which the newest epoch was read from SQL. The server that loads the pool
            writes it there before it loads.
        rest_at: Time by `time.monotonic()` (s) of the last tick that an idle pool needs, after the last call on it.
        asked_at: Time by `time.monotonic()` (s) of the last call that Redis answered; None before the first.
        rebuilding: Held during a load.
    """

    epoch: int | None = None
    redis: str = ""
    last: int = 0
    floor: int = 0
    loads: int = 0
    taken_at: float = -LOADING_S
    rest_at: float = 0.0
    asked_at: float | None = None
    rebuilding: SingleFlight = field(default_factory=SingleFlight)

    def take(self, epoch: int, redis: str) -> None:
        """Note the epoch that SQL has, and the Redis in which it was loaded."""
        if epoch > self.last:
            self.taken_at = time.monotonic()
        self.epoch, self.redis, self.last = epoch, life(redis), max(epoch, self.last)


class PoolLoader:
    """Loads pools into the Redis that answers now."""

    def __init__(
        self, semaphore: Semaphore, ledger: Ledger, clock_guard: ClockGuard, age: LedgerAge, accounts: Accounts
    ) -> None:
        self._semaphore, self._ledger, self._clock_guard, self._age = semaphore, ledger, clock_guard, age
        self._link, self._accounts = semaphore.link, accounts

    async def load(self, pool: str, known: KnownPool, refused: int | None, even_a_former: bool) -> None:
        """Load a pool under a new epoch, or take over the epoch under which another server has loaded it.

        The new epoch is committed before the load. A server that stops between the two leaves an epoch that no server uses.

        Args:
            pool: Name of the pool.
            known: What this server knows of the pool. It is changed. Its epoch is None afterwards when the load has to be made again.
            refused: The epoch that Redis did not have; None when the pool was loaded in another Redis than this server sees.
            even_a_former: Load even into a Redis that other servers have left for another.

        Raises:
            PoolUnknown: There is no such pool in SQL.
            StoreDown: A store does not answer, other servers have left this Redis, or a gate with another ledger uses the
                pool in it.
        """
        await self._link.look()  # guard: look-before-the-load
        link = self._link.of(pool)
        identity = await link.meet()
        link.pin(identity)
        await self._age.hold([pool])  # guard: hold-before-the-load
        away_ms = None if known.asked_at is None else round((time.monotonic() - known.asked_at) * 1000)
        plan = await self._ledger.begin_rebuild(
            pool, identity, refused, known.floor, even_a_former=even_a_former, away_ms=away_ms
        )
        self._semaphore.belongs(pool, plan.pool.ledger_id)  # guard: pool-made-again-has-a-ledger-id-of-its-own
        if plan.result is EpochResult.REPLACED:
            raise StoreDown("redis", REPLACED)
        if plan.result is EpochResult.TAKEN:
            known.take(plan.epoch, identity)
        else:
            await self._put(pool, known, plan, identity)

    async def _put(self, pool: str, known: KnownPool, plan: RebuildPlan, identity: str) -> None:
        """Put the rows of a plan into this Redis."""
        recorded_ms, poison_from = plan.pool.clock_ahead_ms, plan.pool.settings.refusals_before_passing
        ahead_ms = await self._clock_guard.measured(pool, recorded_ms)
        leases = entry_codec.loaded(entry_codec.holding, plan.leases, plan.poison, poison_from)
        leases += self._draining(plan.stops)  # guard: load-draining-slots
        try:
            loaded = await self._semaphore.rebuild(
                pool,
                plan.epoch,
                plan.pool.in_redis() | {"ahead_ms": ahead_ms, "stood_ms": plan.stood_ms},
                leases,
                entry_codec.loaded(entry_codec.waiting, plan.waiters, plan.poison, poison_from),
            )
        except NotDone:  # another Redis answers now: begin again, with the epoch that SQL has
            known.epoch = None
            return
        if loaded.result is RebuildResult.FOREIGN:
            raise StoreDown("redis", FOREIGN.format(pool=pool))
        if loaded.result is RebuildResult.REFUSED:
            known.floor = loaded.epoch
            known.epoch = None
            return
        known.epoch, known.redis, known.last = plan.epoch, life(identity), plan.epoch
        known.loads += 1
        await self._clock_guard.loaded(pool, plan.epoch, recorded_ms, ahead_ms)
        await self._record_grace(pool, plan, loaded)
        log.info("pool.loaded", pool=pool, epoch=plan.epoch, leases=len(plan.leases), waiters=len(plan.waiters))

    def _draining(self, stops: Sequence[tuple[Job, int]]) -> list[tuple[str, Entry]]:
        """Return the entries of slots that are kept for tasks that are being stopped."""
        left = [(job, self._accounts.drain_ms(job) - since_ms) for job, since_ms in stops]
        return [(job.job_id, entry_codec.draining(job, left_ms)) for job, left_ms in left if left_ms > 0]

    async def _record_grace(self, pool: str, plan: RebuildPlan, loaded: RebuildReply) -> None:
        """Record the deadlines that the load has extended."""
        if graced := [(job, loaded.graced[job.job_id]) for job in plan.leases if job.job_id in loaded.graced]:
            with contextlib.suppress(StoreDown):  # the next load then extends these deadlines again
                await self._ledger.grace(pool, plan.epoch, graced)
