"""An end that comes before its admission: a job that was charged and never admitted gets its charge back, exactly once."""

from __future__ import annotations

from gate.coordination.notifier import Notifier
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pricing import JobPricing
from gate.ledger import EndResult, Ledger
from gate.model.errors import AlreadyEnded
from gate.model.job import Job, Request


class EarlyEnd:
    def __init__(self, ledger: Ledger, pools: PoolRegistry, news: Notifier, pricing: JobPricing) -> None:
        self._ledger, self._pools, self._news, self._pricing = ledger, pools, news, pricing

    async def end(self, pool: str, table: str, job_id: str, outcome: str, reason: str | None, error: str | None) -> Job:
        """End a job that was never admitted, whenever its admission comes.

        Args:
            pool: Where its tool's jobs are admitted.
            table: The tool; the owner's function has to know the job in it.
            outcome: `failed` or `cancelled`.
            reason: Kept as the reason of the end.
            error: Kept as the job's error.

        Raises:
            JobUnknown: Neither gate nor the owner's function knows it, or no such function is configured.
            ToolUnknown: The owner's function prices jobs, and no section of gate.toml names the table.
            AlreadyEnded: It was admitted, or ended so before. `job` is the job, which may still live.
            StoreDown: SQL or the owner's function does not answer.
        """
        await self._pools.know(pool)
        if not self._pricing.is_priced(table):
            raise self._pricing.unpriced(table)
        request = await self._pricing.complete(Request(job_id, tool=table))
        ended = await self._ledger.end_unadmitted(pool, request, outcome, by="caller", reason=reason, error=error)
        assert ended.job is not None
        if ended.result is EndResult.ALREADY:
            raise AlreadyEnded(f"this job is {ended.job.status} already", ended.job)
        self._news.tell(pool, [job_id])
        return ended.job
