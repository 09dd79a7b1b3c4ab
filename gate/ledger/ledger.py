"""The ledger's one door for writing. Each method is one transaction under the lock of the pool's row.

SQL decides how each job ended and what is refunded: every change here is a compare-and-set on the row, and says in its
result whether it took. Nothing is raised for a no, so that many requests share one commit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import structlog
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
from gate.ledger.sql.engines import first_line
from gate.ledger.sql.job_rows import is_live, job_of, jobs_with_refund
from gate.ledger.sql.pool_rows import Pool, PoolSettings
from gate.ledger.sql.tables import jobs
from gate.ledger.transitions import admission, inbox, outbox, starts
from gate.ledger.transitions import jobs as changes
from gate.ledger.transitions.outbox import newer, room
from gate.model.errors import StoreDown
from gate.model.job import HOLDING, REFUNDED, Job, Lease, Request, now_ms
from gate.model.messages import EntryKind, OutboxEntry, ProviderReport, StartReply

log = structlog.get_logger("gate.ledger")

APART_S = 10.0
"""So long each entry of the outbox is written apart from the others, after one of them could not be."""


class Ledger:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._apart_until: dict[str, float] = {}

    async def admit(
        self,
        pool: str,
        request: Request,
        *,
        epoch: int,
        ticket: int,
        at: int,
        lease_ms: int,
        lease: Lease | None,
        good_until: float | None = None,
        given_up: int = 0,
    ) -> Change[AdmitResult]:
        """Writes what Redis decided for `request`: running under `lease`, or queued when that is None; with the charge.
        `given_up`: the fence of a grant that goes back; nobody may record it any more.
        `good_until` by time.monotonic(): this process may have stood still for longer than the lease.
        """

        def work(batch: UnitOfWork) -> Change[AdmitResult]:
            row = batch.pool(pool)
            if (
                row.epoch != epoch  # guard: admission-in-its-epoch
                or _over(good_until)  # guard: admission-in-time
            ):
                return Change(AdmitResult.STALE)
            job = batch.job(pool, request.job_id)
            if job is not None:
                return admission.again(batch, row, job, request, ticket, lease, given_up)
            if ticket <= row.void_ticket:  # guard: admission-above-the-void-ticket
                return Change(
                    AdmitResult.STALE
                )  # its place was freed for want of this row; it may come again, behind the others
            if lease is not None and not (newer(row, lease.fence, 0) and room(batch, row)):
                return Change(AdmitResult.NO_ROOM)
            job = admission.new(batch, pool, request, ticket, at, lease_ms, lease, given_up)
            if given_up:
                changes.event(batch, pool, request.job_id, "returned", "gate", at, fence=given_up, why="not_taken")
            changes.event(batch, pool, request.job_id, "running" if lease else "queued", "caller", at, lease)
            return Change(AdmitResult.ADMITTED, changes.told(batch, job, at))

        return await self._database.write(pool, request.job_id, work)

    async def end(
        self,
        pool: str,
        job_id: str,
        outcome: str,
        *,
        by: str,
        lease_id: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        output: JsonValue = None,
        only_queued: bool = False,
    ) -> Change[EndResult]:
        """The outcome and its refund, in one transaction, once. `by` is `holder` (who names its lease) or `operator`."""

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
            if (lease_id is not None and job.status not in HOLDING) or (only_queued and job.status != "queued"):
                return Change(EndResult.LOST, job)
            return Change(EndResult.ENDED, changes.end(batch, job, outcome, by, reason, error, output), job)

        return await self._database.write(pool, job_id, work)

    async def end_unadmitted(
        self, pool: str, request: Request, outcome: str, *, by: str, reason: str | None = None, error: str | None = None
    ) -> Change[EndResult]:
        """Write a job that ends before its admission: with its charge, its end and its refund, in one transaction.

        The primary key decides between this and an admission at the same moment: `ended` means that a later admission finds the
        job ended; `already` means that the admission was first, and nothing was changed.
        """

        def work(batch: UnitOfWork) -> Change[EndResult]:
            lease_ms = request.lease_ms or batch.pool(pool).settings.lease_ms
            if (job := batch.job(pool, request.job_id)) is not None:  # guard: early-end-after-no-admission
                return Change(EndResult.ALREADY, job)
            job = admission.new(batch, pool, request, 0, now_ms(), lease_ms, None)
            return Change(EndResult.ENDED, changes.end(batch, job, outcome, by, reason, error))

        return await self._database.write(pool, request.job_id, work)

    async def refuse(
        self, pool: str, job_id: str, lease_id: str, by: str, error: str | None = None, tool_down: bool = False
    ) -> Change[RefuseResult]:
        """Live -> queued, by lease: no refund, no attempt lost. The row keeps the lease it gave back until the next. `tool_down`: its
        tool's start address fails, so that jobs of other tools pass those of this one for a while.
        """

        def work(batch: UnitOfWork) -> Change[RefuseResult]:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is None:
                return Change(RefuseResult.UNKNOWN)
            if job.lease_id != lease_id:  # guard: refuse-only-its-lease
                return Change(RefuseResult.LOST, job)
            if job.status == "queued":
                return Change(RefuseResult.REPEAT, job)
            if job.ended:
                return Change(RefuseResult.LOST if job.status == "expired" else RefuseResult.ALREADY, job)
            before = job
            job = batch.put(job, status="queued", granted_at=None, expires_at=None, hard_expires_at=None, provider=None,
                            task_id=None)  # fmt: skip
            refusal = "its tool's start address fails" if tool_down else "refused by the provider"
            why, at = refusal + (f": {error}" if error else ""), now_ms()
            changes.event(batch, pool, job_id, "queued", by, at, why=why)
            if tool_down:
                changes.event(batch, pool, job_id, "tool_down", by, at, why=job.tool)
            return Change(RefuseResult.REFUSED, changes.told(batch, job, at), before)

        return await self._database.write(pool, job_id, work)

    async def extend(
        self, pool: str, job_id: str, lease_id: str, *, epoch: int, due: int, at: int, good_until: float | None = None,
        started: StartReply | None = None, claims: bool = True,
    ) -> Change[ExtensionResult]:  # fmt: skip
        """Records a claim or a renewal that Redis granted: a granted job runs, and what was told never shrinks. `started`: by a
        start call that was answered so; then it is bound in the same step, and that call is done. `claims`: False where a grant is
        only held for longer.
        """

        def work(batch: UnitOfWork) -> Change[ExtensionResult]:
            row = batch.pool(pool)
            if (
                row.epoch != epoch  # guard: extension-in-its-epoch
                or _over(good_until)  # guard: extension-in-time
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
            if job.status == "granted" and claims:
                job = batch.put(job, status="running", expires_at=due)
                changes.event(batch, pool, job_id, "running", "tool" if started else "holder", at, fence=job.fence)
                job = changes.told(batch, job, at) if started is None else starts.bound(batch, job, started, at)
            elif job.expires_at is None or due > job.expires_at:
                job = batch.put(job, expires_at=due)
            return Change(ExtensionResult.EXTENDED, job)

        return await self._database.write(pool, job_id, work)

    async def bind(
        self, pool: str, job_id: str, provider: str, task_id: str, lease_id: str, or_ended: bool = False
    ) -> Change[BindResult]:
        """Which provider task a lease is. A task is one lease of one job for ever; a lease may get another task (the provider
        lost the first), and then only the newer counts. `or_ended`: also of a job that has ended meanwhile, so that what
        its provider says of the task is kept.
        """

        def work(batch: UnitOfWork) -> Change[BindResult]:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is None or job.lease_id != lease_id:
                return Change(BindResult.LOST, job)
            known = changes.task(batch, provider, task_id)
            if known is not None and (known.job_id, known.lease_id) != (job_id, lease_id):
                return Change(BindResult.TAKEN, job)
            if known is not None and (job.provider, job.task_id) == (provider, task_id):
                return Change(BindResult.REPEAT, job)
            if job.status != "running" and not (or_ended and job.ended):
                return Change(BindResult.LOST, job)
            return inbox.bound(batch, changes.bind(batch, job, provider, task_id))

        return await self._database.write(pool, job_id, work)

    async def hear(self, pool: str, provider: str, report: ProviderReport, raw: str) -> Change[CallbackResult]:
        """What a provider said (a `gate.providers.callback.Said`), once. The words are those of `inbox.hear`. Raises PoolUnknown."""

        def work(batch: UnitOfWork) -> Change[CallbackResult]:
            batch.pool(pool)
            return inbox.hear(batch, pool, provider, report, raw)

        return await self._database.write(pool, report.job_id or "", work)

    async def keep_payload(
        self, job: Job, provider: str, task_id: str | None, outcome: str, error: str | None, payload: str
    ) -> None:
        """Keep what a caller passed on of its provider's words with the callbacks of a job.

        Raises:
            PoolUnknown: The pool is gone.
            StoreDown: SQL does not take it.
        """

        def work(batch: UnitOfWork) -> None:
            batch.pool(job.pool)
            inbox.keep_payload(batch, job, provider, task_id, outcome, error, payload)

        await self._database.write(job.pool, job.job_id, work)

    async def record(
        self, pool: str, epoch: int, notes: Sequence[OutboxEntry], good_until: float | None = None
    ) -> RecordReply:
        """Applies a page of the outbox (`gate.slots.Note`) in order, by compare-and-set; `good_until` by time.monotonic():
        after it nothing is done, because a grant may have run out while this waited for its turn.
        """

        def work(batch: UnitOfWork, apart: bool = False) -> RecordReply:
            row = batch.pool(pool)
            if row.epoch != epoch:  # guard: outbox-page-in-its-epoch
                return RecordReply(stale=True)
            if _over(good_until):
                return RecordReply(late=True)
            recorded, unknown = RecordReply(), set()
            over = {(note.job_id, note.fence) for note in notes if note.kind is EntryKind.EXPIRED}
            batch.expect(pool, [note.job_id for note in notes])
            for note in notes:
                job = _in(pool, batch.job(pool, note.job_id)) if note.kind in (EntryKind.GRANTED, EntryKind.EXPIRED) else None
                if job is None and note.kind is not EntryKind.UNREADABLE:
                    unknown.add(note.job_id)  # guard: unknown-job-stays-in-the-outbox
                if note.job_id in unknown:
                    continue  # its commit is still on the way: this entry stays, and those of that job behind it
                # A grant whose time is over before SQL heard of it was told to nobody: it never was.
                if (
                    job is not None
                    # guard: dead-grant-is-not-recorded
                    and not (note.kind is EntryKind.GRANTED and (note.job_id, note.fence) in over)
                ):
                    changed, returns = len(recorded.changed), len(recorded.returns)
                    try:
                        with batch.apart() if apart else contextlib.nullcontext():
                            outbox.record(batch, row, job, note, recorded)
                    except DBAPIError as error:
                        if not apart:
                            raise
                        del recorded.changed[changed:], recorded.returns[returns:]  # nobody is told of it
                        log.error("SQL refuses what happened", pool=pool, job_id=note.job_id, error=first_line(error))
                        unknown.add(note.job_id)
                        continue
                recorded.done.append(note.entry_id)
            return recorded

        # '' sorts before every job_id: an expiry is recorded before the grant that took its slot.
        if time.monotonic() > self._apart_until.get(pool, 0):
            try:
                return await self._database.write(pool, "", work)
            except (DBAPIError, StoreDown) as error:
                if isinstance(error, StoreDown) and error.held != "job":  # guard: refused-row-apart
                    raise
                # One entry about a row that somebody holds, or that SQL will not have (a trigger), must not keep all others out.
                self._apart_until[pool] = time.monotonic() + APART_S
        return await self._database.write(pool, "", lambda batch: work(batch, apart=True))

    async def expire_overdue(self, pool: str, epoch: int, job_id: str, fence: int, now_ms: int) -> bool:
        """Ends a job whose deadline is over by Redis's clock and whose lease Redis has lost. True when it took."""

        def work(batch: UnitOfWork) -> bool:
            # guard: overdue-in-its-epoch
            job = _in(pool, batch.job(pool, job_id)) if batch.pool(pool).epoch == epoch else None
            if (
                job is None
                or job.lease is None
                or job.fence != fence
                or job.lease.due > now_ms  # guard: overdue-by-the-renewed-deadline
            ):
                return False
            outbox.expire(batch, job, now_ms)
            return True

        return await self._database.write(pool, job_id, work)

    async def void(self, pool: str, epoch: int, job_id: str, fence: int, ticket: int = 0) -> bool:
        """Makes a grant or a place that SQL never saw impossible to record, before it is freed. True when there is no row of
        the job in this pool with that grant: seen in the same transaction, or a slow commit could come between.
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
        """Writes down that Redis had lost this waiter's place."""

        def work(batch: UnitOfWork) -> None:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is not None and job.status == "queued":
                changes.seated(batch, job)

        await self._database.write(pool, job_id, work)

    async def say_ended(self, pool: str, job_id: str) -> None:
        """Writes down an end that somebody wrote into SQL by hand."""

        def work(batch: UnitOfWork) -> None:
            batch.pool(pool)
            job = _in(pool, batch.job(pool, job_id))
            if job is not None and job.ended:
                changes.say_ended(batch, job)

        await self._database.write(pool, job_id, work)

    async def begin_rebuild(
        self, pool: str, identity: str, refused_epoch: int | None = None, floor: int = 0, *, even_a_former: bool = False
    ) -> RebuildPlan:
        """A new epoch (above `floor`, the highest seen in Redis) in the Redis of this identity, and the rows to load. Unless
        somebody has loaded it there already, above `refused_epoch` (None: at any epoch).
        """

        def work(batch: UnitOfWork) -> RebuildPlan:
            row = batch.pool(pool)
            if row.redis == identity and (refused_epoch is None or row.epoch > refused_epoch):  # guard: one-rebuild-a-loss
                return RebuildPlan(EpochResult.TAKEN, row.epoch, row)
            if identity in row.former and not even_a_former:  # guard: replaced-redis-is-not-loaded
                return RebuildPlan(EpochResult.REPLACED, row.epoch, row)
            query = jobs_with_refund.where(jobs.c.pool == pool, is_live).order_by(jobs.c.ticket)
            live = [job_of(found) for found in batch.connection.execute(query)]
            return RebuildPlan(
                EpochResult.RAISED,
                pool_rows.raise_epoch(batch.connection, row, floor, identity),
                row,
                leases=[job for job in live if job.status in HOLDING],
                waiters=[job for job in live if job.status == "queued"],
            )

        return await self._database.write(pool, "", work, takes_long=True)

    async def grace(self, pool: str, epoch: int, leases: Sequence[tuple[Job, int]]) -> None:
        """Writes down the deadlines that a rebuild under `epoch` gave to these leases, as they stood when it read them. Else the
        next one would give them anew, and a gate that is killed more often than its claim time would never reap them.
        """

        def work(batch: UnitOfWork) -> None:
            if batch.pool(pool).epoch != epoch:
                return
            for job, due in leases:
                now = batch.job(pool, job.job_id)
                if now is not None and (now.status, now.lease_id, now.expires_at) == (
                    job.status,
                    job.lease_id,
                    job.expires_at,
                ):
                    batch.put(now, expires_at=due)  # guard: grace-only-once

        await self._database.write(pool, "", work, takes_long=True)

    def reached(self, pool: str = "") -> bool:
        """Whether SQL can be written, as far as anybody knows; if not, `reach` finds out."""
        return self._database.writable and not self._database.hangs and not self._database.held(pool)

    async def reach(self, pool: str = "") -> None:
        """Raises StoreDown while SQL cannot be written: then nobody may be granted, and nobody reaped (PROTOCOL, Rebuild)."""
        if self._database.hangs:
            raise StoreDown("sql", "SQL takes too long to write")
        if not self.reached(pool):
            await self._database.write(
                pool,
                "",
                lambda batch: pool_rows.probe(batch.connection, pool),  # guard: probe-sql-by-a-write
                True,
            )

    async def make_pool(self, pool: str, settings: PoolSettings, reason: str | None = None) -> bool:
        """False when there is one of that name already."""
        return await self._database.write(
            pool, "", lambda batch: pool_rows.make(batch.connection, pool, settings, reason=reason)
        )

    async def change_pool(
        self, pool: str, values: dict[str, int | bool], by: str = "operator", reason: str | None = None
    ) -> Pool:
        """Changes live settings (`limit`, `lease_ms` …, `paused`). Raises PoolUnknown."""
        return await self._database.write(
            pool, "", lambda batch: pool_rows.change(batch.connection, pool, values, by, reason)
        )

    async def configure(self, wanted: dict[str, PoolSettings]) -> list[str]:
        """The pools that this changed (or made): a Redis that is loaded already has to be loaded anew."""

        def work(batch: UnitOfWork) -> list[str]:
            return [name for name in sorted(wanted) if pool_rows.configure(batch.connection, name, wanted[name])]

        return await self._database.write("", "", work)


def _over(good_until: float | None) -> bool:
    return good_until is not None and time.monotonic() > good_until


def _in(pool: str, job: Job | None) -> Job | None:
    return job if job is not None and job.pool == pool else None
