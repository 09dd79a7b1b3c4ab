"""Hints: callbacks that are not believed. One makes the question about its task due soon, and is kept under an id of its own."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import tasks, webhooks
from gate.ledger.transitions import questions
from gate.model.job import Job

EARLY_HINTS = 1000
"""Hints of a provider that are kept in a pool before their tasks are bound. Any caller may send one, so they must not fill the disk."""


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
    soonest = now + questions.spacing_ms(lease_ms) // questions.SOONEST
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
