"""The poison jobs of a pool, as the history has them. A rebuild needs them: what Redis had counted is lost with Redis.

The rule is that of lua/requeue.lua: a job is a poison job after so many refusals in a row, each of which came while the provider took others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.job_rows import is_live
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.tables import events, jobs
from gate.model.job import Job

LOOKED_AT = 20
"""Most jobs whose refusals are read in one rebuild, the first in the line. Each costs one query, and up to two for each refusal that counts."""


def refused_at(connection: Connection, pool: Pool, live: Sequence[Job]) -> dict[str, int]:
    """Find the poison jobs among the live jobs of a pool.

    Args:
        connection: A connection in a transaction.
        pool: The pool, locked.
        live: Its live jobs. Nothing is read for those that were refused too seldom, which are nearly all.

    Returns:
        The time of the last refusal (ms since 1970) of each poison job, by job_id.
    """
    most = pool.settings.refusals_before_passing
    often = [job for job in live if job.refusals > most][:LOOKED_AT]
    found = {job.job_id: _refusals(connection, job, most + 1) for job in often}
    cooldown_ms = pool.settings.cooldown_ms
    return {
        job_id: times[0]
        for job_id, times in found.items()
        if len(times) > most and all(_took_another(connection, pool, since, at, cooldown_ms) for at, since in pairwise(times))
    }


def _refusals(connection: Connection, job: Job, newest: int) -> list[int]:
    """Return the times of the newest refusals of a job, the last one first."""
    refusal = (events.c.job_id == job.job_id, events.c.kind == "queued", events.c.why.like("refused by the provider%"))
    query = sa.select(events.c.at).where(*refusal).order_by(events.c.id.desc()).limit(newest)
    return list(connection.execute(query).scalars())


def _took_another(connection: Connection, pool: Pool, since: int, at: int, cooldown_ms: int) -> bool:
    """Say whether the provider took a job between two refusals: one was completed, or one runs for longer than a cool-down."""
    of_pool = jobs.c.pool == pool.name
    completed = (jobs.c.status == "completed") & (jobs.c.ended_at > since) & (jobs.c.ended_at <= at)
    runs = is_live & (jobs.c.status == "running") & jobs.c.granted_at.between(since, at - cooldown_ms)
    return any(connection.execute(sa.select(sa.exists().where(of_pool, such))).scalar() for such in (completed, runs))
