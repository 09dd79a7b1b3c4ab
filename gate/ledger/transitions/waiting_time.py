"""How long a pool had stood still, as SQL knows it. A rebuild needs it: the time in Redis is lost with Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.pool_rows import Pool
from gate.ledger.sql.tables import events
from gate.model.job import Job

Interval = tuple[int, int]
"""A time from and to (ms since 1970)."""


def stood_ms(connection: Connection, pool: Pool, live: Sequence[Job], away_ms: int | None, at: int) -> int:
    """Work out how long a pool has stood still in all, for the waits of its live jobs.

    The row of each job has the time up to its arrival. Since the newest of them, SQL knows the pauses. It does not know cool-downs: the
    rebuilt pool counts these against the waits.

    Args:
        connection: A connection in a transaction.
        pool: The pool, locked.
        live: Its live jobs.
        away_ms: How long its Redis has not answered (ms); None when this process has not called it yet. The time since the last change of
            a live job counts then.
        at: The time (ms since 1970).

    Returns:
        The time (ms).
    """
    known = max([(pool.stood_at, pool.stood_ms), *((job.enqueued_at, job.stood_ms) for job in live)])
    if known[0] == 0:
        return 0
    pauses = list(_pauses(connection, pool, known[0], at))
    if away_ms is None:
        away_ms = at - max([pool.stood_at, *(_changed_at(job) for job in live)], default=at) if live else 0
    return known[1] + _length([*pauses, (max(at - away_ms, known[0]), at)])


def _changed_at(job: Job) -> int:
    """When a live job arrived, was granted a slot, or was renewed last (ms since 1970)."""
    renewed_at = job.expires_at - job.lease_ms if job.expires_at is not None and job.status == "running" else 0
    return max(job.enqueued_at, job.granted_at or 0, renewed_at)


def _pauses(connection: Connection, pool: Pool, since: int, at: int) -> Iterable[Interval]:
    of_pool = (events.c.job_id.is_(None)) & (events.c.pool == pool.name) & events.c.kind.in_(("paused", "resumed"))
    query = sa.select(events.c.at, events.c.kind).where(of_pool, events.c.at > since).order_by(events.c.id)
    begun: int | None = None
    changes = [(change.at, change.kind) for change in connection.execute(query)]
    if (changes[0][1] == "resumed") if changes else pool.paused:
        begun = since
    for change_at, kind in changes:
        if kind == "paused":
            begun = change_at
        elif begun is not None:
            yield begun, change_at
            begun = None
    if begun is not None:
        yield begun, at


def _length(intervals: Iterable[Interval]) -> int:
    """The time (ms) that the intervals cover together. Time in two of them counts once."""
    whole, until = 0, 0
    for begin, end in sorted(intervals):
        whole += max(end - max(begin, until), 0)
        until = max(until, end)
    return whole
