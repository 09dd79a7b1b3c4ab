"""A job's place in Redis, brought in line with what SQL says of the job: taken back, seated by its ticket, or restored."""

from __future__ import annotations

import contextlib

from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import GrantReturn
from gate.model.errors import StoreDown
from gate.model.job import Job
from gate.slots import AcquireReply, AcquireResult


class Places:
    def __init__(self, pools: PoolRegistry, recorder: OutboxRecorder) -> None:
        self._pools, self._recorder = pools, recorder

    async def undo(self, pool: str, job_id: str, decision: AcquireReply, job: Job | None = None) -> None:
        """Takes back what this call took and SQL does not want; never what another call stands on. `job`: as SQL has it."""
        never_here = job is not None and (job.ended or job.pool != pool)
        with contextlib.suppress(StoreDown):  # then the lease runs out by itself, or the sweep finds it
            # guard: undo-a-foreign-job
            if never_here:  # no other call stands on it either: each undo would be left to the other
                await self._pools.pool(pool).cancel(job_id)
            elif not (decision.known or decision.result is AcquireResult.UNRECORDED):
                await self._pools.pool(pool).undo(job_id, decision.ticket)

    async def seat(self, pool: str, job: Job, decision: AcquireReply) -> None:
        """SQL has the job under an earlier ticket than Redis gives it now: its place was lost, or its first commit came through
        after its caller was told that it had not. It stands where that ticket belongs.
        """
        await self._pools.pool(pool).cancel(job.job_id, decision.ticket)
        await self._recorder.give_back(pool, GrantReturn(job, job.fence, "lost"))

    async def restore(self, pool: str, job: Job) -> None:
        """SQL has the job as running and Redis has lost its lease: it is put back as it was."""
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).restore(job)
