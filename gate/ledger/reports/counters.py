"""Count what the ledger records, from the start of this server on: ends by cause, refunds, waits, holds.

The counters are read from the events, not incremented by the code that acts. An event is written in the transaction of its
change. So the counts hold exactly what was committed, also when a caller timed out or got its answer twice, and requests pay
nothing. In return, each server counts for all servers on this ledger, so every server shows the same numbers.

Events are read by id, each once. A count ends before the first id that an open transaction may still commit, as a page of each
feed does.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.feed import Feed
from gate.ledger.reports.refused_jobs import is_refusal
from gate.ledger.sql.tables import events, jobs, ledger
from gate.model.job import ENDED

STEP = 50_000
"""Events that one statement reads, so that no statement runs for long."""
STEPS = 10
"""Statements in one count. The next count goes on from there."""

LONG_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Histogram bounds (s) of waits and holds."""
LAG_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Histogram bounds (s) of the delay between a deadline and its reap."""


class Spread:
    """A histogram.

    Attributes:
        bounds: Upper bounds of the buckets (s).
        counts: Values in each bucket; the last one has those above all bounds.
        sum: Sum of all values (s).
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Start with zeros.

        Args:
            bounds: Upper bounds of the buckets (s).
        """
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0


class PoolCounters:
    """What happened in a pool since this server started.

    Attributes:
        admitted: Admissions by the first status.
        ended: Ends by outcome and cause.
        grants: Slots given.
        refusals: Refusals by providers.
        late: Outcomes that came after the end.
        refunds: Refunds that were booked.
        credits: Their credits.
        waits: Time from the admission to the first grant.
        holds: Time from the grant to the end.
        reap_lag: Time from a deadline to its reap.
    """

    def __init__(self) -> None:
        self.admitted: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.grants = self.refusals = self.late = self.refunds = self.credits = 0
        self.waits, self.holds, self.reap_lag = Spread(LONG_S), Spread(LONG_S), Spread(LAG_S)


class EventCounters:
    """Counts the events of all pools.

    Attributes:
        pools: The counters by pool.
        total: The counters of all pools together, those that were deleted included.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._feed = database, Feed(database, events)
        self.pools: dict[str, PoolCounters] = {}
        self.total = PoolCounters()
        self._counted: int | None = None

    async def begin(self) -> None:
        """Start to count after the newest event. A second call does nothing.

        Raises:
            StoreDown: SQL does not answer.
        """
        if self._counted is None:
            self._counted = await self._feed.newest()

    async def count(self) -> None:
        """Add the events since the last count. Run only one count at a time.

        Raises:
            StoreDown: SQL does not answer.
        """
        await self.begin()
        newest = await self._feed.newest()
        rows, paid, self._counted = await self._database.read(lambda connection: self._read(connection, newest))
        for row in rows:
            for one in (self._of(row.pool), self.total):
                _add(one, row)
        for pool, amount in paid:
            for one in (self._of(pool), self.total):
                one.refunds, one.credits = one.refunds + 1, one.credits + int(amount)

    def _of(self, pool: str) -> PoolCounters:
        return self.pools.setdefault(pool, PoolCounters())

    def _read(self, connection: Connection, newest: int) -> tuple[list[Any], list[Any], int]:
        reached = self._counted or 0
        if (top := connection.execute(_top).scalar_one()) < reached:  # a backup of the ledger was restored
            return [], [], top
        rows: list[Any] = []
        paid: list[Any] = []
        for _ in range(STEPS):
            if reached >= newest:
                break
            step = {"after": reached, "upto": min(newest, reached + STEP)}
            rows += connection.execute(_happened, step).all()
            paid += connection.execute(_paid, step).all()
            reached = step["upto"]
        return rows, paid, reached


def _add(to: PoolCounters, row: Any) -> None:
    if row.kind == "late":
        to.late += row.count
    elif row.kind in ENDED:
        to.ended[row.kind, row.cause] += row.count
        to.refunds += row.refunds
        to.credits += int(row.credits or 0)
        _spread(to.holds, row.bucket, row.count, row.took)
        _spread(to.reap_lag, row.lag_bucket, row.count, row.lag)
    elif row.kind == "queued" and row.cause == "refused":
        to.refusals += row.count
    else:
        if row.cause == "caller":
            to.admitted[row.kind] += row.count
        if row.kind != "queued":
            to.grants += row.count
            _spread(to.waits, row.bucket, row.count, row.took)


def _spread(spread: Spread, bucket: int, count: int, ms: int | None) -> None:
    """Add values to a histogram. Bucket -1 means that the row has none."""
    if bucket >= 0:
        spread.counts[bucket] += count
        spread.sum += float(ms or 0) / 1000


def _bucket(ms: Any, bounds: tuple[float, ...]) -> Any:
    steps = [(ms <= round(bound * 1000), number) for number, bound in enumerate(bounds)]
    return sa.case((ms.is_(None), -1), *steps, else_=len(bounds))


def _positive(ms: Any) -> Any:
    """Replace a negative duration by 0. It comes from two clocks that differ."""
    return sa.case((ms < 0, 0), else_=ms)


def _events() -> Any:
    """Build the query for the events in (after, upto], grouped by event and duration."""
    e, before, refund = events, events.alias("before"), ledger.alias("refund")
    granted = sa.or_(e.c.kind == "granted", (e.c.kind == "running") & (e.c.by == "caller"))
    again = sa.exists().where(before.c.job_id == e.c.job_id, before.c.id < e.c.id, before.c.kind.in_(("granted", "running")))
    ended = e.c.kind.in_(sorted(ENDED))
    booked = (refund.c.job_id == e.c.job_id) & (refund.c.kind == "refund") & ended & ~jobs.c.settles
    took = sa.case(
        (granted & ~again, _positive(e.c.at - jobs.c.enqueued_at)),
        (ended & jobs.c.granted_at.is_not(None), _positive(jobs.c.ended_at - jobs.c.granted_at)),
    )
    leased = e.c.why.in_(("lease_timeout", "claim_timeout", "hold_limit"))
    lag = sa.case(((e.c.kind == "expired") & leased, _positive(e.c.at - jobs.c.expires_at)))
    cause = sa.case(
        (e.c.kind == "expired", e.c.why),
        (is_refusal(e), "refused"),
        else_=e.c.by,
    )
    wanted = sa.or_(ended, granted, e.c.kind == "late", (e.c.kind == "queued"))
    one = (
        sa.select(
            e.c.id, e.c.pool, e.c.kind, cause.label("cause"), took.label("took"), lag.label("lag"),
            _bucket(took, LONG_S).label("bucket"), _bucket(lag, LAG_S).label("lag_bucket"), refund.c.amount,
        )
        .select_from(e.join(jobs, jobs.c.job_id == e.c.job_id).outerjoin(refund, booked))
        .where(e.c.id > sa.bindparam("after"), e.c.id <= sa.bindparam("upto"), wanted)
        .subquery()
    )  # fmt: skip
    by = (one.c.pool, one.c.kind, one.c.cause, one.c.bucket, one.c.lag_bucket)
    return sa.select(
        *by,
        sa.func.count().label("count"),
        sa.func.sum(one.c.took).label("took"),
        sa.func.sum(one.c.lag).label("lag"),
        sa.func.count(one.c.amount).label("refunds"),
        sa.func.sum(one.c.amount).label("credits"),
    ).group_by(*by)


_top = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))
_happened = _events()
_paid = sa.select(events.c.pool, events.c.why).where(
    events.c.id > sa.bindparam("after"), events.c.id <= sa.bindparam("upto"), events.c.kind == "refunded"
)
