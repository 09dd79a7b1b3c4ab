"""The protocol that each job follows, and the order in which Redis and SQL take part in it.

**Redis decides who may run now. SQL decides how each job ended and what is refunded.** Neither store decides for the other.
gate tells a caller only what SQL has committed.

# Terms

A *lease* is a slot that a holder has until a deadline. Each grant of a slot makes a new lease, with two marks:

- `lease_id` is random. The holder shows it in each call about its job.
- `fence` is a number that only grows. By the fence gate tells a newer grant from an older one.

If the holder does not renew before the deadline, the lease is lost, even if the holder does not know this yet. The slot goes
to the next waiter, the job is `expired`, and its credits are refunded.

# States

    acquire, slot free, empty queue ────────────────────────────► running ─renew─► running
    acquire, else ─► queued ─► granted (slot held, not started) ─claim─► running
    granted, running ─refused─► queued, at its place by ticket, no refund
    running ─failed by its provider, with a try left─► queued, at its place by ticket, no refund
    queued, granted, running ─► completed (no refund) | failed | cancelled | expired (refund, once)

# Failures

- *A holder dies.* No renewal comes. The next script of any kind reaps the lease and writes the expiry to the outbox. The
  recorder copies the expiry to SQL, and the refund is part of the same transaction.
- *A caller dies, or repeats its call.* A repeat with the same job_id gets the same answer. Nothing is taken or charged twice.
- *gate dies between Redis and SQL.* No caller was told of the decision, because SQL does not have it. A repeat of the call
  records it, or the reconciler frees the slot, or the lease runs out.
- *Redis loses its data.* Scripts answer `cold`. gate then loads the pool from SQL under a new epoch, with every lease, every
  place and every deadline that a caller was told.
- *SQL is away.* gate answers 503. It tells callers nothing new, grants nothing and reaps nothing. A slot that the call has
  just taken goes back, unless another call relies on it.
- *gate or a store was away.* Holders could not renew in that time. A lease whose deadline passed then gets the claim time as
  grace.
- *An operator edits Redis by hand.* The reconciler repairs each difference that two sweeps in a row have found. It logs each
  repair.

# Order of the steps

The order on each path is fixed, so that a crash between two steps loses nothing that a caller was told:

- Admission: Redis decides, SQL records, then gate answers.
- End: SQL records the outcome and the refund, Redis frees the slot, then gate answers.
- Claim or renewal: Redis extends a lease that is still live, SQL records the new deadline, then gate answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import JsonValue

from gate.coordination.capacity import CapacityCoordinator
from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pool_slots import PoolSlots
from gate.coordination.queries import JobQueries
from gate.ledger import BindResult, CallbackResult, Change, EndResult, ExtensionResult, Ledger, RefuseResult
from gate.model.account import Accounts
from gate.model.errors import AlreadyEnded, Invalid, JobUnknown, LeaseLost, NoTask, StartedByGate, StoreDown, TaskTaken
from gate.model.job import Job, RequeueReason, is_over
from gate.model.messages import Outcome, ProviderReport, RelayedPayload, Release, StartReply
from gate.model.tool import Tools
from gate.providers.page import without_key
from gate.slots import ExtendReply, ExtendResult
from gate.telemetry import counters

T = TypeVar("T")
TRIES = 5
"""Attempts of one call before it answers 503. Each further attempt needs one more rare event, such as a change of epoch."""


ANSWER_LOOK_S = 0.05
"""Pause (s) between two looks for the answer to a question that a caller waits for."""


class JobCoordinator:
    """Runs and ends jobs that are admitted."""

    def __init__(
        self, ledger: Ledger, pools: PoolRegistry, recorder: OutboxRecorder, news: Notifier, queries: JobQueries,
        accounts: Accounts, capacity: CapacityCoordinator, tools: Tools,
    ) -> None:  # fmt: skip
        self._tools = tools
        self._ledger, self._pools, self._recorder = ledger, pools, recorder
        self._news, self._queries, self._accounts, self._capacity = news, queries, accounts, capacity

    def without_keys(self, value: T) -> T:
        """Cut the keys of all accounts out of a text or JSON that gate is to keep. A provider, or a tool, may echo them."""
        for account in self._accounts if value is not None else ():
            value = without_key(value, account.key)  # guard: key-cut-out-of-what-is-kept
        return value

    # ---- while it runs -----------------------------------------------------------------------------------------

    async def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """Start a granted job: it runs, and has a full lease from now on. It is `replayed` if it ran before.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: The lease of its grant.

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
        """Extend a lease.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: The lease.
            lease_ms: Length (ms) from now; None for the job's own lease length.

        Raises:
            JobUnknown, LeaseLost, AlreadyEnded, StartedByGate, StoreDown: As for `claim`.
        """
        job, _ = await self._extend(pool, job_id, lease_id, lambda slots: slots.renew(job_id, lease_id, lease_ms))
        return job

    async def bind(
        self, pool: str, job_id: str, provider: str, task_id: str, lease_id: str | None = None, account: str | None = None
    ) -> Job:
        """Record the provider's task of a lease. A granted job is claimed by this. The task of a job that has ended is stopped.

        Args:
            pool: Name of the pool.
            job_id: The job.
            provider: Name of the provider.
            task_id: The provider's name of the task.
            lease_id: The lease; None for the job's current one.
            account: Name of the account on which the task runs; None for the one that was chosen with the grant.

        Returns:
            The job. It has ended already if the provider's report came before this call.

        Raises:
            Invalid: The pool has no such account of the provider.
            TaskTaken: The task belongs to another job, or to another lease of this one.
            JobUnknown, LeaseLost, AlreadyEnded, StartedByGate, StoreDown: As for `claim`.
        """
        self._check_account(pool, provider, account)
        job = await self._queries.job(pool, job_id)
        if job.status == "queued":
            await self._recorder.run(pool)  # without this a grant that is still in the outbox would count as no grant
            job = await self._queries.job(pool, job_id)
        lease_id = lease_id or job.lease_id or ""
        if job.status == "granted":
            with contextlib.suppress(LeaseLost, AlreadyEnded):  # the binding finds that too, and keeps the task
                await self.claim(pool, job_id, lease_id)
        bound = await self._ledger.bind(
            pool, job_id, provider, task_id, lease_id, account, accounts=self._accounts, tools=self._tools
        )
        if bound.result is BindResult.TAKEN:
            raise TaskTaken(f"task {task_id!r} of {provider} is another job, or another lease of this one", bound.job)
        if bound.result is BindResult.LOST:
            self._news.tell(pool, [job_id])  # the stop of its task may be due
            raise await self._why_lost(pool, job_id, lease_id)
        assert bound.job is not None
        if bound.result is BindResult.ENDED:
            await self._free(pool, job_id, bound.job.lease_id)
        if bound.result is BindResult.RETRIED:
            await self._try_again(bound.job)
        return bound.job

    def _check_account(self, pool: str, provider: str, account: str | None) -> None:
        known = self._accounts.get(provider, account)
        if account is not None and (known is None or known.pool != pool):
            names = [one.name for one in self._accounts if (one.provider, one.pool) == (provider, pool)]
            has = f"has {', '.join(names)}" if names else "has none"
            named = self.without_keys(account)
            raise Invalid("account", f"{named!r} is no account of {provider} in pool {pool!r}, which {has}")

    async def start_late(self, pool: str, job_id: str, lease_id: str, started: StartReply) -> None:
        """Record the answer to a start call whose lease is over. Its task is stopped; without one the slot drains no longer.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        started = dataclasses.replace(started, accounts=self._accounts)
        change = await self._ledger.start_late(pool, job_id, lease_id, started, self._tools)
        if change.freed is not None:
            with contextlib.suppress(StoreDown):  # the deadline of the drain frees the slot
                await self._pools.pool(pool).drained(job_id, change.freed)
        self._news.tell(pool, [job_id])

    async def started(self, pool: str, job_id: str, lease_id: str, started: StartReply) -> Job:
        """Record a tool's answer that it has started the job of this grant.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: The lease of its grant.
            started: The tool's answer.

        Raises:
            JobUnknown, LeaseLost, AlreadyEnded, StoreDown: As for `claim`.
        """
        started = dataclasses.replace(started, accounts=self._accounts)
        job, _ = await self._extend(pool, job_id, lease_id, lambda slots: slots.claim(job_id, lease_id, True), started)
        if job.ended:
            await self._free(pool, job_id, job.lease_id)
        elif job.status == "queued":  # guard: try-again-after-a-failure-before-the-answer
            await self._try_again(job)
        return job

    async def hold(self, pool: str, job_id: str, lease_id: str) -> float:
        """Extend the grant of a job whose start call is under way. The job is not claimed by this.

        Returns:
            Time (s) until the grant runs out.

        Raises:
            JobUnknown, LeaseLost, AlreadyEnded, StoreDown: As for `claim`.
        """
        _, held = await self._extend(pool, job_id, lease_id, lambda slots: slots.hold(job_id, lease_id), claims=False)
        return (held.due - held.now_ms) / 1000

    async def _extend(
        self, pool: str, job_id: str, lease_id: str, script: Callable[[PoolSlots], Awaitable[ExtendReply]],
        started: StartReply | None = None, claims: bool = True,
    ) -> tuple[Job, ExtendReply]:  # fmt: skip
        """Extend the lease in Redis, record its deadline in SQL, then answer."""
        slots = self._pools.pool(pool)
        repeats: bool | None = None  # by the first try that was recorded: a later one repeats that
        for _ in range(TRIES):
            reply = await script(slots)
            if reply.result is ExtendResult.LOST:
                raise await self._why_lost(pool, job_id, lease_id)
            if reply.result is ExtendResult.BY_GATE:
                job = await self._queries.job(pool, job_id)
                raise StartedByGate("gate starts this job by a call to its tool, so no caller may claim it", job)
            recorded = await self._ledger.extend(  # guard: extension-in-sql-before-the-answer
                pool, job_id, lease_id, epoch=reply.epoch, due=reply.due, at=reply.now_ms, good_until=reply.good_until,
                started=started, claims=claims, hard=reply.hard, tools=self._tools,
            )  # fmt: skip
            if recorded.result == ExtensionResult.EXTENDED:
                assert recorded.job is not None
                repeats = recorded.repeats if repeats is None else repeats
                self._news.tell(pool, [job_id])
                if started is None and is_over(reply.good_until):  # guard: extension-still-in-time
                    continue  # this process was paused after the commit, so the new lease may be over already
                return recorded.job.as_answer(repeats), reply
            if recorded.result is ExtensionResult.STALE:
                self._pools.outdated(pool, reply.epoch)
            elif recorded.job is not None and recorded.job.status == "queued":
                await self._recorder.run(pool)  # the grant is still in the outbox: record it, then try again
            else:
                raise await self._why_lost(pool, job_id, lease_id)
        raise StoreDown("redis", "the stores kept moving; come again")

    async def _why_lost(self, pool: str, job_id: str, lease_id: str) -> JobUnknown | LeaseLost | AlreadyEnded:
        await self._recorder.run(pool)  # an expiry may still be in the outbox; SQL must have it before it is asked
        job = await self._queries.job(pool, job_id)
        if job.ended and job.status != "expired" and job.lease_id == lease_id:
            return AlreadyEnded.of(job)
        return LeaseLost("this lease is not, or no longer, a lease of this job", await self._queries.placed_if_seen(job))

    # ---- out ---------------------------------------------------------------------------------------------------

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: Release, error: str | None = None, output: JsonValue = None,
        by: str = "holder",
    ) -> Job:  # fmt: skip
        """End a job by its holder, and free its slot. A repeat is answered as the first call was.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: Its lease.
            outcome: `completed`, `failed` or `cancelled` end the job. `refused` (by the provider) and `tool_down` (by gate)
                send it back to its place in the queue. After `refused` the pool cools down, after `tool_down` only the tool.
            error: The job's error, for people.
            output: The job's output.
            by: Author of the end in the history.

        Raises:
            JobUnknown: The pool has no such job.
            LeaseLost: That lease is not, or no longer, a lease of the job. A late outcome is kept.
            AlreadyEnded: The job has another end.
            StoreDown: SQL does not answer.
        """
        await self._pools.know(pool)
        if outcome == "refused" or outcome == "tool_down":  # two comparisons, because mypy narrows no `in`
            return await self.give_back(pool, job_id, lease_id, outcome, error, by=by)
        drain_ms = 0
        error, output = self.without_keys(error), self.without_keys(output)
        # guard: end-in-sql-before-redis
        ended = await self._ledger.end(
            pool, job_id, outcome, by=by, lease_id=lease_id, error=error, output=output, accounts=self._accounts,
            tools=self._tools,
        )  # fmt: skip
        job = await self._ended(pool, ended)
        if job.account is not None:
            drain_ms = self._accounts.drain_ms(job)
        await self._free(pool, job_id, lease_id, drain_ms)  # guard: end-in-sql-before-redis: then
        return job

    async def hear(self, pool: str, provider: str, report: ProviderReport, raw: str) -> CallbackResult:
        """Apply a provider's report once, and keep its body unchanged.

        Args:
            pool: Name of the pool.
            provider: Name of the provider.
            report: The meaning of the callback.
            raw: Body of the callback.

        Returns:
            What the report did.

        Raises:
            PoolUnknown: There is no such pool.
            StoreDown: SQL does not answer.
        """
        change = await self._ledger.hear(pool, provider, report, raw, self._tools)
        if change.result is CallbackResult.RETRIED and change.job is not None:
            await self._try_again(change.job)  # guard: retry-leaves-its-slot
        if change.result is CallbackResult.ENDED and change.job is not None:
            await self._free(pool, change.job.job_id, change.job.lease_id)
        if change.freed is not None and change.job is not None:
            with contextlib.suppress(StoreDown):  # the deadline of the drain frees the slot
                await self._pools.pool(pool).drained(change.job.job_id, change.freed)
            self._news.tell(pool, [change.job.job_id])
        return change.result

    async def _try_again(self, job: Job) -> None:
        """Move a job in Redis from its slot to its place, after SQL has recorded that it is started again."""
        counters.retries[job.pool] += 1
        with contextlib.suppress(StoreDown):  # the reconciler puts it back to its place
            await self._pools.pool(job.pool).requeue(job, job.fence, "lost")
        self._news.tell(job.pool, [job.job_id])

    async def ask(self, pool: str, job_id: str) -> Job:
        """Ask the provider about the task of a job now. The answer comes later, and changes the job as a callback does.

        Raises:
            JobUnknown: The pool has no such job.
            NoTask: gate asks no provider about it.
            StoreDown: SQL does not answer.
        """
        job = await self._queries.job(pool, job_id)
        known = self._accounts.get(job.provider, job.account) is not None
        if not known or await self._ledger.ask(pool, job_id) is None:
            raise NoTask("gate asks no provider about this job: it has no task now, or its provider has no account here", job)
        self._news.tell(pool, [job_id])
        return job

    async def ask_and_wait(self, job: Job, within_s: float) -> Job:
        """Ask the provider about the task of a job, and wait for the answer.

        Args:
            job: The job.
            within_s: Longest wait (s).

        Returns:
            The job after the answer, or as it is when none has come in time.

        Raises:
            NoTask: gate asks no provider about it.
            StoreDown: SQL does not answer.
        """
        await self.ask(job.pool, job.job_id)
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            await asyncio.sleep(ANSWER_LOOK_S)
            asked = await self._queries.asked(job)
            if asked is None or asked.is_answered:
                break
        return await self._queries.job(job.pool, job.job_id)

    async def keep_payload(self, job: Job, relayed: RelayedPayload) -> None:
        """Keep what a caller passed on of its provider's words with the callbacks of a job. It ends nothing.

        Raises:
            StoreDown: SQL does not answer.
        """
        await self._ledger.keep_payload(job, relayed)

    async def _free(self, pool: str, job_id: str, lease_id: str | None, drain_ms: int = 0) -> None:
        """Free the slot of a lease whose job has ended in SQL. A task that still runs at the provider keeps it for `drain_ms`."""
        slots = self._pools.pool(pool)
        with contextlib.suppress(StoreDown):  # the end is recorded; the slot is free at its deadline at the latest
            if drain_ms:
                await slots.drain(job_id, lease_id or "", drain_ms)  # guard: drain-until-confirmed
            else:
                await slots.release(job_id, lease_id or "")
        self._news.tell(pool, [job_id])

    async def cancel(
        self, pool: str, job_id: str, reason: str | None = None, outcome: Outcome = "cancelled", *, by: str = "operator",
        error: str | None = None,
    ) -> Job:  # fmt: skip
        """End a live job without its lease, for an operator or an application.

        Args:
            pool: Name of the pool.
            job_id: The job.
            reason: The reason of the end in the history; None for none.
            outcome: `cancelled` or `failed`.
            by: `operator`, or `caller` where the job's own front end asked for it.
            error: What went wrong; it is kept with the job.

        Raises:
            JobUnknown: The pool has no such job.
            AlreadyEnded: The job has ended.
            StoreDown: SQL does not answer.
        """
        await self._pools.know(pool)
        ended = await self._ledger.end(
            pool, job_id, outcome, by=by, reason=reason, error=error, accounts=self._accounts, tools=self._tools
        )
        job = await self._ended(pool, ended)
        if drain_ms := self._accounts.drain_ms(job):  # guard: end-again-leaves-a-draining-slot
            await self._free(pool, job_id, job.lease_id, drain_ms)
            return job
        with contextlib.suppress(StoreDown):
            await self._pools.pool(pool).cancel(job_id)
        self._news.tell(pool, [job_id])
        return job

    async def give_back(
        self, pool: str, job_id: str, lease_id: str, why: RequeueReason, error: str | None = None, *, by: str,
        at_least_s: float = 0, account_down: bool = False,
    ) -> Job:  # fmt: skip
        """Send a job from its slot back to its place in the queue.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: Its lease.
            why: `refused`: the pool cools down. `tool_down`: only its tool does.
            error: The reason, for people.
            by: Author of the refusal in the history.
            at_least_s: Shortest cool-down (s), which the tool asked for.
            account_down: The provider refuses the job's account, not the job.

        Raises:
            JobUnknown, LeaseLost, AlreadyEnded, StoreDown: As for `release`.
        """
        error = self.without_keys(error)
        refused = await self._ledger.refuse(pool, job_id, lease_id, by, error, why == "tool_down", account_down)
        job = await self._ended(pool, refused)
        if refused.result in (RefuseResult.REFUSED, RefuseResult.ACCOUNT_REFUSED):
            elsewhere = refused.result is RefuseResult.ACCOUNT_REFUSED
            with contextlib.suppress(StoreDown):
                if job.pool in self._accounts.pools:
                    await self._capacity.settle(pool)  # first: the slot must not go to the account that has just refused
                await self._pools.pool(pool).requeue(job, job.fence, "lost" if elsewhere else why, round(at_least_s * 1000))
            self._news.tell(pool, [job_id])
        return await self._queries.placed(job)

    async def _ended(self, pool: str, change: Change[EndResult] | Change[RefuseResult]) -> Job:
        """Return the job, or raise why its end was not recorded."""
        job = change.job
        if job is None:
            raise JobUnknown(f"there is no such job in pool {pool!r}")
        if change.result in (EndResult.LOST, RefuseResult.LOST):
            placed = await self._queries.placed_if_seen(job)
            raise LeaseLost("this lease is not, or no longer, a lease of this job", placed)
        if change.result in (EndResult.ALREADY, RefuseResult.ALREADY):
            raise AlreadyEnded.of(job)
        return job
