"""Ends of jobs that were never admitted. A job that was charged and not admitted gets its charge back, exactly once."""

from __future__ import annotations

from gate.coordination.notifier import Notifier
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pricing import JobPricing
from gate.ledger import EndResult, Ledger
from gate.model.errors import AlreadyEnded
from gate.model.job import Job, Request
from gate.model.messages import Outcome


class EarlyEnd:
    """Ends jobs that were never admitted."""

    def __init__(self, ledger: Ledger, pools: PoolRegistry, news: Notifier, pricing: JobPricing) -> None:
        self._ledger, self._pools, self._news, self._pricing = ledger, pools, news, pricing

    async def end(self, pool: str, table: str, job_id: str, outcome: Outcome, reason: str | None, error: str | None) -> Job:
        """End a job that was never admitted. An admission that comes later finds the job ended.

        Args:
            pool: Name of the pool that admits jobs of the tool.
            table: Table of the tool. The owner's function has to find the job in it.
            job_id: The job.
            outcome: `failed` or `cancelled`.
            reason: The reason of the end in the history; None for none.
            error: The job's error, for people; None for none.

        Raises:
            PoolUnknown: There is no such pool.
            JobUnknown: The owner's function does not know the job, or no such function is configured.
            ToolUnknown: The owner's function prices jobs, and no section of gate.toml names the table.
            AlreadyEnded: The job was admitted, or has ended before. Its `job` may still be live.
            StoreDown: SQL or the owner's function does not answer.
        """
        await self._pools.know(pool)
        if not self._pricing.is_priced(table):
            raise self._pricing.unpriced(table)
        request = await self._pricing.complete(Request(job_id, tool=table))
        ended = await self._ledger.end_unadmitted(pool, request, outcome, by="caller", reason=reason, error=error)
        assert ended.job is not None
        if ended.result is EndResult.ALREADY:
            raise AlreadyEnded.of(ended.job)
        self._news.tell(pool, [job_id])
        return ended.job
