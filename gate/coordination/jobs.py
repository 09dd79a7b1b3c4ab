"""Where the two truths meet.

**Redis decides who may run now. SQL decides how each job ended and what is refunded.** Neither decides for the other, and
nobody is told anything that is not yet in SQL.

A *lease* is a slot held until a deadline. It has a random `lease_id`, which its holder shows, and a `fence`, which only
grows, so that gate can tell a newer grant from an older one. Whoever does not renew in time has lost it, whether he knows
or not: the slot goes to the next, the job is `expired`, the credits go back.

    acquire, slot free, nobody waits ───────────────────────────► running ─renew─► running
    acquire, else ─► queued ─► granted (slot held, not started) ─claim─► running
    granted, running ─refused─► queued, at its place by ticket, no refund
    queued, granted, running ─► completed (no refund) | failed | cancelled | expired (refund, once)

What each failure does:

- *A holder dies.* Nobody renews; the next script of any kind reaps the lease; the outbox says so; the recorder refunds.
- *A caller dies or asks twice.* The same job_id gets the same answer; nothing is taken or charged twice.
- *gate dies between Redis and SQL.* What SQL has not seen was told to nobody. A repeat of the call records it, or the sweep
  frees it, or its lease runs out.
- *Redis loses everything.* Scripts answer `cold`; the pool is loaded from SQL under a new epoch, with every lease, every
  place and every deadline that was told.
- *SQL is away.* Nobody is told anything new, granted or reaped: 503, and the slot just taken goes back, unless another call
  stands on it.
- *gate or a store was away.* Deadlines that passed meanwhile get the claim time of grace: their holders could not renew.
- *Somebody edits Redis by hand.* The sweep sees it twice, mends it, and names it in the log.

So the order on each path is fixed. In: Redis decides, SQL writes, then the answer. Out: SQL ends and refunds, Redis frees
the slot, then the answer. A claim or renewal: Redis extends what still lives, SQL writes the deadline, then the answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable

from pydantic import JsonValue

from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry, PoolSlots
from gate.coordination.queries import JobQueries
from gate.ledger import BindResult, CallbackResult, Change, EndResult, ExtensionResult, Ledger, RefuseResult
from gate.model.errors import AlreadyEnded, JobUnknown, LeaseLost, StartedByGate, StoreDown, TaskTaken
from gate.model.job import Job
from gate.model.messages import ProviderReport, StartReply
from gate.slots import ExtendReply, ExtendResult

TRIES = 5
"""How often a path starts again when the stores moved under it. Each turn needs another event of the rarest kind."""


class JobCoordinator:
    """How an admitted job runs and ends."""

    def __init__(
        self, ledger: Ledger, pools: PoolRegistry, recorder: OutboxRecorder, news: Notifier, queries: JobQueries
    ) -> None:
        self._ledger, self._pools, self._recorder = ledger, pools, recorder
        self._news, self._queries = news, queries

    # ---- while it runs -----------------------------------------------------------------------------------------

    async def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """Say that the holder of a grant has started: the job runs, and has a full lease from now on.

        Raises:
            JobUnknown: The pool has no such job.
            LeaseLost: That lease is not, or no longer, a lease of the job.
            AlreadyEnded: The job has ended.
            StartedByGate: gate starts this job, so no caller claims it.
            StoreDown: A store does not answer.
        """
        job, _ = await self._extend(pool, job_id, lease_id, lambda slots: slots.claim(job_id, lease_id))
        return job

    async def renew(self, pool: str, job_id: str, lease_id: str, lease_ms: int | None = None) -> Job:
        """Extend a lease by `lease_ms` from now (ms); None for the job's own length. Raises what `claim` raises."""
        job, _ = await self._extend(pool, job_id, lease_id, lambda slots: slots.renew(job_id, lease_id, lease_ms))
        return job

    async def bind(self, pool: str, job_id: str, provider: str, task_id: str, lease_id: str | None = None) -> Job:
        """Which provider task the job's lease is; it claims too. Without `lease_id` the lease it has now.

        Raises what `claim` raises, and TaskTaken (the task is another job). The job has ended when its provider was faster.
        """
        job = await self._queries.job(pool, job_id)
        if job.status == "queued":
            await self._recorder.run(pool)  # its grant may be in the outbox still
            job = await self._queries.job(pool, job_id)
        lease_id = lease_id or job.lease_id or ""
        if job.status == "granted":
            await self.claim(pool, job_id, lease_id)
        bound = await self._ledger.bind(pool, job_id, provider, task_id, lease_id)
        if bound.result is BindResult.TAKEN:
            raise TaskTaken(f"task {task_id!r} of {provider} is another job, or another lease of this one", bound.job)
        if bound.result is BindResult.LOST:
            raise await self._why_lost(pool, job_id, lease_id)
        assert bound.job is not None
        if bound.result is BindResult.ENDED:
            await self._free(pool, job_id, bound.job.lease_id)
        return bound.job

    async def bind_late(self, pool: str, job_id: str, lease_id: str, provider: str, task_id: str) -> None:
        """Bind the task of a start call that was answered after its job had ended: what the provider says of it is kept."""
        await self._ledger.bind(pool, job_id, provider, task_id, lease_id, or_ended=True)

    async def started(self, pool: str, job_id: str, lease_id: str, started: StartReply) -> Job:
        """Record a tool's answer that it has started the job of this grant. Raises what `claim` raises."""
        job, _ = await self._extend(pool, job_id, lease_id, lambda slots: slots.claim(job_id, lease_id, True), started)
        if job.ended:
            await self._free(pool, job.job_id, job.lease_id)
        return job

    async def hold(self, pool: str, job_id: str, lease_id: str) -> float:
        """Keep the grant whose start call is under way; nothing is claimed.

        Returns:
            Seconds until its claim time is over.

        Raises:
            What `claim` raises.
        """
        _, held = await self._extend(pool, job_id, lease_id, lambda slots: slots.hold(job_id, lease_id), claims=False)
        return (held.due - held.now_ms) / 1000

    async def _extend(
        self, pool: str, job_id: str, lease_id: str, script: Callable[[PoolSlots], Awaitable[ExtendReply]],
        started: StartReply | None = None, claims: bool = True,
    ) -> tuple[Job, ExtendReply]:  # fmt: skip
        """Extend the lease in Redis, record its deadline in SQL, then answer."""
        slots = self._pools.pool(pool)
        for _ in range(TRIES):
            reply = await script(slots)
            if reply.result is ExtendResult.LOST:
                raise await self._why_lost(pool, job_id, lease_id)
            if reply.result is ExtendResult.BY_GATE:
                job = await self._queries.job(pool, job_id)
                raise StartedByGate("gate starts this job at its tool; nobody else claims it", job)
            recorded = await self._ledger.extend(  # guard: extension-in-sql-before-the-answer
                pool, job_id, lease_id, epoch=reply.epoch, due=reply.due, at=reply.now_ms, good_until=reply.good_until,
                started=started, claims=claims,
            )  # fmt: skip
            if recorded.result == ExtensionResult.EXTENDED:
                assert recorded.job is not None
                self._news.tell(pool, [job_id])
                if started is None and _over(reply.good_until):  # guard: extension-still-in-time
                    continue  # as in _answer
                return recorded.job, reply
            if recorded.result is ExtensionResult.STALE:
                self._pools.outdated(pool, reply.epoch)
            elif recorded.job is not None and recorded.job.status == "queued":
                await self._recorder.run(pool)  # the grant itself is in the outbox still
            else:
                raise await self._why_lost(pool, job_id, lease_id)
        raise StoreDown("redis", "the stores kept moving; come again")

    async def _why_lost(self, pool: str, job_id: str, lease_id: str) -> JobUnknown | LeaseLost | AlreadyEnded:
        await self._recorder.run(pool)  # the expiry, if it was one
        job = await self._queries.job(pool, job_id)
        if job.ended and job.status != "expired" and job.lease_id == lease_id:
            return _already_ended(job)
        return LeaseLost("this lease is not, or no longer, a lease of this job", await self._queries.placed_if_seen(job))

    # ---- out ---------------------------------------------------------------------------------------------------

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: str, error: str | None = None, output: JsonValue = None,
        by: str = "holder",
    ) -> Job:  # fmt: skip
        """The holder gives its slot back, with `completed`, `failed`, `cancelled`, or `refused` by the provider. `tool_down`, by gate
        itself, is a refusal after which only the tool cools down.

        Raises JobUnknown, LeaseLost (a late outcome is kept), AlreadyEnded. A repeat answers as the first did.
        """
        await self._pools.know(pool)
        if outcome in ("refused", "tool_down"):
            return await self._refuse(pool, job_id, lease_id, by, error, outcome)
        # guard: end-in-sql-before-redis
        ended = await self._ledger.end(pool, job_id, outcome, by=by, lease_id=lease_id, error=error, output=output)
        job = await self._ended(pool, ended)
        await self._free(pool, job_id, lease_id)  # guard: end-in-sql-before-redis: then
        return job

    async def hear(self, pool: str, provider: str, report: ProviderReport, raw: str) -> CallbackResult:
        """Apply a provider's report once, and keep its body as it came.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        heard = await self._ledger.hear(pool, provider, report, raw)
        if heard.result is CallbackResult.ENDED and heard.job is not None:
            await self._free(pool, heard.job.job_id, heard.job.lease_id)
        return heard.result

    async def keep_payload(
        self, job: Job, provider: str, task_id: str | None, outcome: str, error: str | None, payload: str
    ) -> None:
        """Keep what a caller passed on of its provider's words with the callbacks of a job. It ends nothing.

        Raises:
            StoreDown: SQL does not answer.
        """
        await self._ledger.keep_payload(job, provider, task_id or job.task_id, outcome, error, payload)

    async def _free(self, pool: str, job_id: str, lease_id: str | None) -> None:
        """Free the slot of a lease whose job SQL has ended."""
        with contextlib.suppress(StoreDown):  # its own deadline frees it at the latest
            await self._pools.pool(pool).release(job_id, lease_id or "")
        self._news.tell(pool, [job_id])

    async def cancel(
        self, pool: str, job_id: str, reason: str | None = None, outcome: str = "cancelled", *, by: str = "operator",
        error: str | None = None,
    ) -> Job:  # fmt: skip
        """End any job that has not ended, without its lease.

        Args:
            by: `operator`, or `caller` where the job's own front end asked for it.
            error: What went wrong; it is kept with the job.

        Raises:
            JobUnknown: The pool has no such job.
            AlreadyEnded: The job has ended.
            StoreDown: SQL does not answer.
        """
        await self._pools.know(pool)
        job = await self._ended(pool, await self._ledger.end(pool, job_id, outcome, by=by, reason=reason, error=error))
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).cancel(job_id)
        self._news.tell(pool, [job_id])
        return job

    async def _refuse(self, pool: str, job_id: str, lease_id: str, by: str, error: str | None, why: str) -> Job:
        refused = await self._ledger.refuse(pool, job_id, lease_id, by, error, why == "tool_down")
        job = await self._ended(pool, refused)
        if refused.result is RefuseResult.REFUSED:
            with contextlib.suppress(StoreDown):
                await self._pools.pool(pool).requeue(job, job.fence, why)
            self._news.tell(pool, [job_id])
        return await self._queries.placed(job)

    async def _ended(self, pool: str, change: Change[EndResult] | Change[RefuseResult]) -> Job:
        """The job, or why its end was not recorded."""
        job = change.job
        if job is None:
            raise JobUnknown(f"there is no such job in pool {pool!r}")
        if change.result in (EndResult.LOST, RefuseResult.LOST):
            placed = await self._queries.placed_if_seen(job)
            raise LeaseLost("this lease is not, or no longer, a lease of this job", placed)
        if change.result in (EndResult.ALREADY, RefuseResult.ALREADY):
            raise _already_ended(job)
        return job


def _already_ended(job: Job | None) -> AlreadyEnded:
    assert job is not None
    return AlreadyEnded(f"this job is {job.status} already", job)


def _over(good_until: float | None) -> bool:
    return good_until is not None and time.monotonic() > good_until
