"""Callbacks of providers: each is recorded once, and applied to the job that it is about.

A callback and the binding of its task may come in either order. Both hold the pool's row, so one of them comes second. The
second one applies the callback: a callback finds the binding, or a binding finds the callback that was kept.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import ApplyResult, BindResult, CallbackResult, Change
from gate.ledger.sql.tables import webhooks
from gate.ledger.transitions import hints, jobs, questions, retries
from gate.ledger.transitions.jobs import Ending
from gate.model.job import HOLDING, REFUNDED, Job, now_ms
from gate.model.limits import CALLBACK_KEPT_MAX
from gate.model.messages import ErrorKind, ProviderReport, RelayedPayload
from gate.model.tool import Tools

KEPT_MS = 7 * 24 * 3600 * 1000
"""Time (ms) for which a callback waits for the binding of its task."""
CHANGED = {CallbackResult.ENDED: BindResult.ENDED, CallbackResult.RETRIED: BindResult.RETRIED}
"""Results of a binding, by the effect of a callback that came before it."""
RAW_OF_A_JOB = 20
"""Callbacks of one job whose bodies are kept. Further ones are kept without a body, so that they do not fill the disk."""


def hear(
    batch: UnitOfWork, pool: str, provider: str, report: ProviderReport, raw: str, tools: Tools
) -> Change[CallbackResult]:
    """Apply a provider's report once, and keep its body.

    Args:
        batch: Holds the pool's row.
        pool: The pool that the callback names.
        provider: The provider, by its name.
        report: The provider's report.
        raw: The callback's body as it came.
        tools: The tools, which say what failures are tried again.

    Returns:
        What the report did, with the job after it and before it. The job is None if no job of the pool is known for it.
    """
    once = sa.select(webhooks.c.id).where(
        webhooks.c.provider == provider, webhooks.c.pool == pool, webhooks.c.delivery_id == report.delivery_id
    )
    if batch.connection.execute(once).first() is not None:  # guard: callback-only-once
        return Change(CallbackResult.REPEAT)
    job, current, early = _about(batch, pool, provider, report)
    verdict = CallbackResult.WAITS if early else CallbackResult.HISTORY
    before = job
    if job is not None and current:
        verdict, job = _apply(batch, job, provider, report, tools)
    kept = job is None or _count(batch, job.job_id) < RAW_OF_A_JOB
    at = now_ms()
    row = {
        "at": at, "provider": provider, "delivery_id": report.delivery_id, "pool": pool, "task_id": report.task_id,
        "job_id": job.job_id if job else report.job_id, "outcome": report.outcome, "error": report.error,
        "output": None if report.output is None else json.dumps(report.output), "error_kind": report.error_kind,
        "body": raw[:CALLBACK_KEPT_MAX] if kept else None, "verdict": verdict.value,
    }  # fmt: skip
    batch.connection.execute(webhooks.insert().values(**row))
    if job is not None and verdict is CallbackResult.HISTORY and kept:
        why = report.outcome + ("" if current else ", of an earlier task")
        batch.event(pool, job.job_id, "callback", provider, batch.now_ms(pool), why=why)
    freed = questions.confirm(batch, provider, report.task_id) if job is not None else None  # guard: callback-confirms-a-stop
    return Change(verdict, job, before, freed=freed)


def hint(batch: UnitOfWork, pool: str, provider: str, report: ProviderReport, raw: str) -> None:
    """Ask soon about the task of a callback that is not believed, and keep the first callback of a task.

    The answer to the question may have the same delivery id as the callback. So a hint is kept under an id of its own. A repeat
    asks again, because the first one may have been false.

    Args:
        batch: Holds the pool's row.
        pool: The pool that the callback names.
        provider: The provider, by its name.
        report: The report of the callback, about a task.
        raw: The callback's body as it came.
    """
    assert report.task_id is not None
    job, _, is_early = _about(batch, pool, provider, report)
    if job is not None:
        hints.hasten(batch, provider, report.task_id, job.lease_ms)  # guard: hint-makes-gate-ask
    delivery_id = hints.early_id(report.task_id) if is_early else hints.id_of(report.task_id)
    this = (webhooks.c.provider == provider) & (webhooks.c.pool == pool) & (webhooks.c.delivery_id == delivery_id)
    if is_early:  # a newer hint takes the place of an older one
        batch.connection.execute(webhooks.delete().where(this))
    elif job is None or batch.connection.execute(sa.select(webhooks.c.id).where(this)).first() is not None:
        return
    kept = job is not None and _count(batch, job.job_id) < RAW_OF_A_JOB
    row = {
        "at": now_ms(), "provider": provider, "delivery_id": delivery_id, "pool": pool, "task_id": report.task_id,
        "job_id": job.job_id if job is not None else None, "outcome": report.outcome,
        "body": raw[:CALLBACK_KEPT_MAX] if kept else None, "verdict": CallbackResult.HINT.value,
    }  # fmt: skip
    batch.connection.execute(webhooks.insert().values(**row))


def bound(batch: UnitOfWork, job: Job, tools: Tools) -> Change[BindResult]:
    """Apply the callbacks that came before the binding of their task, in the order in which they came.

    Args:
        batch: Holds the pool's row.
        job: The job, which was just bound to its task.
        tools: The tools, which say what failures are tried again.

    Returns:
        `ended` if a callback has ended the job, `retried` if it waits again by one, else `bound`; with the job after and before it.
    """
    kept = sa.select(webhooks).where(
        webhooks.c.provider == job.provider,
        webhooks.c.task_id == job.task_id,
        webhooks.c.pool == job.pool,
        webhooks.c.verdict.in_(("waits", "history")),  # history: it came while another task of the lease was bound
        webhooks.c.at > now_ms() - KEPT_MS,  # guard: kept-callback-expires
    )
    result, after = BindResult.BOUND, job
    assert job.provider is not None
    hints.ask_by_early(batch, job)  # guard: early-hint-makes-gate-ask
    for row in batch.connection.execute(kept.order_by(webhooks.c.id)).all():  # guard: early-callback-is-applied
        verdict, after = _apply(batch, after, job.provider, _kept_report(row), tools)
        result = CHANGED.get(verdict, result)
        applied = {"verdict": verdict.value, "job_id": job.job_id}
        batch.connection.execute(webhooks.update().where(webhooks.c.id == row.id).values(**applied))
    return Change(result, after, job)


def _kept_report(row: sa.Row[Any]) -> ProviderReport:
    output = None if row.output is None else json.loads(row.output)
    kind = None if row.error_kind is None else ErrorKind(row.error_kind)
    return ProviderReport(row.outcome, row.delivery_id, row.task_id, error=row.error, output=output, error_kind=kind)


def keep_payload(batch: UnitOfWork, job: Job, relayed: RelayedPayload) -> None:
    """Keep a provider's payload that a caller passed on, with the verdict `relayed`. It is never applied.

    The same payload of a job is kept once. No more than RAW_OF_A_JOB bodies of a job are kept.

    Args:
        batch: Holds the pool's row.
        job: The job.
        relayed: The payload, with what the caller reports.
    """
    digest = hashlib.sha256(relayed.payload.encode()).hexdigest()
    delivery_id = f"finish {job.job_id} {digest}"
    same = sa.select(webhooks.c.id).where(
        webhooks.c.provider == relayed.provider, webhooks.c.pool == job.pool, webhooks.c.delivery_id == delivery_id
    )
    if _count(batch, job.job_id) >= RAW_OF_A_JOB or batch.connection.execute(same).first() is not None:
        return
    row = {
        "at": now_ms(), "provider": relayed.provider, "delivery_id": delivery_id, "pool": job.pool, "task_id": relayed.task_id,
        "job_id": job.job_id, "outcome": relayed.outcome, "error": relayed.error,
        "body": relayed.payload[:CALLBACK_KEPT_MAX], "verdict": "relayed",
    }  # fmt: skip
    batch.connection.execute(webhooks.insert().values(**row))


def _about(batch: UnitOfWork, pool: str, provider: str, report: ProviderReport) -> tuple[Job | None, bool, bool]:
    """Find the job of a report.

    Returns:
        The job; None if the pool has none for the report. Whether the report counts for it: the job is bound to this provider
        by its current task, or the report names the job_id and the job is bound to no other provider. Whether the task is
        bound to no job yet.
    """
    if report.task_id is None:
        assert report.job_id is not None
        job = _in(pool, batch.job(pool, report.job_id))
        mine = (
            job is not None
            # guard: callback-of-the-bound-provider
            and job.provider in (None, provider)
        )
        return job, mine, False
    known = jobs.task(batch, provider, report.task_id)
    job = _in(pool, batch.job(pool, known.job_id)) if known is not None else None
    mine = (
        job is not None
        and known is not None
        # guard: callback-of-the-current-task
        and (job.provider, job.task_id, job.lease_id) == (provider, report.task_id, known.lease_id)
    )
    return job, mine, known is None


def _apply(batch: UnitOfWork, job: Job, provider: str, report: ProviderReport, tools: Tools) -> tuple[CallbackResult, Job]:
    outcome = report.outcome
    if retries.is_due(job, report, tools):  # guard: failure-that-is-tried-again
        return CallbackResult.RETRIED, retries.again(batch, job, report.error)
    if job.status in HOLDING:
        reason = f"{provider} task {job.task_id}" if job.task_id is not None else provider
        ending = Ending(outcome, "provider", reason, report.error, report.output, error_kind=report.error_kind)
        return CallbackResult.ENDED, jobs.end(batch, job, ending)
    # Only the provider knows how its task ended. So its outcome is kept beside that of a browser, an operator or a deadline.
    if (
        job.status in REFUNDED
        and job.fence
        and job.ended_by != "provider"
        and (
            job.status == "expired"
            # guard: late-success-is-kept
            or outcome == "completed"
        )
    ):
        kept = jobs.keep_late(batch, job, outcome, provider, report.output)
        return (CallbackResult.LATE, kept) if kept is not job else (CallbackResult.HISTORY, job)
    return CallbackResult.HISTORY, job


def _in(pool: str, job: Job | None) -> Job | None:
    return job if job is not None and job.pool == pool else None  # guard: callback-in-its-pool


def _count(batch: UnitOfWork, job_id: str) -> int:
    return batch.connection.execute(sa.select(sa.func.count()).where(webhooks.c.job_id == job_id)).scalar_one()


def hear_by_hand(batch: UnitOfWork, pool: str, provider: str, report: ProviderReport, why: str) -> Change[ApplyResult]:
    """Apply an outcome that an operator has read out of a callback, as if the provider had reported it.

    Args:
        batch: Holds the pool's row.
        pool: The pool of the callback.
        provider: The provider, by its name.
        report: What the operator has read, about a job_id.
        why: The reason for the history.

    Returns:
        `ended`, `late` or `history` as `hear` returns them; `waiting` if the job holds no slot; `unknown` if the pool has no
        such job.
    """
    assert report.job_id is not None
    before = _in(pool, batch.job(pool, report.job_id))
    if before is None:
        return Change(ApplyResult.UNKNOWN)
    if before.status == "queued":  # guard: unread-callback-not-for-a-waiter
        return Change(ApplyResult.WAITING, before)
    verdict, job = _apply(batch, before, provider, report, Tools())  # an operator's word is final: it is not tried again
    if verdict is not CallbackResult.HISTORY:
        at = batch.now_ms(pool)
        batch.event(pool, before.job_id, "callback", "operator", at, fence=job.fence or None, why=why)
    return Change(ApplyResult(verdict.value), job, before)
