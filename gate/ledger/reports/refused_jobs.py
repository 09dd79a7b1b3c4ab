"""Find the jobs that their provider always refuses, while other jobs of the pool are started."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.job_rows import is_live
from gate.ledger.sql.tables import events, jobs

NAMED_MAX = 10
"""Most such jobs of a pool that are read. Each costs two counts, and more would make the answer too long to read."""


def is_refusal(event: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that an event is a refusal. A failure that is tried again also goes back to the queue, by its provider.

    Args:
        event: The table of events, or an alias of it.
    """
    columns = event.c
    return sa.and_(
        columns.kind == "queued",
        columns.why.is_not(None),
        columns.by != "provider",  # guard: retry-is-no-refusal
    )


@dataclass(frozen=True, slots=True)
class RefusedJob:
    """A live job that its provider has refused several times in a row.

    Attributes:
        job_id: The job.
        refusals: How often.
        since: When it was refused first (ms since 1970).
        others: Jobs of the pool that were started since then, and still run or have completed.
    """

    job_id: str
    refusals: int
    since: int
    others: int


def refused_jobs(connection: Connection, pool: str, most_refusals: int) -> list[RefusedJob]:
    """Return the live jobs that were refused so often while others were started, in order of their places.

    A job that was refused while no other started is left out: the provider may be full.

    Args:
        connection: An open connection.
        pool: Name of the pool.
        most_refusals: Fewest refusals that count: the pool's setting.
    """
    often = sa.select(jobs.c.job_id, jobs.c.refusals).where(jobs.c.pool == pool, is_live, jobs.c.refusals >= most_refusals)
    found = []
    for job_id, refusals in connection.execute(often.order_by(jobs.c.ticket).limit(NAMED_MAX)).all():
        back = (events.c.job_id == job_id, is_refusal(events))
        since = connection.execute(sa.select(sa.func.min(events.c.at)).where(*back)).scalar() or 0
        other = (jobs.c.pool == pool, jobs.c.job_id != job_id, jobs.c.granted_at > since)
        runs = sa.select(sa.func.count()).where(*other, is_live, jobs.c.status == "running")
        done = sa.select(sa.func.count()).where(*other, jobs.c.status == "completed", jobs.c.ended_at > since)
        others = connection.execute(runs).scalar_one() + connection.execute(done).scalar_one()
        if others:
            found.append(RefusedJob(job_id, refusals, since, others))
    return found
