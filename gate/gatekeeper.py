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

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from gate.admission import Admission
from gate.early_end import EarlyEnd
from gate.errors import (
    AlreadyEnded,
    JobIdReused,
    JobUnknown,
    LeaseLost,
    QueueFull,
    StartedByGate,
    StoreDown,
    TaskTaken,
    UserBusy,
)
from gate.jobs import HOLDING, Job, Request
from gate.keeper.news import News
from gate.keeper.pools import Pools
from gate.keeper.recorder import Recorder
from gate.ledger import Admitted, Ended, Ledger, Return, Started
from gate.places import Places
from gate.poolkeeper import PoolKeeper
from gate.slots import Acquired, Extended, Semaphore, entries
from gate.unread import UnreadKeeper
from gate.view import View

TRIES = 5
"""How often a path starts again when the stores moved under it. Each turn needs another event of the rarest kind."""
START_ANSWER_S = 25.0
"""How long whoever enqueued waits for the start call of a free slot."""
COMMIT_S = 0.02
"""A commit that is on its way is there after it, or a little later."""


class Gatekeeper:
    """`view` is for looking, at the same two stores; `poolkeeper` is for a pool as a whole; `early_end` for jobs not admitted,
    `unread` for callbacks that could not be read."""

    def __init__(
        self, semaphore: Semaphore, ledger: Ledger, pools: Pools, recorder: Recorder, news: News, view: View,
        admission: Admission, poolkeeper: PoolKeeper, unread: UnreadKeeper,
    ) -> None:  # fmt: skip
        self._semaphore, self._ledger, self._pools = semaphore, ledger, pools
        self._recorder, self._news, self.view = recorder, news, view
        self._admission, self.poolkeeper, self.unread = admission, poolkeeper, unread
        self._places = Places(semaphore, pools, recorder)
        self.early_end = EarlyEnd(ledger, pools, news, admission)

    # ---- in ----------------------------------------------------------------------------------------------------

    async def acquire(self, pool: str, request: Request, wait_s: float = 0, by_gate: bool = False) -> Job:
        """A slot, or a place in the queue; a queued job waits up to `wait_s` for its grant. `by_gate`: its tool's start call
        starts the job, and the wait lasts until that call was answered.

        Raises PoolUnknown, UserBusy, QueueFull, AlreadyEnded, JobIdReused, StoreDown; JobUnknown, when the owner has no such job;
        Invalid, when gate is to start it and its tool has no `start_url`. A refusal has written nothing.
        """
        end = time.monotonic() + wait_s
        request = await self._admission.complete(request, by_gate, or_refuse=True)
        if not wait_s:
            job = await self._acquire(pool, request)
        else:
            # Its grant may be on record, and be shown, before its admission is heard of here.
            with self.view.parked(
                request.job_id,  # guard: park-before-the-admission
                "queued",
            ) as changed:
                job = await self._acquire(pool, request, lambda job: self.view.until_changed(job, changed, wait_s))
        assert job is not None
        return await self.view.until_started(job, end) if by_gate else job

    async def take(self, pool: str, request: Request) -> Job | None:
        """A slot that is free now, or nothing: then it is not queued either, and a job that gate starts is not the caller's.
        Raises what `acquire` raises.
        """
        job = await self._acquire(pool, await self._admission.complete(request), or_wait=False)
        is_the_callers = (
            job is not None
            and job.status in HOLDING
            # guard: take-not-what-gate-starts
            and not job.starts
        )
        return job if is_the_callers else None

    async def enqueue(self, pool: str, request: Request) -> Job:
        """A place in the queue for a job that its tool's start call starts, now or later; one that is granted at once is
        answered when that call has been. Without an address for it, as `acquire`. Raises what that raises.
        """
        job = await self._acquire(pool, await self._admission.complete(request, by_gate=True))
        assert job is not None
        return await self.view.wait(pool, job.job_id, "granted", START_ANSWER_S) if job.starts else job

    async def _acquire(
        self, pool: str, request: Request, in_line: Callable[[Job], Awaitable[Job]] | None = None, or_wait: bool = True
    ) -> Job | None:
        """`in_line` is what becomes of a job that waits; without it, it is answered with its place."""
        for tries_left in reversed(range(TRIES)):
            epoch, decision = await self._pools.run(pool, lambda epoch: self._decide(pool, epoch, request, or_wait))
            if decision.word == "no_slot":
                return await self._only_in_sql(pool, request)
            if decision.word == "unrecorded":
                # guard: repeat-records-the-outbox
                await self._recorder.run(pool)  # else SQL says that it runs, by a lease that is over
            if decision.word == "torn":
                raise StoreDown("redis", "this job's entry is gone from Redis; it is mended within seconds")
            if decision.word in ("user_busy", "queue_full"):
                if (job := await self._refused(pool, request, decision, tries_left)) is not None:
                    return await self.view.placed(job)
                continue
            # Two calls for one job may differ in who starts it, and either may be the first in SQL: Redis has decided.
            decided = request
            if decision.word != "unrecorded" and request.starts != decision.by_gate:
                decided = request._replace(starts=decision.by_gate)
            try:
                admitted = await self._admit(pool, decided, epoch, decision, or_wait)
            # guard: undo-after-any-error
            except Exception:  # whatever kept it out of SQL, the place in Redis must not stay
                await self._places.undo(pool, request.job_id, decision)  # guard: undo-what-sql-refused
                raise
            if admitted.word == "stale":
                self._pools.outdated(pool, epoch)
                continue
            if admitted.word == "no_room":
                await self._places.undo(pool, request.job_id, decision)
                return None
            job = admitted.job
            assert job is not None
            if admitted.word in ("ended", "reused", "live"):  # guard: undo-an-unwanted-admission
                await self._places.undo(pool, request.job_id, decision, job)
            if admitted.word == "live":
                await self._places.restore(pool, job)
            if admitted.word == "reused":
                raise JobIdReused(f"job_id {request.job_id!r} is another job already", job)
            if admitted.word == "ended":
                raise AlreadyEnded(f"this job is {job.status} already", job)
            if job.status == "queued" and job.ticket != decision.ticket:
                await self._places.seat(pool, job, decision)
            if job.status == "queued":
                # guard: record-a-grant-after-its-row
                self._recorder.admitted(pool, job.job_id)  # it may have been granted before its row was there
                self._news.tell_line(pool)  # of the job itself there is nothing to tell: who asked waits here, and knows it
                job = await (in_line or self.view.placed)(job)
            elif job.tells:
                self._news.tell(pool, [job.job_id])
            if job.ended:  # guard: waiting-acquire-sees-the-end
                raise AlreadyEnded(f"this job is {job.status} already", job)
            if job.status in HOLDING and (
                decision.word == "unrecorded"
                # guard: grant-still-in-time
                or _over(decision.good_until)
            ):
                continue  # this process stood still after the commit, or SQL was slow to read: Redis has the truth
            return job
        raise StoreDown("redis", "the stores kept moving; come again")

    async def _decide(self, pool: str, epoch: int, request: Request, or_wait: bool) -> Acquired:
        facts = (request.job_id, request.user, request.tool, request.lease_ms)
        return await self._semaphore.acquire(pool, epoch, *facts, or_wait, request.starts, request.queue_ms)

    async def _admit(self, pool: str, request: Request, epoch: int, decision: Acquired, or_wait: bool) -> Admitted:
        lease = decision.lease if decision.word == "running" else None
        facts: dict[str, Any] = {
            "epoch": epoch, "ticket": decision.ticket, "at": decision.queued_at, "lease_ms": decision.lease_ms,
            "good_until": decision.good_until,
        }  # fmt: skip
        admitted = await self._ledger.admit(pool, request, lease=lease, **facts)
        if admitted.word == "no_room":
            # The expiry before this grant is in the outbox still. Record it, look again.
            await self._recorder.run(pool)  # guard: record-the-expiry-before-a-full-pool
            admitted = await self._ledger.admit(pool, request, lease=lease, **facts)
        if admitted.word == "no_room" and or_wait:
            # The limit was lowered, or the pool paused: the job waits at its place, and its grant goes back.
            admitted = await self._ledger.admit(pool, request, lease=None, **facts, given_up=lease.fence if lease else 0)
            if admitted.word == "admitted" and lease and admitted.job and admitted.job.status == "queued":
                await self._recorder.give_back(pool, Return(admitted.job, lease.fence))
        return admitted

    async def _refused(self, pool: str, request: Request, decision: Acquired, tries_left: int) -> Job | None:
        """Why nobody is let in; or the job itself, when it is in already and only Redis has forgotten. None: look again."""
        job = await self._only_in_sql(pool, request)
        if job is not None:
            return job
        if decision.word == "queue_full":
            raise QueueFull("as many jobs wait as may wait; come again later")
        active = await self.view.reading.jobs(decision.active)
        ended = [job for job in active.values() if job.ended]
        for job in ended:
            # Ended in SQL, and its release never reached Redis: nobody is busy because of it.
            await self._pools.run(pool, lambda epoch, job=job: self._semaphore.cancel(pool, epoch, job.job_id))
        if ended:  # guard: busy-by-live-jobs-only
            return None
        first = next((job_id for job_id in decision.active if job_id in active), None)
        if first is None and tries_left:
            await asyncio.sleep(COMMIT_S)  # nobody is told of a job that is not in SQL yet
            return None
        raise UserBusy(
            f"user {request.user!r} has as many live jobs as allowed", first or decision.active[0], active.get(first or "")
        )

    async def _only_in_sql(self, pool: str, request: Request) -> Job | None:
        """The job, when SQL has it and Redis has forgotten it. Raises JobIdReused, AlreadyEnded."""
        job = await self.view.reading.job(request.job_id)
        if job is not None and (job.pool != pool or not request.same_content(job)):
            raise JobIdReused(f"job_id {request.job_id!r} is another job already", job)
        if job is not None and job.ended:
            raise AlreadyEnded(f"this job is {job.status} already", job)
        return job

    # ---- while it runs -----------------------------------------------------------------------------------------

    async def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """The holder of a grant has started: running, a full lease from now.

        Raises JobUnknown, LeaseLost, AlreadyEnded; StartedByGate when that is not for the caller to say.
        """
        return await self._extend(pool, job_id, lease_id, lambda epoch: self._semaphore.claim(pool, epoch, job_id, lease_id))

    async def renew(self, pool: str, job_id: str, lease_id: str, lease_ms: int | None = None) -> Job:
        """The heartbeat. Raises what `claim` raises."""
        return await self._extend(
            pool, job_id, lease_id, lambda epoch: self._semaphore.renew(pool, epoch, job_id, lease_id, lease_ms)
        )

    async def bind(self, pool: str, job_id: str, provider: str, task_id: str, lease_id: str | None = None) -> Job:
        """Which provider task the job's lease is; it claims too. Without `lease_id` the lease it has now.

        Raises what `claim` raises, and TaskTaken (the task is another job). The job has ended when its provider was faster.
        """
        job = await self.view.job(pool, job_id)
        if job.status == "queued":
            await self._recorder.run(pool)  # its grant may be in the outbox still
            job = await self.view.job(pool, job_id)
        lease_id = lease_id or job.lease_id or ""
        if job.status == "granted":
            await self.claim(pool, job_id, lease_id)
        bound = await self._ledger.bind(pool, job_id, provider, task_id, lease_id)
        if bound.word == "taken":
            raise TaskTaken(f"task {task_id!r} of {provider} is another job, or another lease of this one", bound.job)
        if bound.word == "lost":
            raise await self._why_lost(pool, job_id, lease_id)
        assert bound.job is not None
        if bound.word == "ended":
            await self._free(pool, bound.job.job_id, bound.job.lease_id)
        return bound.job

    async def bind_late(self, pool: str, job_id: str, lease_id: str, provider: str, task_id: str) -> None:
        """Bind the task of a start call that was answered after its job had ended: what the provider says of it is kept."""
        await self._ledger.bind(pool, job_id, provider, task_id, lease_id, or_ended=True)

    async def started(self, pool: str, job_id: str, lease_id: str, started: Started) -> Job:
        """The tool has said that it started the job of this grant. Raises what `claim` raises."""
        job = await self._extend(
            pool, job_id, lease_id, lambda epoch: self._semaphore.claim(pool, epoch, job_id, lease_id, True), started
        )
        if job.ended:
            await self._free(pool, job.job_id, job.lease_id)
        return job

    async def hold(self, pool: str, job_id: str, lease_id: str) -> float:
        """Keep the grant whose start call is under way; nothing is claimed. Seconds until its claim time is over.

        Raises what `claim` raises.
        """
        held = await self._record_extension(
            pool, job_id, lease_id, lambda epoch: self._semaphore.hold(pool, epoch, job_id, lease_id), claims=False
        )
        return (held[1].due - held[1].now_ms) / 1000

    async def _extend(
        self, pool: str, job_id: str, lease_id: str, script: Callable[[int], Awaitable[Extended]],
        started: Started | None = None,
    ) -> Job:  # fmt: skip
        return (await self._record_extension(pool, job_id, lease_id, script, started))[0]

    async def _record_extension(
        self, pool: str, job_id: str, lease_id: str, script: Callable[[int], Awaitable[Extended]],
        started: Started | None = None, claims: bool = True,
    ) -> tuple[Job, Extended]:  # fmt: skip
        for _ in range(TRIES):
            epoch, reply = await self._pools.run(pool, script)
            if reply.word == "lost":
                raise await self._why_lost(pool, job_id, lease_id)
            if reply.word == "by_gate":
                job = await self.view.job(pool, job_id)
                raise StartedByGate("gate starts this job at its tool; nobody else claims it", job)
            recorded = await self._ledger.extend(  # guard: extension-in-sql-before-the-answer
                pool, job_id, lease_id, epoch=epoch, due=reply.due, at=reply.now_ms, good_until=reply.good_until,
                started=started, claims=claims,
            )  # fmt: skip
            if recorded.word == "extended":
                assert recorded.job is not None
                self._news.tell(pool, [job_id])
                if started is None and _over(reply.good_until):  # guard: extension-still-in-time
                    continue  # as in acquire
                return recorded.job, reply
            if recorded.word == "stale":
                self._pools.outdated(pool, epoch)
            elif recorded.job is not None and recorded.job.status == "queued":
                await self._recorder.run(pool)  # the grant itself is in the outbox still
            else:
                raise await self._why_lost(pool, job_id, lease_id)
        raise StoreDown("redis", "the stores kept moving; come again")

    async def _why_lost(self, pool: str, job_id: str, lease_id: str) -> JobUnknown | LeaseLost | AlreadyEnded:
        await self._recorder.run(pool)  # the expiry, if it was one
        job = await self.view.job(pool, job_id)
        if job.ended and job.status != "expired" and job.lease_id == lease_id:
            return AlreadyEnded(f"this job is {job.status} already", job)
        return LeaseLost("this lease is not, or no longer, a lease of this job", await self.view.placed_if_seen(job))

    # ---- out ---------------------------------------------------------------------------------------------------

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: str, error: str | None = None, output: Any = None,
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

    async def hear(self, pool: str, provider: str, said: Any, raw: str) -> str:
        """What a provider said of a task or a job (`gate.providers.said.Said`), once, with its body as it came. A word of
        `gate.ledger.inbox`: nothing that it says raises but PoolUnknown and StoreDown.
        """
        heard = await self._ledger.hear(pool, provider, said, raw)
        if heard.word == "ended" and heard.job is not None:
            await self._free(pool, heard.job.job_id, heard.job.lease_id)
        return heard.word

    async def _free(self, pool: str, job_id: str, lease_id: str | None) -> None:
        """Free the slot of a lease whose job SQL has ended."""
        with contextlib.suppress(StoreDown):  # its own deadline frees it at the latest
            await self._pools.run(pool, lambda epoch: self._semaphore.release(pool, epoch, job_id, lease_id or ""))
        self._news.tell(pool, [job_id])

    async def cancel(self, pool: str, job_id: str, reason: str | None = None, outcome: str = "cancelled") -> Job:
        """Ends any job that has not ended, by somebody else than its holder. Raises JobUnknown, AlreadyEnded."""
        await self._pools.know(pool)
        job = await self._ended(pool, await self._ledger.end(pool, job_id, outcome, by="operator", reason=reason))
        with contextlib.suppress(StoreDown):
            await self._pools.run(pool, lambda epoch: self._semaphore.cancel(pool, epoch, job_id))
        self._news.tell(pool, [job_id])
        return job

    async def _refuse(self, pool: str, job_id: str, lease_id: str, by: str, error: str | None, why: str) -> Job:
        refused = await self._ledger.refuse(pool, job_id, lease_id, by, error, why == "tool_down")
        job = await self._ended(pool, refused)
        if refused.word == "refused":
            with contextlib.suppress(StoreDown):
                entry = entries.waiting(job)  # the lease may have been reaped since SQL let go of it
                await self._pools.run(
                    pool,
                    lambda epoch: self._semaphore.requeue(
                        pool,
                        epoch,
                        job_id,
                        job.fence,
                        why,
                        entry,  # guard: requeue-restores-a-reaped-job
                    ),
                )
            self._news.tell(pool, [job_id])
        return await self.view.placed(job)

    async def _ended(self, pool: str, ended: Ended) -> Job:
        if ended.job is None:
            raise JobUnknown(f"there is no such job in pool {pool!r}")
        if ended.word == "lost":
            job = await self.view.placed_if_seen(ended.job)
            raise LeaseLost("this lease is not, or no longer, a lease of this job", job)
        if ended.word == "already":
            raise AlreadyEnded(f"this job is {ended.job.status} already", ended.job)
        return ended.job


def _over(good_until: float | None) -> bool:
    return good_until is not None and time.monotonic() > good_until
