"""Admission of a job: Redis places it, SQL records it with its charge, then gate answers its caller."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import assert_never

from gate.coordination.hang_up import HangUp
from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.places import Places
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pricing import JobPricing
from gate.coordination.queries import JobQueries
from gate.coordination.waiters import Wakeup
from gate.ledger import AdmitResult, Change, GrantReturn, Ledger, LedgerQueries
from gate.model.account import Accounts
from gate.model.errors import AlreadyEnded, JobIdReused, QueueFull, StoreDown, UserBusy, UserQueueFull
from gate.model.job import HOLDING, UNHEARD, Job, Request, is_over
from gate.slots import AcquireReply, AcquireResult

TRIES = 5
"""Attempts of one call before it answers 503. Each further attempt needs one more rare event, such as a change of epoch."""
START_ANSWER_S = 25.0
"""Longest wait (s) of the caller of `enqueue` for the start call, when a slot was free."""
COMMIT_S = 0.02
"""Pause (s) before SQL is asked again for a job whose commit is under way. Most commits take less."""
HELD_PRESENCE_MS = 10_000
"""Time (ms) after which others pass a job that only the caller of one waiting call knows, when the server of that call is gone. The server
shows that caller three times in it. A shorter time costs more commands for each such caller."""
NOT_PLACED = frozenset(
    {
        AcquireResult.NO_SLOT,
        AcquireResult.TORN,
        AcquireResult.USER_BUSY,
        AcquireResult.QUEUE_FULL,
        AcquireResult.USER_QUEUE_FULL,
    }
)


class Admission:
    """Admits jobs to a pool."""

    def __init__(
        self,
        ledger: Ledger,
        pools: PoolRegistry,
        recorder: OutboxRecorder,
        news: Notifier,
        queries: JobQueries,
        rows: LedgerQueries,
        pricing: JobPricing,
        accounts: Accounts | None = None,
    ) -> None:
        self._ledger, self._pools, self._recorder = ledger, pools, recorder
        self._news, self._queries, self._rows, self._pricing = news, queries, rows, pricing
        self._accounts = accounts or Accounts()
        self._places = Places(pools, recorder, self._accounts)

    async def acquire(
        self, pool: str, request: Request, wait_s: float = 0, by_gate: bool = False, max_eta_s: float | None = None,
        hang_up: HangUp | None = None,
    ) -> Job:  # fmt: skip
        """Admit a job: give it a slot, or a place in the queue.

        Args:
            pool: Name of the pool.
            request: The job.
            wait_s: Longest wait (s) of the call for the grant of a queued job. This server may have a shorter one.
            by_gate: True for a job that gate starts at its tool. The wait then lasts until the start call was answered.
            max_eta_s: Longest estimated wait (s) that the caller accepts; None for any.
            hang_up: Tells whether the caller disconnects. A job that only this caller knows is cancelled then.

        Returns:
            The job, recorded in SQL. It has ended if its end came during this call: its charge is settled then, so that is no
            refusal. It is `replayed` if an earlier call has admitted it.

        Raises:
            PoolUnknown: There is no such pool.
            UserBusy: The user has as many live jobs as allowed.
            QueueFull: As many jobs wait as may wait. UserQueueFull: as many of the user.
            TooLong: The job is new, and its estimated wait is above `max_eta_s`.
            AlreadyEnded: The job had ended before this call.
            JobIdReused: The job_id is another job's.
            JobUnknown: The owner's function does not know the job.
            Invalid: gate is to start it, and its tool is missing or has no `start_url`.
            StoreDown: A store does not answer. The job may be recorded. With every other refusal this call wrote nothing.
        """
        wait_s = min(wait_s, self._queries.waiters.longest_s)
        end = time.monotonic() + wait_s
        if request.unnamed and wait_s and not by_gate and request.presence_ms is None:  # guard: presence-of-an-unnamed-waiter
            request = request._replace(presence_ms=HELD_PRESENCE_MS, is_held=True)
        request = await self._pricing.complete(request, by_gate, or_refuse=True)
        if max_eta_s is not None:
            await self._queries.refuse_if_too_long(pool, request.job_id, max_eta_s)
        try:
            job = await self._acquire(pool, await self._known_as(request), wait_s, by_gate, hang_up)
        except _Copied as first:
            renamed = request._replace(job_id=first.job_id, aliases=())
            job = await self._acquire(pool, renamed, wait_s, by_gate, hang_up)
        if not by_gate:
            return job
        return (await self._queries.until_started(job, end)).as_answer(job.replayed)

    async def _acquire(self, pool: str, request: Request, wait_s: float, by_gate: bool, hang_up: HangUp | None) -> Job:
        if not wait_s:
            job = await self._admit(pool, request)
        else:
            hang_up = hang_up or HangUp()  # a call that waits is a sign of its caller, also when that cannot hang up
            # Park first: the recorder may write the grant and notify waiters before this call knows of its own admission.
            parked = self._queries.parked(
                request.job_id,  # guard: park-before-the-admission
                "queued",
            )
            with parked as changed:
                in_line = functools.partial(self._wait, request, changed, wait_s, hang_up)
                job = await self._admit(pool, request, in_line)
        assert job is not None
        heard = hang_up is None or not hang_up.happened
        if not heard and request.unnamed and not by_gate:  # guard: unnamed-job-of-a-caller-that-hung-up
            return await self._end_unheard(job, "caller", UNHEARD)
        return job

    async def _wait(self, request: Request, changed: Wakeup, wait_s: float, hang_up: HangUp, job: Job) -> Job:
        """Wait for the grant of a job in the queue. A caller that is told the job_id may ask for the job as seldom as it likes."""
        job = await self._queries.until_changed(job, changed, wait_s, hang_up)
        if not request.is_held or hang_up.happened or job.ended:
            return job
        job = await self._ledger.end_presence(job.pool, job.job_id) or job  # guard: presence-ends-with-the-call
        return await self._queries.placed(job, for_good=True)

    async def _known_as(self, request: Request) -> Request:
        """Return the request under the job_id that its first call has, if that was recorded under an alias."""
        copy = await self._copy(request)
        return request if copy is None else request._replace(job_id=copy.job_id, aliases=())

    async def _copy(self, request: Request) -> Job | None:
        if not request.aliases:
            return None
        known = await self._rows.jobs([request.job_id, *request.aliases])
        if request.job_id in known:
            return None
        return next((job for job in known.values() if request.is_copy_of(job)), None)

    async def take(self, pool: str, request: Request) -> Job | None:
        """Admit a job to a slot that is free now. It is never queued.

        Args:
            pool: Name of the pool.
            request: The job.

        Returns:
            The job. None when no slot is free, or when gate starts the job, so that no caller may start it.

        Raises:
            PoolUnknown, UserBusy, AlreadyEnded, JobIdReused, JobUnknown, StoreDown: As for `acquire`.
        """
        job = await self._admit(pool, await self._pricing.complete(request), or_wait=False)
        yours = (
            job is not None
            and job.status in HOLDING
            # guard: take-not-what-gate-starts
            and not job.starts
        )
        return job if yours else None

    async def enqueue(self, pool: str, request: Request) -> Job:
        """Admit a job that gate starts at its tool. If the tool has no `start_url`, admit it as `acquire` does.

        Args:
            pool: Name of the pool.
            request: The job.

        Returns:
            The job. If a slot was free, it is returned after its start call was answered, or after 25 s.

        Raises:
            PoolUnknown, UserBusy, QueueFull, AlreadyEnded, JobIdReused, JobUnknown, StoreDown: As for `acquire`.
        """
        job = await self._admit(pool, await self._pricing.complete(request, by_gate=True))
        assert job is not None
        return await self._queries.wait(pool, job.job_id, "granted", START_ANSWER_S) if job.starts else job

    async def _admit(
        self, pool: str, request: Request, in_line: Callable[[Job], Awaitable[Job]] | None = None, or_wait: bool = True
    ) -> Job | None:
        """Place the job in Redis, record it in SQL, then answer. Begin again when a store has changed its state in between.

        A job that ends during this call, after it was recorded, is the answer and no refusal.

        Args:
            pool: Name of the pool.
            request: The job.
            in_line: Makes the answer for a job that waits; None to answer with its position.
            or_wait: False to take a free slot or nothing. Without a free slot the answer is then None.
        """
        first: Job | None = None  # the job as this call recorded it, which tells a later try from a repeat of the call
        try:
            for tries_left in reversed(range(TRIES)):
                try:
                    placed = await self._pools.pool(pool).acquire(request, or_wait)
                    if placed.result in NOT_PLACED:
                        job = await self._not_placed(pool, request, placed, tries_left)
                    else:
                        job = await self._record(pool, request, placed, or_wait)
                        first = first or job
                        job = job and await self._answer(pool, job, placed, in_line or self._queries.placed)
                except _Moved:
                    continue
                except AlreadyEnded as ended:
                    if first is None or ended.job is None:  # guard: end-in-the-call-is-no-refusal
                        raise
                    job = ended.job
                return job and job.as_answer(first is None or first.replayed)
            raise StoreDown("redis", "the stores kept moving; come again")
        except StoreDown:
            if first is not None and request.unnamed and not first.starts:
                with contextlib.suppress(StoreDown):
                    await self._end_unheard(first, "gate", "store_down")
            raise

    async def _end_unheard(self, job: Job, by: str, reason: str) -> Job:
        """End a job whose only caller is not told of it. Without this its slot would be held for no caller."""
        ended = await self._ledger.end(job.pool, job.job_id, "cancelled", by=by, reason=reason)
        with contextlib.suppress(StoreDown):  # the end is recorded; the reconciler frees its place
            await self._pools.pool(job.pool).cancel(job.job_id)
        self._news.tell(job.pool, [job.job_id])
        return ended.job or job

    async def _record(self, pool: str, request: Request, placed: AcquireReply, or_wait: bool) -> Job | None:
        """Record in SQL what Redis has decided. When SQL does not record it, take it back from Redis."""
        if placed.result is AcquireResult.UNRECORDED:
            # guard: repeat-records-the-outbox
            await self._recorder.run(pool)  # without this SQL would still have the job running under a lease that is over
        elif request.starts != placed.by_gate:
            # Two calls for one job may differ in who starts it, and either may be first in SQL. The decision of Redis counts.
            request = request._replace(starts=placed.by_gate)
        try:
            recorded = await self._write(pool, request, placed, or_wait)
        # guard: undo-after-any-error
        except Exception:  # on any error the place in Redis must not stay, because SQL does not have the job
            await self._places.undo(pool, request.job_id, placed)  # guard: undo-what-sql-refused
            raise
        if recorded.result is AdmitResult.STALE:
            self._pools.outdated(pool, placed.epoch)
            raise _Moved
        if recorded.result is not AdmitResult.ADMITTED:  # guard: undo-an-unwanted-admission
            here = recorded.job if recorded.result is not AdmitResult.COPY else None
            await self._places.undo(pool, request.job_id, placed, here)
        job = recorded.job
        match recorded.result:
            case AdmitResult.ADMITTED:
                assert job is not None
                return job.as_answer(recorded.repeats)
            case AdmitResult.NO_ROOM:
                return None
            case AdmitResult.LIVE:
                assert job is not None
                await self._places.restore(pool, job)
                return job.as_answer(replayed=True)
            case AdmitResult.ENDED:
                assert job is not None
                raise AlreadyEnded.of(job)
            case AdmitResult.COPY:
                assert job is not None
                raise _Copied(job.job_id)
            case AdmitResult.REUSED:
                raise JobIdReused(f"job_id {request.job_id!r} is another job already", job)
            case _:
                assert_never(recorded.result)

    async def _write(self, pool: str, request: Request, placed: AcquireReply, or_wait: bool) -> Change[AdmitResult]:
        lease = placed.lease if placed.result is AcquireResult.RUNNING else None
        admit = functools.partial(
            self._ledger.admit, pool, request, epoch=placed.epoch, ticket=placed.ticket, at=placed.queued_at,
            lease_ms=placed.lease_ms, good_until=placed.good_until, stood_ms=placed.stood_ms,
        )  # fmt: skip
        recorded = await admit(lease=lease)
        if recorded.result is AdmitResult.NO_ROOM:
            # The expiry that freed this slot is still in the outbox. Record it, then try again.
            await self._recorder.run(pool)  # guard: record-the-expiry-before-a-full-pool
            recorded = await admit(lease=lease)
        if recorded.result is AdmitResult.NO_ROOM and or_wait:
            # The limit was lowered, or the pool was paused. The job waits at its place, and its grant goes back.
            recorded = await admit(lease=None, given_up=lease.fence if lease else 0)
            if recorded.result is AdmitResult.ADMITTED and lease and recorded.job and recorded.job.status == "queued":
                await self._recorder.give_back(pool, GrantReturn(recorded.job, lease.fence))
        return recorded

    async def _answer(
        self, pool: str, job: Job, placed: AcquireReply, in_line: Callable[[Job], Awaitable[Job]]
    ) -> Job:  # fmt: skip
        """Return the job when its caller may be told of it: it is recorded, and its lease is not over."""
        if job.status == "queued":
            if job.ticket != placed.ticket:
                await self._places.seat(pool, job, placed)
            # guard: record-a-grant-after-its-row
            self._recorder.admitted(pool, job.job_id)  # a grant that came before its row was passed over until now
            self._news.tell_line(pool)  # only the queue has changed for others; the job's one caller waits in this call
            job = await in_line(job)
        elif job.tells:
            self._news.tell(pool, [job.job_id])
        if job.status in HOLDING and (
            placed.result is AcquireResult.UNRECORDED
            # guard: grant-still-in-time
            or is_over(placed.good_until)
        ):
            raise _Moved  # this process was paused, or SQL was slow: the lease may be over, so ask Redis again
        return job

    async def _not_placed(self, pool: str, request: Request, reply: AcquireReply, tries_left: int) -> Job | None:
        """Answer for a job that Redis did not place. When SQL has the job and only Redis has lost it, return the job."""
        if reply.result is AcquireResult.TORN:
            raise StoreDown("redis", "this job's entry is gone from Redis; it is mended within seconds")
        job = await self._only_in_sql(pool, request)
        if reply.result is AcquireResult.NO_SLOT:
            return job
        if job is not None:
            return await self._queries.placed(job)
        if (copy := await self._copy(request)) is not None:
            raise _Copied(copy.job_id)
        if reply.result is AcquireResult.QUEUE_FULL:
            raise QueueFull("as many jobs wait as may wait; come again later")
        if reply.result is AcquireResult.USER_QUEUE_FULL:
            raise UserQueueFull(f"user {request.user!r} has as many waiting jobs as allowed; come again later")
        raise await self._user_busy(pool, request.user, reply.active, tries_left)

    async def _user_busy(self, pool: str, user: str | None, active: tuple[str, ...], tries_left: int) -> UserBusy | _Moved:
        """Make the error that names one of the user's live jobs. Remove jobs from Redis first that have ended in SQL."""
        known = await self._rows.jobs(active)
        ended = [job for job in known.values() if job.ended]
        for job in ended:
            # The job has ended in SQL, and its release did not reach Redis. Without this it would keep its user busy.
            await self._pools.pool(pool).leave(job, self._accounts.drain_ms(job))  # guard: busy-by-no-draining-slot
        if ended:  # guard: busy-by-live-jobs-only
            return _Moved()
        first = next((job_id for job_id in active if job_id in known), None)
        if first is None and tries_left:
            await asyncio.sleep(COMMIT_S)  # the error must name a job, and no caller is told of one that is not in SQL yet
            return _Moved()
        return UserBusy(f"user {user!r} has as many live jobs as allowed", first or active[0], known.get(first or ""))

    async def _only_in_sql(self, pool: str, request: Request) -> Job | None:
        """Return the live job that Redis has lost. Raise JobIdReused if it is another job, AlreadyEnded if it has ended."""
        job = await self._rows.job(request.job_id)
        if job is not None and (job.pool != pool or not request.same_content(job)):
            raise JobIdReused(f"job_id {request.job_id!r} is another job already", job)
        if job is not None and job.ended:
            raise AlreadyEnded.of(job)
        return job


class _Copied(Exception):
    """The same call was recorded under an alias of its job_id.

    Attributes:
        job_id: The id under which it was recorded.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class _Moved(Exception):
    """A store has changed its state during a call. The call begins again."""
