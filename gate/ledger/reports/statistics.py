"""Statistics of a pool over time, and its last ends. For people, read from the events of the time that they look at.

Only the rows of that time are read, however long the history is. See `first_id`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.reports.first_id import first_id
from gate.ledger.sql.job_rows import job_of, jobs_with_refund
from gate.ledger.sql.tables import events, jobs, ledger
from gate.model.job import ENDED, Job, now_ms

BACK = 20_000
"""Events of all pools that are searched for the last ends of one."""
QUANTILES = (0.5, 0.95)
"""Quantiles of waits and holds: the median and the 95th percentile."""
SPANS = {"hour": (3_600_000, 120_000), "day": (86_400_000, 1_800_000), "week": (604_800_000, 10_800_000)}
"""Length of each span and of its buckets (ms)."""


@dataclass(slots=True)
class Bucket:
    """The jobs that ended within one bucket of time.

    Attributes:
        at: Begin of the bucket (ms since 1970).
        outcomes: Number of jobs by status.
        wait_ms: Median and 95th percentile of the wait (ms); None when no job ended.
        hold_ms: The same of the time with a slot (ms); None when no job with a slot ended.
        refunds: Number of refunds.
        refunded: Credits of the refunds.
    """

    at: int
    outcomes: dict[str, int] = field(default_factory=dict)
    wait_ms: tuple[int, ...] | None = None
    hold_ms: tuple[int, ...] | None = None
    refunds: int = 0
    refunded: int = 0


class Statistics:
    """Queries for statistics. Each raises StoreDown when SQL does not answer.

    Attributes:
        spans: Names of the spans that `lately` takes.
    """

    spans = tuple(SPANS)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lately(self, pool: str, span: str) -> list[Bucket]:
        """Return the buckets of the last hour, day or week.

        Args:
            pool: Name of the pool.
            span: One of SPANS.
        """
        whole_ms, bucket_ms = SPANS[span]
        until = now_ms()
        return await self.buckets(pool, until - whole_ms + bucket_ms, until, bucket_ms)

    async def buckets(self, pool: str, since_ms: int, until_ms: int, bucket_ms: int) -> list[Bucket]:
        """Return the buckets of a time, with the empty ones.

        Args:
            pool: Name of the pool.
            since_ms: Time in the first bucket (ms since 1970).
            until_ms: Time in the last bucket (ms since 1970).
            bucket_ms: Length of a bucket (ms).
        """
        first = since_ms // bucket_ms
        found = {n: Bucket(n * bucket_ms) for n in range(first, until_ms // bucket_ms + 1)}

        def work(connection: Connection) -> list[Bucket]:
            ended = _ended(connection, pool, first * bucket_ms, bucket_ms)
            for n, status, count in connection.execute(_counted(ended)):
                if n in found:
                    found[n].outcomes[status] = count
            for name, took in (("wait_ms", ended.c.wait_ms), ("hold_ms", ended.c.hold_ms)):
                for n, *ms in connection.execute(_quantiles(ended, took)):
                    if n in found:
                        setattr(found[n], name, tuple(ms))
            for n, count, amount in connection.execute(_refunds(connection, pool, first * bucket_ms, bucket_ms)):
                if n in found:
                    found[n].refunds, found[n].refunded = count, int(amount)
            return list(found.values())

        return await self._database.reports.read(work)

    async def endings(self, pool: str, most: int) -> list[Job]:
        """Return the jobs that ended last, the newest first.

        Args:
            pool: Name of the pool.
            most: Number of jobs at most.
        """

        def work(connection: Connection) -> list[Job]:
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
            query = sa.select(events.c.job_id).where(events.c.id > newest - BACK, events.c.pool == pool)
            query = query.where(events.c.kind.in_(sorted(ENDED))).order_by(events.c.id.desc()).limit(most)
            order = [row.job_id for row in connection.execute(query)]
            rows = connection.execute(jobs_with_refund.where(jobs.c.job_id.in_(order))) if order else ()
            known = {row.job_id: job_of(row) for row in rows}
            return [known[job_id] for job_id in dict.fromkeys(order) if job_id in known]

        return await self._database.reports.read(work)


def _ended(connection: Connection, pool: str, since_ms: int, bucket_ms: int) -> sa.Subquery:
    """Build a query for one row per ended job: bucket, outcome, wait and hold."""
    held_ms = sa.case((jobs.c.granted_at.is_not(None), jobs.c.ended_at - jobs.c.granted_at))
    waited_ms = sa.func.coalesce(jobs.c.granted_at, jobs.c.ended_at) - jobs.c.enqueued_at
    of_the_time = sa.select(events.c.job_id).where(
        events.c.id >= first_id(connection, events, since_ms), events.c.pool == pool, events.c.kind.in_(sorted(ENDED))
    )
    query = sa.select(
        (jobs.c.ended_at // bucket_ms).label("n"), jobs.c.status, waited_ms.label("wait_ms"), held_ms.label("hold_ms")
    )
    return query.where(jobs.c.job_id.in_(of_the_time), jobs.c.ended_at >= since_ms).subquery()


def _counted(ended: sa.Subquery) -> sa.Select[int, str, int]:
    return sa.select(ended.c.n, ended.c.status, sa.func.count()).group_by(ended.c.n, ended.c.status)


def _quantiles(ended: sa.Subquery, took: sa.ColumnElement[int]) -> sa.Select[int, *tuple[int, ...]]:
    """Compute quantiles by rank, since SQLite has no percentile functions."""
    place = sa.func.row_number().over(partition_by=ended.c.n, order_by=took).label("place")
    of = sa.func.count().over(partition_by=ended.c.n).label("of")
    ranked = sa.select(ended.c.n, took.label("took"), place, of).where(took.is_not(None)).subquery()
    at = [sa.func.min(sa.case((ranked.c.place >= ranked.c.of * q, ranked.c.took))) for q in QUANTILES]
    return sa.select(ranked.c.n, *at).group_by(ranked.c.n)


def _refunds(connection: Connection, pool: str, since_ms: int, bucket_ms: int) -> sa.Select[int, int, int]:
    n = (ledger.c.at // bucket_ms).label("n")
    query = sa.select(n, sa.func.count(), sa.func.sum(ledger.c.amount)).group_by(n)
    of_the_time = (ledger.c.id >= first_id(connection, ledger, since_ms), ledger.c.at >= since_ms)
    return query.where(*of_the_time, ledger.c.pool == pool, ledger.c.kind == "refund")
