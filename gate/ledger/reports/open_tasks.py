"""Read the tasks of a pool that gate asks about now, and the tasks that are being stopped."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.reports.asked_tasks import Asked, known_of
from gate.ledger.reports.statistics import BACK
from gate.ledger.sql.clock import clock_ms
from gate.ledger.sql.tables import accounts, events, jobs, tasks

GIVEN_UP_MS = 3_600_000
"""Time (ms) since the end of its job for which a task whose stop was given up is listed. A provider ends most tasks within it."""
MOST = 100
"""Tasks of each kind that are read at most. More would slow each read of an open page."""


class Stopping(NamedTuple):
    """A task whose job has ended, and which has to be stopped at its provider.

    Attributes:
        job_id: Its job.
        pool: Pool of the job.
        provider: Name of the provider.
        task_id: Its id at the provider.
        account: Name of its account; None when there is none.
        since: When its job ended (ms since 1970, by SQL's clock).
        until: Until when its slot is kept at the latest (ms since 1970); None when the slot was given away.
        stop: `owed`, or `given_up` after 10 minutes.
    """

    job_id: str
    pool: str
    provider: str
    task_id: str
    account: str | None
    since: int
    until: int | None
    stop: str


class OpenTasks(NamedTuple):
    """Tasks of a pool that are not over.

    Attributes:
        asked: What is known of the task of each job that holds a slot, by job_id.
        stopping: Tasks that have to be stopped, the longest first.
    """

    asked: dict[str, Asked]
    stopping: list[Stopping]


def open_tasks(connection: Connection, pool: str) -> OpenTasks:
    """Return the tasks of a pool that gate asks about now, and those that are being stopped.

    Args:
        connection: A connection.
        pool: Name of the pool.
    """
    now = clock_ms(connection)
    query = sa.select(tasks).join(jobs, jobs.c.job_id == tasks.c.job_id)
    current = (jobs.c.provider == tasks.c.provider) & (jobs.c.task_id == tasks.c.task_id)
    asks = query.where(tasks.c.ask_at.is_not(None), tasks.c.stop.is_(None), jobs.c.pool == pool, current).limit(MOST)
    asked = {row.job_id: known for row in connection.execute(asks) if (known := known_of(row, now)) is not None}
    stops = (
        sa.select(tasks, jobs.c.status, accounts.c.drain_ms)
        .join(jobs, jobs.c.job_id == tasks.c.job_id)
        .outerjoin(accounts, (accounts.c.provider == tasks.c.provider) & (accounts.c.name == tasks.c.account))
        .where(jobs.c.pool == pool)
        .order_by(tasks.c.stop_at, tasks.c.task_id)
        .limit(MOST)
    )
    owed = stops.where(tasks.c.ask_at.is_not(None), tasks.c.stop == "owed")
    lately = events.c.id > (connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0) - BACK
    settled = sa.select(events.c.job_id).where(
        lately, events.c.pool == pool, events.c.kind == "stop"
    )  # ids: no index has them
    lost = stops.where(jobs.c.job_id.in_(settled), tasks.c.stop == "given_up", tasks.c.stop_at > now - GIVEN_UP_MS)
    found = [*connection.execute(lost), *connection.execute(owed)]
    return OpenTasks(asked, [_stopping(row, pool, now) for row in found])


def _stopping(row: sa.Row[Any], pool: str, now: int) -> Stopping:
    until = row.stop_at + (row.drain_ms or 0)
    keeps = row.stop == "owed" and row.status != "expired" and until > now  # an expiry frees its slot at once
    return Stopping(row.job_id, pool, row.provider, row.task_id, row.account, row.stop_at, until if keeps else None, row.stop)
