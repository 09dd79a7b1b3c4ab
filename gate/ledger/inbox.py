"""What providers said, each once, kept with the job that it is about.

A callback and the binding of its task may come in either order. Both hold the pool's row, so one of them is the second, and
the second applies: a callback finds the binding, or a binding finds the callback that was kept.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from gate.jobs import HOLDING, REFUNDED, Job, now_ms
from gate.ledger import changes
from gate.ledger.batch import Batch
from gate.ledger.results import Ended
from gate.ledger.tables import webhooks

KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a callback waits for the binding of its task."""
RAW_MAX = 64 * 1024
"""Characters of a body that are kept."""
RAW_OF_A_JOB = 20
"""Callbacks of one job whose bodies are kept: beyond it only that they came."""


def hear(batch: Batch, pool: str, provider: str, said: Any, raw: str) -> Ended:
    """`said` is a `gate.providers.said.Said`, `raw` its body as it came. `ended`: the job has ended by it · `late`: it came after the
    expiry, and is kept · `waits` for its binding · `history`: nothing happens · `repeat`: it was heard before.
    """
    once = sa.select(webhooks.c.id).where(
        webhooks.c.provider == provider, webhooks.c.pool == pool, webhooks.c.delivery_id == said.delivery_id
    )
    if batch.connection.execute(once).first() is not None:  # guard: callback-only-once
        return Ended("repeat")
    job, current, early = _about(batch, pool, provider, said)
    verdict = "waits" if early else "history"
    before = job
    if job is not None and current:
        verdict, job = _apply(batch, job, provider, said.outcome, said.error, said.output)
    kept = job is None or _count(batch, job.job_id) < RAW_OF_A_JOB
    row = {
        "at": now_ms(), "provider": provider, "delivery_id": said.delivery_id, "pool": pool, "task_id": said.task_id,
        "job_id": job.job_id if job else said.job_id, "outcome": said.outcome, "error": said.error,
        "output": None if said.output is None else json.dumps(said.output),
        "body": raw[:RAW_MAX] if kept else None, "verdict": verdict,
    }  # fmt: skip
    batch.connection.execute(webhooks.insert().values(**row))
    if job is not None and verdict == "history" and kept:
        why = said.outcome + ("" if current else ", of an earlier task")
        changes.event(batch, pool, job.job_id, "callback", provider, row["at"], why=why)
    return Ended(verdict, job, before)


def bound(batch: Batch, job: Job) -> Ended:
    """The job, just bound to its task; and what that task's provider has said already, in the order it came, has happened."""
    kept = sa.select(webhooks).where(
        webhooks.c.provider == job.provider,
        webhooks.c.task_id == job.task_id,
        webhooks.c.pool == job.pool,
        webhooks.c.verdict == "waits",
        webhooks.c.at > now_ms() - KEPT_MS,  # guard: kept-callback-expires
    )
    word, after = "bound", job
    assert job.provider is not None
    for row in batch.connection.execute(kept.order_by(webhooks.c.id)).all():  # guard: early-callback-is-applied
        output = None if row.output is None else json.loads(row.output)
        verdict, after = _apply(batch, after, job.provider, row.outcome, row.error, output)
        word = "ended" if verdict == "ended" else word
        told = {"verdict": verdict, "job_id": job.job_id}
        batch.connection.execute(webhooks.update().where(webhooks.c.id == row.id).values(**told))
    return Ended(word, after, job)


def _about(batch: Batch, pool: str, provider: str, said: Any) -> tuple[Job | None, bool, bool]:
    """The job; whether the provider has a say in it now: bound to him, by its current task, or by job_id to none; and whether
    nothing is bound to that task yet.
    """
    if said.task_id is None:
        job = _in(pool, batch.job(pool, said.job_id))
        mine = (
            job is not None
            # guard: callback-of-the-bound-provider
            and job.provider in (None, provider)
        )
        return job, mine, False
    known = changes.task(batch, provider, said.task_id)
    job = _in(pool, batch.job(pool, known.job_id)) if known is not None else None
    mine = (
        job is not None
        # guard: callback-of-the-current-task
        and (job.provider, job.task_id, job.lease_id) == (provider, said.task_id, known.lease_id)
    )
    return job, mine, known is None


def _apply(batch: Batch, job: Job, provider: str, outcome: str, error: str | None, output: Any) -> tuple[str, Job]:
    if job.status in HOLDING:
        reason = f"{provider} task {job.task_id}" if job.task_id is not None else provider
        return "ended", changes.end(batch, job, outcome, "provider", reason, error, output)
    # Only the provider knows how its task ended: what a browser, an operator or a deadline said does not silence it.
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
        kept = changes.keep_late(batch, job, outcome, provider, output)
        return ("late", kept) if kept is not job else ("history", job)
    return "history", job


def _in(pool: str, job: Job | None) -> Job | None:
    return job if job is not None and job.pool == pool else None  # guard: callback-in-its-pool


def _count(batch: Batch, job_id: str) -> int:
    return batch.connection.execute(sa.select(sa.func.count()).where(webhooks.c.job_id == job_id)).scalar_one()


def hear_by_hand(
    batch: Batch, pool: str, job_id: str, provider: str, outcome: str, error: str | None, output: Any, why: str
) -> Ended:
    """Apply an outcome that an operator has read out of a callback, as if the provider had said it. `why` goes into the history.

    Returns:
        `ended`, `late` or `history` as of `hear`, `waiting`: the job holds no slot, or `unknown`: the pool has no such job.
    """
    before = _in(pool, batch.job(pool, job_id))
    if before is None:
        return Ended("unknown")
    if before.status == "queued":  # guard: unread-callback-not-for-a-waiter
        return Ended("waiting", before)
    verdict, job = _apply(batch, before, provider, outcome, error, output)
    if verdict != "history":
        changes.event(batch, pool, job_id, "callback", "operator", now_ms(), fence=job.fence or None, why=why)
    return Ended(verdict, job, before)
