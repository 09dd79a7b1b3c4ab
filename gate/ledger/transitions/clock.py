"""The clock of a pool. A rebuild needs it, because the deadlines in SQL are by that clock and not by that of Redis."""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.tables import events, pools
from gate.model.job import now_ms


def record(batch: UnitOfWork, pool: str, epoch: int, ahead_ms: int, step_ms: int) -> None:
    """Record the clock of a pool.

    Args:
        batch: The transaction.
        pool: Name of the pool.
        epoch: Epoch under which Redis answered. When the pool has another one, nothing is written.
        ahead_ms: By how much (ms) the clock of Redis is ahead of the pool's.
        step_ms: The step (ms) that is the reason, for the history; 0 when it did not step.
    """
    row = batch.pool(pool)
    if row.epoch != epoch or (row.clock_ahead_ms == ahead_ms and not step_ms):
        return
    batch.connection.execute(pools.update().where(pools.c.name == pool).values(clock_ahead_ms=ahead_ms))
    if step_ms:
        why = f"{step_ms / 1000:+.1f} s"
        batch.connection.execute(events.insert().values(at=now_ms(), pool=pool, kind="clock_stepped", by="gate", why=why))
