"""Looking: at a job and its place, at a pool, at what happened. Nothing is decided here; what is granted this moment is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gate.coordination.eta import EtaEstimator
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.positions import QueuePositions
from gate.coordination.waiters import Waiters, Wakeup
from gate.ledger import Event, LedgerQueries
from gate.model.errors import AlreadyEnded, JobUnknown, StoreDown
from gate.model.job import Job, now_ms
from gate.slots import QueueState, Semaphore

TRIES = 5
"""How often it is looked again when the stores moved meanwhile."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool at one moment, with its holders and its queue as jobs in order."""

    name: str
    line: QueueState
    holders: list[Job]
    queue: list[Job]


class JobQueries:
    """Jobs and pools as they stand, with places and estimates. Nothing is decided here; a grant of this moment is recorded first."""

    def __init__(
        self,
        semaphore: Semaphore,
        ledger: LedgerQueries,
        pools: PoolRegistry,
        recorder: OutboxRecorder,
        waiters: Waiters,
    ) -> None:
        self._semaphore, self._ledger, self._pools = semaphore, ledger, pools
        self._recorder, self.waiters = recorder, waiters
        self._pace, self._board = EtaEstimator(ledger), QueuePositions(pools, waiters)

    async def know(self, pool: str) -> None:
        """Raises PoolUnknown."""
        await self._pools.know(pool)

    async def line(self, pool: str, most: int) -> QueueState:
        """As Redis has it; of its holders and its queue at most so many. Raises PoolUnknown."""
        return await self._pools.pool(pool).status(most=most)

    async def names(self) -> list[str]:
        """Of every pool; while SQL is away, of those that were known before."""
        with contextlib.suppress(StoreDown):
            await self._pools.load()
        return self._pools.names

    async def job(self, pool: str, job_id: str) -> Job:
        """As SQL has it. Raises PoolUnknown, JobUnknown."""
        job = await self._ledger.job(job_id)
        if job is None or job.pool != pool:
            await self._pools.know(pool)
            raise JobUnknown(f"there is no such job in pool {pool!r}")
        return job

    async def wait(self, pool: str, job_id: str, status: str, wait_s: float) -> Job:
        """The job, as soon as its status is no longer `status`, at the latest after `wait_s`. Raises JobUnknown."""
        with self.parked(job_id, status) as changed:
            return await self.until_changed(await self.job(pool, job_id), changed, wait_s)

    def parked(self, job_id: str, status: str) -> contextlib.AbstractContextManager[Wakeup]:
        """Rings when the job is in another status than this. Whoever parks before he reads the job misses nothing."""
        return self.waiters.parked(job_id, status)

    async def until_changed(self, job: Job, changed: Wakeup, wait_s: float) -> Job:
        """The job, which was as it is here after `changed` was parked, as soon as it has another status than that knows."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        # guard: forget-news-before-the-read
        changed.job = None  # what was shown before `job` was read may be older than that
        while job.status == changed.known and (left := end - loop.time()) > 0 and not self.waiters.closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()
            shown = changed.job
            changed.clear()
            job = shown or await self.job(job.pool, job.job_id)
        return await self.placed(job)

    async def until_started(self, job: Job, end: float) -> Job:
        """The job once gate has started it; as it stands at `end` (s of time.monotonic()) when gate has not. The provider may
        refuse a start, so a granted job may wait in the queue again. Raises AlreadyEnded.
        """
        while job.starts and job.status in ("queued", "granted") and (left := end - time.monotonic()) > 0:
            before, job = job.status, await self.wait(job.pool, job.job_id, job.status, left)
            if job.status == before:  # the time is over, or this server stops
                break
        if job.ended:
            raise AlreadyEnded(f"this job is {job.status} already", job)
        return job

    async def follow(self, pool: str, job_id: str) -> AsyncIterator[Job]:
        """The job, and again whenever its status or its place has changed, until it has ended. Raises JobUnknown."""
        last: Job | None = None
        with self.waiters.parked(job_id) as changed, self._board.followed(pool, job_id, changed):
            while True:
                changed.clear()
                place = self._board.place(pool, job_id)
                if last is not None and last.status == "queued" and place is not None:
                    job = await self._at(last, *place)
                else:
                    job = await self.placed(await self.job(pool, job_id))
                if last is None or _news(job) != _news(last):
                    yield job
                last = job
                changed.known = job.status
                if job.ended or self.waiters.closing:
                    return
                await changed.wait()

    async def placed(self, job: Job) -> Job:
        """The job with its place in the line, if it waits. One that was granted this moment is recorded first."""
        for _ in range(TRIES):
            if job.status != "queued":
                return job
            line = await self._pools.pool(job.pool).status(job.job_id)
            if line.position is not None:
                return await self._at(job, line.position, line)
            await self._recorder.run(job.pool)
            job = await self.job(job.pool, job.job_id)
        return job

    async def placed_if_seen(self, job: Job) -> Job:
        """For an answer that is due whether Redis answers or not."""
        with contextlib.suppress(StoreDown):
            return await self.placed(job)
        return job

    async def pool(self, pool: str, most: int = 100) -> PoolSnapshot:
        """Raises PoolUnknown."""
        line = await self.line(pool, most)
        jobs = await self._ledger.jobs([*line.holders, *line.queue])
        if any(job_id in jobs and jobs[job_id].status == "queued" for job_id in line.holders):
            await self._recorder.run(pool)
            jobs |= await self._ledger.jobs(line.holders)
        holders = [job for job_id in line.holders if (job := jobs.get(job_id))]
        waiters = [(job, place) for place, job_id in enumerate(line.queue, 1) if (job := jobs.get(job_id))]
        return PoolSnapshot(pool, line, holders, [await self._at(job, place, line) for job, place in waiters])

    async def pools(self, most: int = 100) -> list[PoolSnapshot]:
        """Every pool, by name."""
        await self._pools.load()
        return [await self.pool(name, most) for name in self._pools.names]

    async def active(self, user: str) -> Job | None:
        """The user's live job, if any."""
        job = await self._ledger.active(user)
        return await self.placed(job) if job is not None else None

    async def history(self, pool: str, job_id: str) -> list[Event]:
        """What happened to a job, in order. Raises JobUnknown."""
        await self.job(pool, job_id)
        return await self._ledger.history(job_id)

    async def ready(self) -> None:
        """Raises StoreDown unless both stores answer, and SQL takes what is written."""
        await asyncio.gather(self._semaphore.ping(), self._ledger.ping(), self._pools.writable())

    async def _at(self, job: Job, position: int, line: QueueState) -> Job:
        if job.status != "queued":
            return job
        reason = line.reason_of(job.tool if job.starts else None)
        known = reason not in ("paused", "tool_down")  # how long that takes depends on an operator
        eta_ms = await self._pace.eta(job.pool, job.job_id, position, line.limit) if known else None
        if eta_ms is not None:
            eta_ms = max(eta_ms, line.cooling_until or 0) - now_ms()
        eta_seconds = None if eta_ms is None else round(max(eta_ms, 0) / 1000, 1)
        return job._replace(
            position=position,
            queue_length=line.queued,
            reason=reason,
            eta_seconds=eta_seconds,
        )


def _news(job: Job) -> Job:
    """Without the estimate, which changes all the time."""
    return job._replace(eta_seconds=None)
