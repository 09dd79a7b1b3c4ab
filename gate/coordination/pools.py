"""Operations on a whole pool: create, change, load again, and cancel its waiters."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.queries import JobQueries, PoolSnapshot
from gate.ledger import Ledger, LedgerQueries, PoolSettings
from gate.model.errors import Invalid, PoolNotEmpty, StoreDown
from gate.model.job import HOLDING, Job

ALWAYS = "default"
"""The pool that always exists."""


CANCELS_AT_ONCE = 200
"""Waiters that are cancelled by one commit and one script. More would keep other callers of both stores waiting."""


class PoolCoordinator:
    """Creates and changes pools.

    `defaults` has the settings that the creator of a pool does not give. It is None in a process that is no server. Such a
    process creates no pools.
    """

    def __init__(
        self, ledger: Ledger, pools: PoolRegistry, recorder: OutboxRecorder, news: Notifier, queries: JobQueries, rows: LedgerQueries,
        defaults: PoolSettings | None,
    ) -> None:  # fmt: skip

        self._ledger, self._pools = ledger, pools
        self._recorder, self._news, self._defaults = recorder, news, defaults
        self._queries, self._rows = queries, rows

    async def make(self, pool: str, values: dict[str, Any], reason: str | None = None) -> PoolSnapshot | None:
        """Create a pool.

        Args:
            pool: Name of the pool.
            values: Its settings. The defaults apply to all others.
            reason: The reason in the history; None for none.

        Returns:
            The pool. None when there is one of that name already.

        Raises:
            StoreDown: A store does not answer.
        """
        assert self._defaults is not None
        await self._pools.answers(pool)  # guard: no-pool-on-a-primary-that-is-away
        if not await self._ledger.make_pool(pool, replace(self._defaults, **values), reason):
            return None
        await self._pools.load()
        return await self._queries.pool(pool)

    async def change(self, pool: str, values: dict[str, Any], reason: str | None = None) -> PoolSnapshot:
        """Change settings of a pool. They stay through a restart and a rebuild.

        A limit below the number of running jobs ends none of them. The pool grants again when enough of them have ended.

        Args:
            pool: Name of the pool.
            values: The settings to change.
            reason: The reason in the history; None for none.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer. If the change was committed before, the reconciler copies it to Redis.
        """
        await self._pools.know(pool)
        changed = await self._ledger.change_pool(pool, values, reason=reason)
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).configure(changed.in_redis())
        self._news.tell_line(pool)
        return await self._queries.pool(pool)

    async def delete(self, pool: str, reason: str | None = None) -> None:
        """Delete a pool without live jobs. Its jobs and their history stay. A pool of the same name may be made again.

        Args:
            pool: Name of the pool.
            reason: The reason in the history; None for none.

        Raises:
            Invalid: It is the pool that always exists.
            PoolUnknown: There is no such pool.
            PoolNotEmpty: It has live jobs.
            StoreDown: A store does not answer.
        """
        if pool == ALWAYS:
            raise Invalid("pool", f"the pool {ALWAYS!r} always exists and cannot be deleted")
        await self._pools.know(pool)
        await self._look_after(pool)  # what has run out ends first; and Redis has to answer, else its keys would stay
        if not await self._ledger.delete_pool(pool, reason=reason):
            raise PoolNotEmpty(f"pool {pool!r} has live jobs: cancel them, or wait until they have ended")
        with contextlib.suppress(StoreDown):  # it is deleted; its keys go when a pool of this name is loaded again
            await self._pools.remove(pool)
        self._news.tell_line(pool)

    async def cancel_waiting(
        self, pool: str, *, session: str | None = None, user: str | None = None, reason: str | None = None,
        by: str = "operator",
    ) -> list[Job]:  # fmt: skip
        """Cancel the waiters of a session or a user. Their jobs that hold slots go on.

        Args:
            pool: Name of the pool.
            session: The session; None for any.
            user: The user; None for any.
            reason: The reason of the ends in the history; None for none.
            by: `operator`, or `caller` where the jobs' own front end asked for it.

        Returns:
            The jobs that this call has cancelled.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        await self._pools.know(pool)
        waiting, cancelled = await self._rows.waiting(pool, session, user), []
        for first in range(0, len(waiting), CANCELS_AT_ONCE):
            cancelled += await self._cancel(pool, waiting[first : first + CANCELS_AT_ONCE], by, reason)
        return cancelled

    async def _cancel(self, pool: str, waiting: list[str], by: str, reason: str | None) -> list[Job]:
        """Cancel those of the jobs that wait, by one commit and one script."""
        cancelled = await self._ledger.cancel_waiting(pool, waiting, by=by, reason=reason)
        if cancelled:
            job_ids = [job.job_id for job in cancelled]
            with contextlib.suppress(StoreDown):  # the reconciler frees places that stay in Redis
                await self._pools.pool(pool).cancel(*job_ids)
            self._news.tell(pool, job_ids)
        return cancelled

    async def rebuild(self, pool: str) -> PoolSnapshot:
        """Load the pool from SQL into Redis under a new epoch. Leases, deadlines and order stay as callers were told.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        await self._pools.reload(pool)
        return await self._queries.pool(pool)

    async def turn(self, pool: str) -> Job | None:
        """Tick the pool.

        Returns:
            The first waiter, if this call has granted it a slot; None otherwise.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        line = await self._rows.line(pool, 1)
        await self._look_after(pool)
        head = next((one.job_id for one in line if one.granted_at is None), None)
        job = await self._queries.job(pool, head) if head is not None else None
        return job if job is not None and job.status in HOLDING else None

    async def reaped(self, pool: str) -> list[Job]:
        """Tick the pool.

        Returns:
            The jobs that expired in this call.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: A store does not answer.
        """
        live = await self._rows.live(pool)
        await self._look_after(pool)
        return [job for job in (await self._rows.jobs(list(live))).values() if job.status == "expired"]

    async def _look_after(self, pool: str) -> None:
        await self._pools.pool(pool).tick()
        await self._recorder.run(pool)
