"""Corrections of a job's place in Redis after SQL has decided otherwise."""

from __future__ import annotations

import contextlib

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import GrantReturn
from gate.model.account import Accounts
from gate.model.errors import StoreDown
from gate.model.job import Job
from gate.slots import AcquireReply, AcquireResult


class Places:
    """Brings the place of a job in Redis in line with its row in SQL."""

    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder, accounts: Accounts) -> None:
        self._pools, self._recorder, self._accounts = pools, recorder, accounts

    async def undo(self, pool: str, job_id: str, decision: AcquireReply, job: Job | None = None) -> None:
        """Take back the place that this call took and SQL did not record. A place that another call relies on stays.

        Args:
            pool: Name of the pool.
            job_id: The job.
            decision: The reply of Redis to this call.
            job: The job as SQL has it; None when SQL does not have it.
        """
        never_here = job is not None and (job.ended or job.pool != pool)
        with contextlib.suppress(StoreDown):  # the lease then runs out, or the reconciler frees the place
            # guard: undo-a-foreign-job
            if never_here:  # no call may rely on this place; with undo, each of two calls would leave it to the other
                assert job is not None
                await self._pools.pool(pool).leave(job, self._accounts.drain_ms(job))
            elif not (decision.known or decision.result is AcquireResult.UNRECORDED):
                await self._pools.pool(pool).undo(job_id, decision.ticket)

    async def seat(self, pool: str, job: Job, decision: AcquireReply) -> None:
        """Move a waiter to the place of the ticket that SQL has, when Redis has just given it a later ticket.

        That happens when Redis has lost the job's place. It also happens when the first commit of the job succeeded although
        its caller got an error.

        Raises:
            StoreDown: A store does not answer.
        """
        await self._pools.pool(pool).cancel(job.job_id, ticket=decision.ticket)
        await self._recorder.give_back(pool, GrantReturn(job, job.fence, "lost"))

    async def restore(self, pool: str, job: Job) -> None:
        """Put back the lease of a job that SQL has as running and Redis has lost."""
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).restore(job)
