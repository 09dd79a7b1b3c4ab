"""Record changes of jobs and pools in SQL. Each method of Ledger is one transaction under the lock of the pool's row.

SQL decides how each job ended and what is refunded. So every change is a compare-and-set on the row, and its result says
whether it took effect. A refusal is a result and never an exception, because many requests share one commit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from sqlalchemy.exc import DBAPIError

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import (
    AdmitResult,
    BindResult,
    CallbackResult,
    Change,
    EndResult,
    EpochResult,
    ExtensionResult,
    RebuildPlan,
    RecordReply,
    RefuseResult,
)
from gate.ledger.sql import pool_rows
from gate.ledger.sql.job_rows import is_live, job_of, jobs_with_refund
from gate.ledger.sql.pool_rows import Pool, PoolSettings
from gate.ledger.sql.tables import jobs
from gate.ledger.transitions import (
    admission,
    bindings,
    clock,
    configuration,
    deliveries,
    inbox,
    outbox,
    poison,
    questions,
    refusals,
    starts,
    waiting_time,
)  # fmt: skip
from gate.ledger.transitions import jobs as changes
from gate.ledger.transitions.bindings import Binding
from gate.ledger.transitions.jobs import Ending
from gate.ledger.transitions.outbox import newer, room
from gate.ledger.transitions.refusals import Refusal
from gate.model.account import Accounts
from gate.model.errors import StoreDown
from gate.model.job import HOLDING, REFUNDED, EndStatus, Job, Lease, Request, is_over, now_ms
from gate.model.messages import OutboxEntry, ProviderReport, RelayedPayload, StartReply
from gate.model.redis_identity import life, was_left
from gate.model.tool import Tools

PROVEN_S = 3.0
"""Age (s) up to which a commit shows that SQL takes writes."""
AT_REST_S = 30.0
"""The same age (s) while no job is live and the disk of SQLite has room. A probe there writes 45 KB."""
APART_S = 10.0
"""How long entries of the outbox are written in savepoints of their own (s) after one of them could not be written."""


class Ledger:
    """The writes of the ledger. A method returns after its commit.

    Arguments that several methods share:
        pool, job_id: Name of the pool, and the job. A job of another pool counts as unknown.
        request: The job as its caller sent it.
        by: Actor for the history, such as `holder` or `operator`.
        lease_id: Lease that the caller names. A job under another lease is not changed.
        epoch: Epoch under which Redis answered. When the pool has another epoch, nothing is written.
        fence, ticket: Fence of the grant and ticket of the place in Redis.
        at, now_ms: Time by the clock of Redis (ms since 1970).
        due: Deadline of the lease (ms since 1970).
        good_until: When the lease is over, by `time.monotonic()` (s). Later nothing is written, since the call may have
            waited, or the process been suspended, for longer than the lease.
        outcome, reason, error, output: Last status of the job, machine-readable reason, text for people, product of the job.

    Errors that most of them raise:
        PoolUnknown: There is no pool of this name.
        StoreDown: SQL cannot be written, or has not answered in time. In the second case the change may still be committed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._apart_until: dict[str, float] = {}

    async def admit(
        self, pool: str, request: Request, *, epoch: int, ticket: int, at: int, lease_ms: int, lease: Lease | None,
        good_until: float | None = None, given_up: int = 0, stood_ms: int = 0,
    ) -> Change[AdmitResult]:  # fmt: skip
        """Record what Redis decided about a new or repeated job, with its charge.

        With a `lease` (of `lease_ms`) the job runs, without one it is queued. Its pool had stood still for `stood_ms` when it came. `given_up` is the fence of a grant that goes
        back to Redis, so that it is never recorded.
        """

        def work(batch: UnitOfWork) -> Change[AdmitResult]:
            row, job = batch.pool(pool), batch.job(pool, request.job_id)
            if (
                row.epoch != epoch  # guard: admission-in-its-epoch
                or is_over(good_until)  # guard: admission-in-time
            ):
                return Change(AdmitResult.STALE)
            if job is not None:
                return admission.again(batch, row, job, request, ticket, lease, given_up)
            if ticket <= row.void_ticket:  # guard: admission-above-the-void-ticket
                # Its place was freed, because this row was missing. A repeat of the call gets a new place.
                return Change(AdmitResult.STALE)
            if (copy := admission.copy(batch, pool, request)) is not None:  # guard: copy-of-a-call-is-not-charged
                return Change(AdmitResult.COPY, copy)
            if lease is not None and not (newer(row, lease.fence, 0) and room(batch, row)):
                return Change(AdmitResult.NO_ROOM)
            job = admission.new(batch, row, request, ticket, at, lease_ms, lease, given_up, stood_ms)
            if given_up:
                batch.event(pool, request.job_id, "returned", "gate", at, fence=given_up, why="not_taken")
            batch.event(pool, request.job_id, "running" if lease else "queued", "caller", at, lease and lease.fence)
            return Change(AdmitResult.ADMITTED, deliveries.owe(batch, job, at))

        return await self._database.write(pool, request.job_id, work)

    async def end(
        self, pool: str, job_id: str, outcome: EndStatus, *, by: str, lease_id: str | None = None, reason: str | None = None,
        error: str | None = None, output: JsonValue = None, accounts: Accounts | None = None,
        tools: Tools | None = None,
    ) -> Change[EndResult]:  # fmt: skip
        """End a job with its refund, once.

        With `accounts` and `tools`, the row of a job whose start call is unanswered keeps that (`starts.leave_open`).
        """

        def work(batch: UnitOfWork) -> Change[EndResult]:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is None:
                return Change(EndResult.UNKNOWN)
            if lease_id is not None and job.lease_id != lease_id:  # guard: end-only-its-lease
                return Change(EndResult.LOST, job)
            if job.ended:  # guard: outcome-is-final
                if job.status == outcome and job.ended_by == by:
                    return Change(EndResult.REPEAT, job)
                if job.status == "expired" and lease_id is not None:
                    return Change(EndResult.LOST, changes.keep_late(batch, job, outcome, by, output))
                if job.status in REFUNDED and lease_id is not None and outcome == "completed" and job.ended_by != by:
                    job = changes.keep_late(batch, job, outcome, by, output)
                return Change(EndResult.ALREADY, job)
            if lease_id is not None and job.status not in HOLDING:  # guard: lease-of-a-waiter-ends-nothing
                return Change(EndResult.LOST, job)
            ended = changes.end(batch, job, Ending(outcome, by, reason, error, output))
            return Change(
                EndResult.ENDED, starts.leave_open(batch, job, ended, accounts or Accounts(), tools or Tools()), job
            )

        return await self._database.write(pool, job_id, work)

    async def cancel_waiting(self, pool: str, job_ids: Sequence[str], *, by: str, reason: str | None = None) -> list[Job]:
        """Cancel those of the jobs that wait, and return them. A job that has a slot, or has ended, is left alone."""
        end = Ending("cancelled", by, reason)
        return await self._database.write(
            pool, "", lambda batch: changes.cancel_waiting(batch, pool, job_ids, end), takes_long=True
        )

    async def end_unadmitted(
        self, pool: str, request: Request, outcome: EndStatus, *, by: str, reason: str | None = None, error: str | None = None
    ) -> Change[EndResult]:
        """Write a job that ends before its admission: its charge, its end and its refund.

        The primary key decides between this call and a concurrent admission. After ENDED, a later admission finds the job
        ended. After ALREADY, the admission was first and nothing was changed.
        """

        def work(batch: UnitOfWork) -> Change[EndResult]:
            row = batch.pool(pool)
            lease_ms = request.lease_ms or row.settings.lease_ms
            if (job := batch.job(pool, request.job_id)) is not None:  # guard: early-end-after-no-admission
                return Change(EndResult.ALREADY, job)
            job = admission.new(batch, row, request, 0, batch.now_ms(pool), lease_ms, None)
            return Change(EndResult.ENDED, changes.end(batch, job, Ending(outcome, by, reason, error)))

        return await self._database.write(pool, request.job_id, work)

    async def refuse(
        self, pool: str, job_id: str, lease_id: str, by: str, error: str | None = None, tool_down: bool = False,
        account_down: bool = False,
    ) -> Change[RefuseResult]:  # fmt: skip
        """Put a job back into the queue, because its provider refused it. It gets no refund and keeps its place.

        The row keeps the old lease until the next one, so that a repeat is recognised. `tool_down` says that the start
        address of the job's tool fails. Jobs of other tools then pass the jobs of this one for a while. `account_down` says that the
        provider refuses the job's account, not the job.
        """
        refusal = Refusal(lease_id, by, error, tool_down, account_down)
        return await self._database.write(pool, job_id, lambda batch: refusals.refuse(batch, pool, job_id, refusal))

    async def extend(
        self, pool: str, job_id: str, lease_id: str, *, epoch: int, due: int, at: int, good_until: float | None = None,
        started: StartReply | None = None, claims: bool = True, hard: int = 0, tools: Tools | None = None,
    ) -> Change[ExtensionResult]:  # fmt: skip
        """Record a claim or a renewal that Redis granted. A claimed job runs from now on. A renewal never shortens the lease.

        `started` is the answer to a start call, which also binds the job to its task. Without `claims` a granted job stays
        granted. `hard` is the hard limit (ms since 1970) in Redis, which a longer hold may have moved after SQL had the grant.
        `tools` say what failures are tried again, for a provider's report that came before the answer.
        """

        def work(batch: UnitOfWork) -> Change[ExtensionResult]:
            row = batch.pool(pool)
            if (
                row.epoch != epoch  # guard: extension-in-its-epoch
                or is_over(good_until)  # guard: extension-in-time
            ):
                return Change(ExtensionResult.STALE)
            job = _in(pool, batch.job(pool, job_id))
            if job is None:
                return Change(ExtensionResult.UNKNOWN)
            if (
                job.status not in HOLDING
                # guard: extend-only-its-lease
                or job.lease_id != lease_id
            ):
                return Change(ExtensionResult.LOST, job)
            if job.hard_expires_at is None or hard > job.hard_expires_at:
                job = batch.put(job, hard_expires_at=hard)
            repeats = job.status == "running"
            if job.status == "granted" and claims:
                job = batch.put(job, status="running", expires_at=due)
                batch.event(pool, job_id, "running", "tool" if started else "holder", at, fence=job.fence)
                known = tools or Tools()
                job = deliveries.owe(batch, job, at) if started is None else starts.bound(batch, job, started, at, known)
            elif job.expires_at is None or due > job.expires_at:
                job = batch.put(job, expires_at=due)
            return Change(ExtensionResult.EXTENDED, job, repeats=repeats)

        return await self._database.write(pool, job_id, work)

    async def bind(
        self, pool: str, job_id: str, provider: str, task_id: str, lease_id: str, account: str | None = None,
        accounts: Accounts | None = None, tools: Tools | None = None,
    ) -> Change[BindResult]:  # fmt: skip
        """Bind a lease to a provider's task, as `bindings.bind` does. `tools` are those of `hear`."""
        named, known = Binding(lease_id, provider, task_id, account), accounts or Accounts()

        def work(batch: UnitOfWork) -> Change[BindResult]:
            batch.pool(pool)
            return bindings.bind(batch, _in(pool, batch.job(pool, job_id)), named, known, tools or Tools())

        return await self._database.write(pool, job_id, work)

    async def start_late(
        self, pool: str, job_id: str, lease_id: str, started: StartReply, tools: Tools | None = None
    ) -> Change[BindResult]:
        """Record the answer to a start call whose lease is over, as `starts.late` does."""
        known = tools or Tools()
        return await self._database.write(
            pool, job_id, lambda batch: starts.late(batch, pool, job_id, lease_id, started, known)
        )

    async def hear(
        self, pool: str, provider: str, report: ProviderReport, raw: str, tools: Tools | None = None
    ) -> Change[CallbackResult]:
        """Record a provider's `report` with its `raw` body, once. `tools` say what failures are tried again.

        The result is that of `inbox.hear`.
        """

        def work(batch: UnitOfWork) -> Change[CallbackResult]:
            batch.pool(pool)
            return inbox.hear(batch, pool, provider, report, raw, tools or Tools())

        return await self._database.write(pool, report.job_id or "", work)

    async def hint(self, pool: str, provider: str, report: ProviderReport, raw: str) -> None:
        """Make the question about a task due soon, because of a callback that is not believed, as `inbox.hint` does."""

        def work(batch: UnitOfWork) -> None:
            batch.pool(pool)
            inbox.hint(batch, pool, provider, report, raw)

        await self._database.write(pool, "", work)

    async def ask(self, pool: str, job_id: str) -> Job | None:
        """Make the question about the current task of a job due now. Return the job; None when gate does not ask about it."""

        def work(batch: UnitOfWork) -> Job | None:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            return job if job is not None and questions.nudge(batch, job) else None

        return await self._database.write(pool, job_id, work)

    async def keep_payload(self, job: Job, relayed: RelayedPayload) -> None:
        """Keep what a caller passed on of its provider's words with the callbacks of a job.

        Raises:
            PoolUnknown: The pool is gone.
            StoreDown: SQL does not take it.
        """

        def work(batch: UnitOfWork) -> None:
            batch.pool(job.pool)
            inbox.keep_payload(batch, job, relayed)

        await self._database.write(job.pool, job.job_id, work)

    async def record(
        self, pool: str, epoch: int, notes: Sequence[OutboxEntry], good_until: float | None = None
    ) -> RecordReply:
        """Apply a page of the outbox in order, each entry by compare-and-set. The result names the entries to delete."""

        def work(batch: UnitOfWork, apart: bool = False) -> RecordReply:
            row = batch.pool(pool)
            if row.epoch != epoch:  # guard: outbox-page-in-its-epoch
                return RecordReply(stale=True)
            if is_over(good_until):
                return RecordReply(late=True)
            return outbox.record_page(batch, row, notes, apart)

        # The empty job_id sorts first in a batch. So an expiry is recorded before an admission to the slot that it freed.
        if time.monotonic() > self._apart_until.get(pool, 0):
            try:
                return await self._database.write(pool, "", work)
            except (DBAPIError, StoreDown) as error:
                if isinstance(error, StoreDown) and error.held != "job":  # guard: refused-row-apart
                    raise
                # One entry whose row is held, or that SQL refuses (a trigger), must not keep out all others.
                self._apart_until[pool] = time.monotonic() + APART_S
        return await self._database.write(pool, "", lambda batch: work(batch, apart=True))

    async def expire_overdue(self, pool: str, epoch: int, job_id: str, fence: int, now_ms: int) -> bool:
        """End a job whose deadline is over by the clock of Redis, and whose lease Redis has lost. Return whether it ended."""

        def work(batch: UnitOfWork) -> bool:
            # guard: overdue-in-its-epoch
            job = _in(pool, batch.job(pool, job_id)) if batch.pool(pool).epoch == epoch else None
            return job is not None and outbox.expire_overdue(batch, job, fence, now_ms)

        return await self._database.write(pool, job_id, work)

    async def void(self, pool: str, epoch: int, job_id: str, fence: int, ticket: int = 0) -> bool:
        """Make an unrecorded grant or place impossible to record, before it is freed.

        Return True when the pool has no row of the job with that grant. The check and the write are one transaction, because
        a slow commit could come between them.
        """

        def work(batch: UnitOfWork) -> bool:
            row = batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if (
                row.epoch != epoch
                # guard: void-only-without-a-row
                or (job is not None and not (job.status in HOLDING and job.fence != fence))
            ):
                return False
            pool_rows.void(batch.connection, row, fence, ticket)  # guard: stranger-is-void-in-sql
            return True

        return await self._database.write(pool, job_id, work)

    async def seated(self, pool: str, job_id: str) -> None:
        """Add the event that Redis had lost the place of a waiter."""

        def work(batch: UnitOfWork) -> None:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is not None and job.status == "queued":
                changes.seated(batch, job)

        await self._database.write(pool, job_id, work)

    async def say_ended(self, pool: str, job_id: str) -> None:
        """Add the event of an end that an operator wrote into SQL by hand."""

        def work(batch: UnitOfWork) -> None:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is not None and job.ended:
                changes.say_ended(batch, job)

        await self._database.write(pool, job_id, work)

    async def begin_rebuild(
        self, pool: str, identity: str, refused_epoch: int | None = None, floor: int = 0, *, even_a_former: bool = False,
        away_ms: int | None = None,
    ) -> RebuildPlan:  # fmt: skip
        """Raise the epoch in the Redis of this `identity`, and return the rows to load.

        The new epoch is above `floor`, the highest epoch in Redis. Nothing is raised when another server has loaded the pool
        there above `refused_epoch` (None: under any epoch). A Redis that was replaced is refused, unless `even_a_former`. The last one
        has not answered for `away_ms`; None when that is not known.
        """

        def work(batch: UnitOfWork) -> RebuildPlan:
            row = batch.pool(pool)
            is_newer = refused_epoch is None or row.epoch > refused_epoch
            if is_newer and life(row.redis) == life(identity):  # guard: one-rebuild-a-loss
                return RebuildPlan(EpochResult.TAKEN, row.epoch, row)
            if was_left(identity, row.redis, row.former) and not even_a_former:  # guard: replaced-redis-is-not-loaded
                return RebuildPlan(EpochResult.REPLACED, row.epoch, row)
            query = jobs_with_refund.where(jobs.c.pool == pool, is_live).order_by(jobs.c.ticket)
            live = [job_of(found) for found in batch.connection.execute(query)]
            at = now_ms()
            stood_ms = waiting_time.stood_ms(batch.connection, row, live, away_ms, at)
            return RebuildPlan(
                EpochResult.RAISED,
                pool_rows.raise_epoch(batch.connection, row, floor, identity, (stood_ms, at)),
                row,
                stood_ms=stood_ms,
                leases=[job for job in live if job.status in HOLDING],
                waiters=[job for job in live if job.status == "queued"],
                poison=poison.refused_at(batch.connection, row, live),  # guard: poison-outlasts-a-rebuild
                stops=questions.stops(batch, pool),
            )

        return await self._database.write(pool, "", work, takes_long=True)

    async def grace(self, pool: str, epoch: int, leases: Sequence[tuple[Job, int]]) -> None:
        """Record the deadlines (ms since 1970) that a rebuild gave to leases, unless they have changed since it read them.

        Otherwise each rebuild would extend them again. A gate that is killed more often than its claim time would never reap
        them.
        """

        def work(batch: UnitOfWork) -> None:
            changes.give_grace(batch, pool, epoch, leases)

        await self._database.write(pool, "", work, takes_long=True)

    async def end_presence(self, pool: str, job_id: str) -> Job | None:
        """Let a job need no further sign of its caller. Return the job as it is then."""
        return await self._database.write(pool, job_id, lambda batch: changes.end_presence(batch, pool, job_id))

    async def record_clock(self, pool: str, epoch: int, ahead_ms: int, step_ms: int = 0) -> None:
        """Record by how much (ms) the clock of Redis is ahead of the pool's, for rebuilds; and the step (ms) if that is why."""
        await self._database.write(pool, "", lambda batch: clock.record(batch, pool, epoch, ahead_ms, step_ms))

    def reached(self, pool: str = "") -> bool:
        """Return whether SQL can be written, as far as is known. If not, `reach` finds out."""
        return self._database.writable and not self._database.hangs and not self._database.held(pool)

    async def reach(self, pool: str = "") -> None:
        """Raise StoreDown while SQL cannot be written. Then no slot is granted and no lease reaped (docs/design.md)."""
        if self._database.hangs:
            raise StoreDown("sql", "SQL takes too long to write")
        if not self.reached(pool):
            await self._database.write(
                pool,
                "",
                lambda batch: pool_rows.probe(batch.connection, pool),  # guard: probe-sql-by-a-write
                True,
            )

    async def prove(self, at_rest: bool = False) -> None:
        """Raise StoreDown unless SQL takes writes now. A recent commit is proof enough. `at_rest` says that no job is live."""
        reached, idle_s = self.reached(), self._database.idle_s
        at_rest = at_rest and self._database.has_room  # guard: probe-often-on-a-full-disk
        if reached and idle_s < (AT_REST_S if at_rest else PROVEN_S):
            return
        if self._database.hangs:
            raise StoreDown("sql", "SQL takes too long to write")
        await self._database.write(
            "", "", lambda batch: pool_rows.probe(batch.connection, "", not reached), proves=True, takes_long=True
        )

    async def make_pool(self, pool: str, settings: PoolSettings, reason: str | None = None) -> bool:
        """Create a pool. Return False when one of this name exists."""
        return await self._database.write(
            pool, "", lambda batch: pool_rows.make(batch.connection, pool, settings, reason=reason)
        )

    async def change_pool(self, pool: str, values: dict[str, Any], by: str = "operator", reason: str | None = None) -> Pool:
        """Change live settings (`limit`, `lease_ms` …, `paused`), and return the pool. `reason` is for the history."""
        return await self._database.write(
            pool, "", lambda batch: pool_rows.change(batch.connection, pool, values, by, reason)
        )

    async def delete_pool(self, pool: str, by: str = "operator", reason: str | None = None) -> bool:
        """Delete a pool. Return False when it has live jobs; then nothing is changed. `reason` is for the history."""
        return await self._database.write(pool, "", lambda batch: pool_rows.delete(batch.connection, pool, by, reason))

    async def configure(self, wanted: dict[str, PoolSettings], accounts: Accounts | None = None) -> list[str]:
        """Apply the configuration file. Return the pools that changed or are new, which have to be loaded into Redis anew."""
        return await self._database.write("", "", lambda batch: configuration.apply(batch, wanted, accounts or Accounts()))


def _in(pool: str, job: Job | None) -> Job | None:
    return job if job is not None and job.pool == pool else None
