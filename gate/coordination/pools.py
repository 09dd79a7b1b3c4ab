"""A pool as a whole: made, changed, loaded anew by an operator's word, and looked after by whoever happens to call."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.queries import JobQueries, PoolSnapshot
from gate.ledger import EndResult, Ledger, LedgerQueries, PoolSettings
from gate.model.errors import StoreDown
from gate.model.job import HOLDING, Job


class PoolCoordinator:
    """`defaults` are of a pool that is made live; None when this is no server."""

    def __init__(
        self, ledger: Ledger, pools: PoolRegistry, recorder: OutboxRecorder, news: Notifier, queries: JobQueries, rows: LedgerQueries,
        defaults: PoolSettings | None,
    ) -> None:  # fmt: skip
        self._ledger, self._pools = ledger, pools
        self._recorder, self._news, self._defaults = recorder, news, defaults
        self._queries, self._rows = queries, rows

    async def make(self, pool: str, values: dict[str, int | bool], reason: str | None = None) -> PoolSnapshot | None:
        """A new pool: `values`, and the defaults for the rest. None when there is one already."""
        assert self._defaults is not None
        if not await self._ledger.make_pool(pool, replace(self._defaults, **values), reason):
            return None
        await self._pools.load()
        return await self._queries.pool(pool)

    async def change(self, pool: str, values: dict[str, int | bool], reason: str | None = None) -> PoolSnapshot:
        """Changes the pool live; kept through restart and rebuild. A limit below what runs drains, nobody is killed.

        Raises PoolUnknown. Redis away after the commit: the sweep brings it there.
        """
        await self._pools.know(pool)
        changed = await self._ledger.change_pool(pool, values, reason=reason)
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).configure(changed.in_redis())
        self._news.tell_line(pool)
        return await self._queries.pool(pool)

    async def cancel_waiting(
        self, pool: str, *, session: str | None = None, user: str | None = None, reason: str | None = None,
        by: str = "operator",
    ) -> list[Job]:  # fmt: skip
        """Cancel the waiting jobs of a session or a user. A job that was granted a slot goes on.

        Args:
            by: `operator`, or `caller` where the jobs' own front end asked for it.

        Returns:
            The jobs that were cancelled.
        """
        await self._pools.know(pool)
        cancelled = []
        for job in await self._rows.waiting(pool, session, user):
            ended = await self._ledger.end(pool, job.job_id, "cancelled", by=by, reason=reason, only_queued=True)
            if ended.result is not EndResult.ENDED or ended.job is None:
                continue
            with contextlib.suppress(StoreDown):
                await self._pools.pool(pool).cancel(job.job_id)
            cancelled.append(ended.job)
        self._news.tell(pool, [job.job_id for job in cancelled])
        return cancelled

    async def rebuild(self, pool: str) -> PoolSnapshot:
        """Loads the pool into Redis anew from SQL, under a new epoch: leases, deadlines and order as they were told."""
        await self._pools.reload(pool)
        return await self._queries.pool(pool)

    async def turn(self, pool: str) -> Job | None:
        """Whoever waited first, if he was granted in this call."""
        line = await self._rows.line(pool, 1)
        await self._look_after(pool)
        head = next((one.job_id for one in line if one.granted_at is None), None)
        job = await self._queries.job(pool, head) if head is not None else None
        return job if job is not None and job.status in HOLDING else None

    async def reaped(self, pool: str) -> list[Job]:
        """Those that expired in this call."""
        live = await self._rows.live(pool)
        await self._look_after(pool)
        return [job for job in (await self._rows.jobs(list(live))).values() if job.status == "expired"]

    async def _look_after(self, pool: str) -> None:
        await self._pools.pool(pool).tick()
        await self._recorder.run(pool)
