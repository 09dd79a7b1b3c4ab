"""The reconciler. It compares Redis with SQL, and repairs drift. A sweep starts every ten seconds, the first with the server.

Jobs change between the read of Redis and the read of SQL, so a difference that one sweep finds may be normal. A difference of
the same lease that two sweeps in a row find is drift. Its causes are a crash between the stores, an operator with redis-cli,
or a trimmed stream. Each repair is a script or a compare-and-set that checks again, and each is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import assert_never

import structlog

from gate.coordination.drift import Drift, DriftKind, clock_differs, examine
from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.store_health import StoreHealth
from gate.ledger import GrantReturn, Ledger, LedgerQueries, Pool
from gate.model.account import Accounts
from gate.model.errors import PoolUnknown, StoreDown
from gate.model.job import Job, Lease
from gate.model.messages import EntryKind, OutboxEntry
from gate.slots import RedisSnapshot
from gate.telemetry import counters
from gate.workers.idle_look import differs

log = structlog.get_logger("gate.sweep")

EVERY_S = 10.0
"""Pause (s) between two sweeps. A repair needs two sweeps, so drift lasts about twenty seconds at most."""
POOLS_AT_ONCE = 100
"""Pools that one round trip and one query find out about. More would keep the event loop for long."""
RESTORES_MAX = 3
"""Times that a sweep tries to put a lease back whose slot is taken."""
ALL_ENTRIES = 100_000
"""Entries of the outbox that a repair reads at most. It needs every entry about a job, so one page is not enough."""
SAFE_KINDS = (DriftKind.SETTINGS, DriftKind.ENDED)
"""Repairs of a pool whose ledger has gone back. Each other one may free the slot of a job that runs, or start one that has ended."""

Mend = Callable[[str, int, RedisSnapshot, dict[str, Job], Drift, float], Awaitable[bool]]


class Reconciler:
    """Compares the two stores, pool by pool.

    Attributes:
        suspects: Idle pools in which another worker has found a difference, for the next sweep.
        sweeps: Number of sweeps of all pools that have ended.
    """

    def __init__(
        self, ledger: Ledger, reading: LedgerQueries, pools: PoolRegistry, recorder: OutboxRecorder, news: Notifier,
        accounts: Accounts | None = None,
    ) -> None:  # fmt: skip
        self._ledger, self._reading, self._accounts = ledger, reading, accounts or Accounts()
        self._pools, self._recorder, self._news = pools, recorder, news
        self._before: dict[str, set[Drift]] = {}
        self.suspects: set[str] = set()
        self.sweeps = 0
        pools.on_forgotten.append(self._forget_pool)

    def _forget_pool(self, pool: str) -> None:
        self._before.pop(pool, None)

    async def keep(self, health: StoreHealth) -> None:
        """Sweep every pool, for ever.

        Args:
            health: Logs a store that is away, once for all pools.
        """
        while True:
            with contextlib.suppress(StoreDown):
                await self._pools.load_changes()  # another server may have made or deleted one
            await self.sweep_all(health)
            await asyncio.sleep(EVERY_S)

    async def sweep_all(self, health: StoreHealth) -> None:
        """Sweep the pools of this server that have jobs, and those in which a difference was found. The others have none.

        A pool that fails is logged, and does not stop the others.

        Args:
            health: Logs a store that is away, once for all pools.
        """
        try:
            for pool in await self._to_sweep():
                try:
                    await self.sweep(pool)
                except StoreDown as error:
                    if await health.look():
                        log.warning("reconciler.store_away", pool=pool, error=str(error))
                except PoolUnknown:
                    continue  # it was deleted meanwhile
                except Exception:
                    log.exception("reconciler.sweep_failed", pool=pool)  # one pool must not stop the repair of others
        except StoreDown as error:
            if await health.look():
                log.warning("reconciler.store_away", error=str(error))
        self.sweeps += 1

    async def drift_all(self, fix: bool = False) -> list[tuple[str, Drift]]:
        """Sweep every pool, without repairs unless `fix`.

        Returns:
            The differences that the sweep before found too, each with its pool.

        Raises:
            StoreDown: A store does not answer.
        """
        found = []
        async for pool in self._not_idle():
            with contextlib.suppress(PoolUnknown):  # it was deleted meanwhile
                found += [(pool, one) for one in await self._look(pool, self._mend if fix else None)]
        return found

    async def sweep(self, pool: str) -> list[Drift]:
        """Sweep a pool, and repair the differences that the sweep before found too.

        Returns:
            The differences that were repaired.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        return await self._look(pool, self._mend)

    async def _to_sweep(self) -> list[str]:
        """Name the pools to be swept one by one: those of this server with a job in either store, and those that differed.

        Raises:
            StoreDown: A store does not answer.
        """
        await self._pools.find_busy()
        suspects = {*self.suspects, *(pool for pool, found in self._before.items() if found)}
        self.suspects.clear()
        wanted = {*self._pools.at_work(), *suspects, *await self._reading.off_clock()}  # guard: sweep-what-is-not-idle
        known = [pool for pool in self._pools.names if pool in wanted and self._pools.owns(pool)]
        for pool in self._before.keys() - wanted:
            self._before[pool] = set()
        for first in range(0, len(known), POOLS_AT_ONCE):
            await self._pools.look_at_ledger(known[first : first + POOLS_AT_ONCE])
        return known

    async def _not_idle(self) -> AsyncIterator[str]:
        """Look at all pools, and yield those that have to be looked at one by one.

        The others hold nothing in Redis, have no live job in SQL, and have the same settings in both stores, or are not loaded yet. So
        nothing can differ. A few round trips and queries find that out for many pools.

        Raises:
            StoreDown: A store does not answer.
        """
        names, busy = self._pools.names, await self._reading.busy()
        for first in range(0, len(names), POOLS_AT_ONCE):
            pools = names[first : first + POOLS_AT_ONCE]
            await self._pools.look_at_ledger(pools)
            rows = await self._reading.named(pools)
            wanted = next((row.in_redis() for row in rows.values()), {})
            for pool, seen in (await self._pools.looks(pools, [*wanted, "ahead_ms"])).items():
                row = rows.get(pool)
                if (
                    seen.holds
                    or pool in busy
                    or row is None
                    or (seen.mark.epoch and differs(seen, row, self._pools.age.newest))
                ):
                    yield pool
                else:
                    self._before[pool] = set()

    async def _look(self, pool: str, mend: Mend | None) -> list[Drift]:
        slots = self._pools.pool(pool)
        epoch = await slots.tick()
        await self._recorder.run(pool)
        looked_at = time.monotonic()
        seen = await slots.snapshot()
        live = await self._reading.live(pool)
        named = {*seen.slots, *seen.queue, *seen.noted} - live.keys()
        others = {
            job_id: job
            for job_id, job in (await self._reading.jobs(sorted(named))).items()
            if job.pool == pool  # guard: sweep-only-its-pool
        }
        found = set(examine(seen, live, others))
        settings = await self._settings(pool)
        if any(seen.settings.get(name) != value for name, value in settings.in_redis().items()):
            found.add(Drift(DriftKind.SETTINGS, ""))  # guard: sweep-settings
        if seen.epoch != epoch:
            return []  # the pool was loaded again during this sweep, so the two reads cannot be compared
        twice = set(found)
        twice &= self._before.get(pool, set())  # guard: sweep-what-two-looks-saw
        if mend is None:
            self._before[pool] = found
            return sorted(twice, key=str)
        await self._settle_clock(pool, epoch, seen, settings.clock_ahead_ms, bool(live))
        is_held = settings.paused and await self._reading.held([pool])
        if is_held:  # guard: sweep-nothing-that-sql-forgot
            twice = _safe(twice)
        repaired = [drift for drift in sorted(twice, key=str) if await mend(pool, epoch, seen, live, drift, looked_at)]
        self._before[pool] = found - {
            drift
            for drift in twice
            if drift in repaired  # guard: sweep-failed-repair-again
        }
        for drift in repaired:
            counters.repairs[drift.kind] += 1
            log.warning("reconciler.repaired", pool=pool, repair=drift.kind, job_id=drift.job_id, fence=drift.fence)
        return repaired

    async def _settle_clock(self, pool: str, epoch: int, seen: RedisSnapshot, recorded_ms: int, has_jobs: bool) -> None:
        """Record the clock of the pool in SQL, or take the clock of Redis again when the pool is empty.

        SQL is first. Otherwise a rebuild could load new leases by a clock that Redis had given up before.
        """
        slots = self._pools.pool(pool)
        if seen.ahead_ms and not (has_jobs or seen.slots or seen.queue or seen.noted or seen.settings.get("paused")):
            await self._ledger.record_clock(pool, epoch, 0)  # guard: reset-the-clock-in-sql-first
            await slots.tick(resets=True)
            if left_ms := (await slots.snapshot()).ahead_ms:  # a job came meanwhile, or a cool-down is due
                await self._ledger.record_clock(pool, epoch, left_ms)
        elif clock_differs(seen, recorded_ms):
            await self._ledger.record_clock(pool, epoch, seen.ahead_ms)  # guard: sweep-the-clock

    async def _settings(self, pool: str) -> Pool:
        found = await self._reading.pool(pool)
        if found is None:
            raise PoolUnknown(f"there is no pool {pool!r}")
        return found

    async def _mend(
        self, pool: str, epoch: int, seen: RedisSnapshot, live: dict[str, Job], drift: Drift, looked_at: float
    ) -> bool:
        job_id, slots = drift.job_id, self._pools.pool(pool)
        job = live.get(job_id)
        match drift.kind:
            case DriftKind.SETTINGS:
                await slots.configure((await self._settings(pool)).in_redis())
            case DriftKind.ENDED:
                await self._ledger.say_ended(pool, job_id)
                await self._free_ended(pool, job_id)
            case DriftKind.UNKNOWN_JOB:
                return await self._free(pool, epoch, seen, drift)
            case DriftKind.ORPHAN_ENTRY:
                return await self._forget(pool, epoch, job_id)
            case DriftKind.OVERDUE:
                expired = await self._ledger.expire_overdue(pool, epoch, job_id, drift.fence, seen.now_ms)
                if not expired:  # guard: sweep-lost-expiry
                    return False
                await slots.cancel(job_id)
                self._news.tell(pool, [job_id])
            case DriftKind.LOST_LEASE:
                assert job is not None
                return await self._restore(pool, job)
            case DriftKind.UNRECORDED_GRANT:
                good_until = looked_at + (seen.slots[job_id] - seen.now_ms) / 1000
                await self._recorder.apply(pool, epoch, [_grant_in(seen, job_id)], good_until)
            case DriftKind.LOST_PLACE | DriftKind.RETURNED_GRANT:
                assert job is not None
                if drift.kind is DriftKind.LOST_PLACE:
                    await self._ledger.seated(pool, job_id)
                await self._recorder.give_back(pool, GrantReturn(job, drift.fence, "lost"))
            case _:
                assert_never(drift.kind)
        return True

    async def _free_ended(self, pool: str, job_id: str) -> None:
        """Free the place of a job that has ended. The slot of one whose task still runs drains first."""
        slots, job = self._pools.pool(pool), (await self._reading.jobs([job_id])).get(job_id)
        if job is not None:
            await slots.leave(job, self._accounts.drain_ms(job))
        else:
            await slots.cancel(job_id)

    async def _restore(self, pool: str, job: Job) -> bool:
        """Put a lease back into Redis. A waiter may have got its slot meanwhile.

        SQL does not record a grant above the limit, so that waiter gives the slot back, and gate grants none for a second.
        """
        slots = self._pools.pool(pool)
        for _ in range(RESTORES_MAX):
            if await slots.restore(job):
                return True
            await self._recorder.run(pool)  # guard: sweep-restore-after-the-return
        return False

    async def _free(self, pool: str, epoch: int, seen: RedisSnapshot, drift: Drift) -> bool:
        """Void the grant in SQL, then free its slot. In the other order a late commit could record a grant without a slot."""
        job_id, slots = drift.job_id, self._pools.pool(pool)
        entry = seen.entries.get(job_id) or {}
        ticket = int(entry.get("ticket", 0))
        if not await self._ledger.void(pool, epoch, job_id, drift.fence, ticket):
            return False
        lease_id = entry.get("lease_id")
        if job_id in seen.slots and lease_id:
            await slots.release(job_id, lease_id)
        else:  # a job without an entry has no ticket, and cannot have been admitted again since
            await slots.cancel(job_id, ticket=ticket if entry else None)
        return True

    async def _forget(self, pool: str, epoch: int, job_id: str) -> bool:
        """Delete entries of the outbox about a job that never reached SQL and whose slot is gone. No caller knows of it."""
        slots = self._pools.pool(pool)
        entries = [entry for entry in await slots.outbox(most=ALL_ENTRIES) if entry.job_id == job_id]
        if not entries:
            return False
        fence, ticket = max(entry.fence for entry in entries), max(entry.ticket for entry in entries)
        if not await self._ledger.void(pool, epoch, job_id, fence, ticket):
            return False
        await slots.delete_from_outbox([entry.entry_id for entry in entries])
        return True


def _safe(drifts: set[Drift]) -> set[Drift]:
    """Return the differences whose repair is right also when SQL has gone back."""
    return {drift for drift in drifts if drift.kind in SAFE_KINDS}


def _grant_in(seen: RedisSnapshot, job_id: str) -> OutboxEntry:
    """Make the missing outbox entry of a grant from the state of Redis."""
    entry = seen.entries[job_id]
    assert entry is not None
    fence, granted_at = int(entry["fence"]), int(entry["granted_at"])
    lease = Lease(entry["lease_id"], fence, granted_at, seen.slots[job_id], int(entry["hard"]))
    return OutboxEntry("0-1", EntryKind.GRANTED, job_id, fence, granted_at, lease)
