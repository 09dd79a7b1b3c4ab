"""Queries about jobs and pools. They decide nothing, but record a grant in SQL if they find it in Redis first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from gate.coordination.capacity import CapacityCoordinator, PoolCapacity
from gate.coordination.eta import EtaEstimator
from gate.coordination.hang_up import HangUp
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.positions import QueuePositions
from gate.coordination.waiters import Waiters, Wakeup
from gate.ledger import Asked, Event, LedgerQueries
from gate.model.errors import JobUnknown, PoolUnknown, StoreDown, TooLong
from gate.model.job import Job, JobStatus
from gate.slots import QueueState, Semaphore

TRIES = 5
"""Attempts to find a waiting job in the queue. Each further one needs another change of the job between two reads."""
SIGNS = 3
"""Signs of a caller that waits in a call, in its presence time. One may be late, and one may be lost."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool at one moment.

    Attributes:
        name: Name of the pool.
        line: Counters, settings and order, as Redis has them.
        holders: Jobs that hold a slot, in the order of Redis.
        queue: Jobs that wait, the next one first, with their places and estimates.
        capacity: What its accounts allow; None when no grant chooses among accounts.
    """

    name: str
    line: QueueState
    holders: list[Job]
    queue: list[Job]
    capacity: PoolCapacity | None = None


class JobQueries:
    """Answers queries about jobs and pools, with places and estimates.

    A method raises StoreDown if a store does not answer, unless it says otherwise.

    Attributes:
        waiters: Waiters of this process, which are woken when a job or a pool changes.
    """

    def __init__(
        self,
        semaphore: Semaphore,
        ledger: LedgerQueries,
        pools: PoolRegistry,
        recorder: OutboxRecorder,
        waiters: Waiters,
        capacity: CapacityCoordinator,
    ) -> None:
        self._semaphore, self._ledger, self._pools = semaphore, ledger, pools
        self._recorder, self.waiters, self._capacity = recorder, waiters, capacity
        self._pace, self._board = EtaEstimator(ledger, semaphore.expected_ms), QueuePositions(pools, waiters)
        pools.on_forgotten.append(self._pace.forget)

    async def know(self, pool: str) -> None:
        """Make sure that a pool exists.

        Raises:
            PoolUnknown: There is no such pool.
        """
        await self._pools.know(pool)

    async def line(self, pool: str, most: int) -> QueueState:
        """Read a pool from Redis, with the names of at most `most` holders and `most` waiters.

        Raises:
            PoolUnknown: There is no such pool.
        """
        return await self._pools.pool(pool).status(most=most)

    async def lines(self, pools: Sequence[str]) -> dict[str, QueueState | StoreDown]:
        """Read many pools from Redis at once, without names of jobs. A pool that was deleted is left out.

        Returns:
            Each pool in the order given, or why it could not be read.
        """
        found = await asyncio.gather(*(self.line(pool, 0) for pool in pools), return_exceptions=True)
        lines: dict[str, QueueState | StoreDown] = {}
        for pool, one in zip(pools, found, strict=True):
            if isinstance(one, (QueueState, StoreDown)):
                lines[pool] = one
            elif not isinstance(one, PoolUnknown):
                raise one
        return lines

    def is_idle(self, pool: str) -> bool:
        """Return whether no job was in the pool when this server looked last, up to a second ago."""
        return self._pools.is_idle(pool)

    async def names(self) -> list[str]:
        """Name every pool. If SQL does not answer, name the pools that were known before."""
        with contextlib.suppress(StoreDown):
            await self._pools.load_changes()
        return self._pools.names

    async def job(self, pool: str, job_id: str) -> Job:
        """Read a job from SQL.

        Raises:
            PoolUnknown: There is no such pool.
            JobUnknown: The pool has no such job.
        """
        job = await self._ledger.job(job_id)
        if job is None or job.pool != pool:
            await self._pools.know(pool)
            raise JobUnknown(f"there is no such job in pool {pool!r}")
        return job

    async def wait(
        self, pool: str, job_id: str, status: JobStatus | None, wait_s: float, hang_up: HangUp | None = None
    ) -> Job:
        """Wait until a job has another status, and return it.

        Args:
            pool: Name of the pool.
            job_id: The job.
            status: Status that the caller knows; None for none, which waits for nothing.
            wait_s: Longest wait (s). The job is returned after it in any case. This server may have a shorter one.
            hang_up: Tells whether the caller disconnects, which ends the wait. With it, the call is a sign of the job's caller.

        Raises:
            PoolUnknown: There is no such pool.
            JobUnknown: The pool has no such job.
        """
        wait_s = min(wait_s, self.waiters.longest_s)
        with self.parked(job_id, status) as changed:
            return await self.until_changed(await self.job(pool, job_id), changed, wait_s, hang_up)

    def parked(self, job_id: str, status: JobStatus | None) -> contextlib.AbstractContextManager[Wakeup]:
        """Register a waiter that is woken when the job has another status than `status`.

        Park before you read the job. Then no change is missed.
        """
        return self.waiters.parked(job_id, status)

    async def until_changed(self, job: Job, changed: Wakeup, wait_s: float, hang_up: HangUp | None = None) -> Job:
        """Wait until a job has another status than `changed` knows, and return it with its place.

        Args:
            job: The job, read after `changed` was parked.
            changed: The waiter of the job.
            wait_s: Longest wait (s).
            hang_up: As for `wait`.
        """
        loop, shows, hang_up = asyncio.get_running_loop(), hang_up is not None, hang_up or HangUp()
        end = loop.time() + wait_s
        # guard: forget-news-before-the-read
        changed.job = None  # a job that was passed before `job` was read may be older than `job`
        with hang_up.wakes(changed):
            while job.status == changed.known and (left := end - loop.time()) > 0:
                if self.waiters.closing or hang_up.happened:
                    break
                pause = await self._show(job) if shows else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, pause or left)):
                        await changed.wait()
                update = changed.job
                changed.clear()
                job = update or await self.job(job.pool, job.job_id)
        return await self.placed(job, shows and not hang_up.happened)

    async def _show(self, job: Job) -> float | None:
        """Say that the caller of a job waits for it.

        Returns:
            Time (s) after which to say so again; None for a job that nothing passes.
        """
        if job.presence_ms is None or job.status != "queued":
            return None
        with contextlib.suppress(StoreDown):  # without Redis no slot is granted, and after it every caller counts as present
            await self._pools.pool(job.pool).status(job.job_id, shows=True)
        return job.presence_ms / 1000 / SIGNS

    async def until_started(self, job: Job, end: float) -> Job:
        """Wait until gate has started a job, and return it.

        The provider may refuse a start, so a granted job may wait in the queue again.

        Args:
            job: The job.
            end: Time (s of time.monotonic()) until which to wait. The job is returned as it is then.

        Returns:
            The job. It may have ended.
        """
        while job.starts and job.status in ("queued", "granted") and (left := end - time.monotonic()) > 0:
            before, job = job.status, await self.wait(job.pool, job.job_id, job.status, left)
            if job.status == before:  # the time is over, or this server stops
                break
        return job

    async def follow(self, pool: str, job_id: str) -> AsyncIterator[Job]:
        """Yield a job now and at each change of its status or its place, until it has ended.

        Raises:
            PoolUnknown: There is no such pool.
            JobUnknown: The pool has no such job.
        """
        last: Job | None = None
        pause, show_at = None, 0.0
        with self.waiters.parked(job_id) as changed, self._board.followed(pool, job_id, changed):
            while True:
                changed.clear()
                place = self._board.place(pool, job_id)
                if last is not None and last.status == "queued" and place is not None:
                    job = await self._at(last, *place)
                else:
                    job = await self.placed(await self.job(pool, job_id))
                if last is None or _without_estimate(job) != _without_estimate(last):
                    yield job
                last = job
                changed.known = job.status
                if job.ended or self.waiters.closing:
                    return
                if time.monotonic() >= show_at:
                    pause = await self._show(job)
                    show_at = time.monotonic() + (pause or 0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()

    async def placed(self, job: Job, shows: bool = False, for_good: bool = False) -> Job:
        """Add its place in the queue to a job that waits. If Redis has granted it by now, record that and return the new job.

        Args:
            job: The job.
            shows: The caller of the job asks, so it is present.
            for_good: The job needs no presence any longer.

        Raises:
            StoreDown: A store does not answer.
        """
        for _ in range(TRIES):
            if job.status != "queued":
                return job
            shows = shows and job.presence_ms is not None
            line = await self._pools.pool(job.pool).status(job.job_id, shows=shows, for_good=for_good)
            if line.position is not None:
                return await self._at(job, line.position, line)
            await self._recorder.run(job.pool)
            job = await self.job(job.pool, job.job_id)
        return job

    async def refuse_if_too_long(self, pool: str, job_id: str, most_s: float) -> None:
        """Refuse a new job whose estimated wait is too long. Nothing is written.

        Args:
            pool: Name of the pool.
            job_id: The job. One that is there already is not refused.
            most_s: Longest wait (s) that its caller accepts.

        Raises:
            PoolUnknown: There is no such pool.
            TooLong: The estimate is above that. A wait that cannot be estimated is not too long.
        """
        line = await self._pools.pool(pool).status(job_id)
        if line.paused or (line.free and not line.cooling_until):  # those who wait beside a free slot are passed
            return
        eta_ms = await self._pace.eta(pool, job_id, line.queued + 1, line.limit)
        if eta_ms is None:
            return
        eta_s = max(max(eta_ms, line.cooling_until or 0) - self._semaphore.expected_ms(pool), 0) / 1000
        if eta_s > most_s and await self._ledger.job(job_id) is None:
            raise TooLong(
                f"a slot is free in about {eta_s:.0f} s, and max_eta_seconds is {most_s:g}; nothing was admitted", eta_s
            )

    async def placed_if_seen(self, job: Job) -> Job:
        """Add its place to a job that waits, or leave it out if a store does not answer."""
        with contextlib.suppress(StoreDown):
            return await self.placed(job)
        return job

    async def pool(self, pool: str, most: int = 100) -> PoolSnapshot:
        """Read a pool, with at most `most` holders and `most` waiters.

        Raises:
            PoolUnknown: There is no such pool.
        """
        line = await self.line(pool, most)
        jobs = await self._ledger.jobs([*line.holders, *line.queue])
        if any(job_id in jobs and jobs[job_id].status == "queued" for job_id in line.holders):
            await self._recorder.run(pool)
            jobs |= await self._ledger.jobs(line.holders)
        holders = [job for job_id in line.holders if (job := jobs.get(job_id))]
        waiters = [(job, place) for place, job_id in enumerate(line.queue, 1) if (job := jobs.get(job_id))]
        capacity = await self._capacity.state(pool)
        short = None if capacity is None else capacity.why_short(line.limit)
        placed = [await self._at(job, place, line, short) for job, place in waiters]
        return PoolSnapshot(pool, line, holders, placed, capacity)

    async def pools(self, most: int = 100) -> list[PoolSnapshot]:
        """Read every pool, in order of their names."""
        await self._pools.load()
        return [await self.pool(name, most) for name in self._pools.names]

    async def active(self, user: str) -> Job | None:
        """Return a live job of a user; None if the user has none."""
        job = await self._ledger.active(user)
        return await self.placed(job) if job is not None else None

    async def asked(self, job: Job) -> Asked | None:
        """Return what the provider says of the task of a job; None when gate does not ask about it.

        Raises:
            StoreDown: SQL does not answer.
        """
        return await self._ledger.asked(job)

    async def history(self, pool: str, job_id: str) -> list[Event]:
        """Read the events of a job, the oldest first.

        Raises:
            PoolUnknown: There is no such pool.
            JobUnknown: The pool has no such job.
        """
        await self.job(pool, job_id)
        return await self._ledger.history(job_id)

    async def ready(self) -> None:
        """Make sure that both stores answer and take writes.

        Raises:
            StoreDown: A store does not answer, or takes no writes.
        """
        await asyncio.gather(self._semaphore.probe(), self._ledger.ping(), self._pools.writable())

    async def _at(self, job: Job, position: int, line: QueueState, short: str | None = None) -> Job:
        if job.status != "queued":
            return job
        reason = line.reason_of(job.tool if job.starts else None, job.job_id, job.refusals)
        if reason == "pool_full":
            reason = short or self._capacity.why_short(job.pool) or reason
        # Where a caller or an operator has to act first, how long that takes is unknown.
        known = reason not in ("paused", "tool_down", "refused", "absent")
        eta_ms = await self._pace.eta(job.pool, job.job_id, position, line.limit) if known else None
        if eta_ms is not None:
            eta_ms = max(eta_ms, line.cooling_until or 0)
        now_ms = self._semaphore.expected_ms(job.pool)
        eta_seconds = None if eta_ms is None else round(max(eta_ms - now_ms, 0) / 1000, 1)
        expires_at = line.queue_expires_at(job.enqueued_at, job.queue_ms, job.stood_ms)
        return job._replace(
            position=position,
            queue_length=line.queued,
            reason=reason,
            eta_seconds=eta_seconds,
            queue_expires_at=expires_at,
            likely="expires" if eta_ms is not None and expires_at is not None and eta_ms > expires_at else None,
        )


def _without_estimate(job: Job) -> Job:
    """Leave out the estimate and what follows from it, which change all the time, so that they alone are no change."""
    return job._replace(eta_seconds=None, queue_expires_at=None, likely=None)
