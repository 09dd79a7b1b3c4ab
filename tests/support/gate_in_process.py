"""A gate in the process of the test: its services on real stores, without HTTP."""

from __future__ import annotations

import itertools
from typing import Any

import redis

from gate.model.job import Job, Request
from gate.runtime.wiring import RunningGate
from tests.support.wait import until


class House:
    """A gate without HTTP, on real stores, with an operator's redis client beside it."""

    def __init__(self, gate: RunningGate, pool: str, redis_url: str, sql_url: str, people: redis.Redis) -> None:
        self.gate, self.keeper, self.pool = gate, gate.services.jobs, pool
        self.redis_url, self.sql_url, self.people = redis_url, sql_url, people
        self._numbers = itertools.count(1)

    def key(self, role: str) -> str:
        return f"gate:{{{self.pool}}}:{role}"

    async def acquire(self, job_id: str | None = None, wait_s: float = 0, **request: Any) -> Job:
        job_id = job_id or f"{self.pool}-{next(self._numbers)}"
        return await self.gate.services.admission.acquire(self.pool, Request(job_id, **request), wait_s)

    async def release(self, job: Job, outcome: str = "completed", **more: Any) -> Job:
        assert job.lease_id is not None
        return await self.keeper.release(self.pool, job.job_id, job.lease_id, outcome, **more)

    async def look(self, job: Job | str) -> Job:
        return await self.gate.services.queries.wait(self.pool, job if isinstance(job, str) else job.job_id, "", 0)

    async def granted(self, job: Job) -> Job:
        return await self.gate.services.queries.wait(self.pool, job.job_id, "queued", 10)

    async def status(self, job: Job | str) -> str:
        return (await self.look(job)).status

    async def granted_before_its_row(self) -> str:
        """A job that waited in Redis and was granted a slot there, and of which SQL knows nothing; its entry stays in the outbox."""
        epoch = await self.gate.registry.epoch(self.pool)
        holders = [await self.acquire() for _ in range(3)]
        job_id = f"{self.pool}-unknown"
        await self.gate.semaphore.acquire(self.pool, epoch, job_id, None, None, None)
        await self.release(holders[0])
        await self.gate.recorder.run(self.pool)
        return job_id

    async def refunds(self, job: Job | str) -> list[int]:
        job_id = job if isinstance(job, str) else job.job_id
        rows, _ = await self.gate.services.ledger.entries(job_id=job_id, kind="refund")
        return [row.amount for row in rows]

    class Mute:
        """A notifier that notifies no waiter."""

        def show(self, pool: str, jobs: Any) -> None:
            return None

    def expire(self, job: Job) -> None:
        """Time passes for one lease: as if its deadline were over by Redis's clock."""
        assert self.people.zadd(self.key("slots"), {job.job_id: 1}, xx=True, ch=True) == 1

    def outbox(self) -> int:
        return int(self.people.xlen(self.key("outbox")))

    async def settled(self) -> None:
        await until(lambda: self.outbox() == 0, "the outbox is in SQL")
