"""Hints: callbacks that are not believed. One makes the question about its task due soon, and is kept under an id of its own."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import jobs, tasks, webhooks
from gate.ledger.transitions import questions
from gate.model.job import Job

EARLY_HINTS = 1000
"""Hints of a provider that are kept in a pool before their tasks are bound. Any caller may send one, so they must not fill the disk."""


class HintUse(StrEnum):
    """What a hint would change."""

    NONE = "none"
    """Nothing: its question is due soon enough, or the task is over, or the same hint is kept."""
    NUDGE = "nudge"
    """The question about its task is due sooner, or the first hint about it is kept."""
    EARLY = "early"
    """It is kept until its task is bound."""


def use_of(connection: Connection, pool: str, provider: str, task_id: str) -> HintUse:
    """Find out what a hint would change, by reads alone. `inbox.hint` then decides again under the lock of the pool's row.

    Args:
        connection: A connection.
        pool: Name of the pool.
        provider: Name of the provider.
        task_id: The task.
    """
    its = tasks.c.ask_at, tasks.c.taken_until, tasks.c.questions, jobs.c.lease_ms, jobs.c.pool
    task = sa.select(*its).join(jobs, jobs.c.job_id == tasks.c.job_id)
    found = connection.execute(task.where(tasks.c.provider == provider, tasks.c.task_id == task_id)).first()
    kept = sa.select(webhooks.c.id).where(
        webhooks.c.provider == provider, webhooks.c.pool == pool, webhooks.c.task_id == task_id,
        webhooks.c.delivery_id == (early_id(task_id) if found is None else id_of(task_id)),
    )  # fmt: skip
    is_kept = connection.execute(kept).first() is not None
    if found is None:
        return HintUse.NONE if is_kept else HintUse.EARLY
    if found.pool != pool:
        return HintUse.NONE
    if not is_kept:
        return HintUse.NUDGE
    if found.ask_at is None:
        return HintUse.NONE
    now = clock_ms(connection)
    soonest = now + _soonest_ms(found.lease_ms)
    is_under_way = (found.taken_until or 0) > now >= found.ask_at
    is_sooner = is_under_way or found.ask_at > soonest if found.questions else found.ask_at > now
    return HintUse.NUDGE if is_sooner else HintUse.NONE


def _soonest_ms(lease_ms: int) -> int:
    """Return the shortest time (ms) between two questions about a task whose leases are that long (ms)."""
    return questions.spacing_ms(lease_ms) // questions.SOONEST


def hasten(batch: UnitOfWork, provider: str, task_id: str, lease_ms: int) -> None:
    """Make the question about a task due because of a hint: at once if it is the first, else not before the shortest spacing is over.

    The spacing counts from the hint. So it lies between any two questions, however many hints come.

    Args:
        batch: Has locked the pool's row.
        provider: Name of the provider.
        task_id: The task.
        lease_ms: Length of the leases of its job (ms).
    """
    connection = batch.connection
    now = clock_ms(connection)
    soonest = now + _soonest_ms(lease_ms)
    is_under_way = (tasks.c.taken_until > now) & (tasks.c.ask_at <= now)
    ask_at = sa.case(
        (tasks.c.questions == 0, now), (is_under_way | (tasks.c.ask_at > soonest), soonest), else_=tasks.c.ask_at
    )
    mine = (tasks.c.provider == provider) & (tasks.c.task_id == task_id) & tasks.c.ask_at.is_not(None)
    connection.execute(tasks.update().where(mine).values(ask_at=ask_at))


def ask_by_early(batch: UnitOfWork, job: Job) -> None:
    """Ask soon about a task that was just bound, if a hint came before. It counts for nothing else.

    Args:
        batch: Holds the pool's row.
        job: The job, which is bound to the task.
    """
    assert job.provider is not None and job.task_id is not None
    early = (
        (webhooks.c.provider == job.provider) & (webhooks.c.pool == job.pool) & (webhooks.c.task_id == job.task_id)
        & (webhooks.c.delivery_id == early_id(job.task_id))
    )  # fmt: skip
    values = {"delivery_id": id_of(job.task_id), "job_id": job.job_id}
    if batch.connection.execute(webhooks.update().where(early).values(**values)).rowcount:
        hasten(batch, job.provider, job.task_id, job.lease_ms)


def id_of(task_id: str) -> str:
    """Return the delivery id of the hint about a task. No report has such an id, because it has a space."""
    return f"hint {task_id}"


def early_id(task_id: str) -> str:
    """Return one of EARLY_HINTS ids. Tasks with the same one displace each other, so the hints need neither a count nor a clean-up."""
    return f"early hint {int(hashlib.sha256(task_id.encode()).hexdigest(), 16) % EARLY_HINTS}"
