"""Read what gate owes to others, and what others owe to gate: refunds, calls, bindings. For operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.tables import deliveries, events, jobs, owed, tasks, webhooks
from gate.ledger.transitions.inbox import KEPT_MS
from gate.model.job import now_ms


@dataclass(frozen=True, slots=True)
class Pending:
    """Refunds or calls that are not done.

    Attributes:
        count: How many.
        credits: Sum of their credits; 0 for calls.
        since: Time of the oldest (ms since 1970); None when there is none.
        error: The error of the newest that failed; None when none failed.
    """

    count: int
    credits: int
    since: int | None
    error: str | None


class Backlog:
    """Queries for work that is not done. Each raises StoreDown when SQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def refunds(self, pool: str) -> Pending:
        """Return the refunds that the owner's function has not paid."""
        query = sa.select(owed.c.amount, owed.c.since, owed.c.error).where(owed.c.pool == pool).order_by(owed.c.since)
        return await self._database.read(lambda c: _pending([(*row,) for row in c.execute(query)]))

    async def calls(self, pool: str) -> Pending:
        """Return the calls that a tool has not answered, among those that were tried."""
        query = sa.select(sa.literal(0), deliveries.c.at, deliveries.c.error)
        query = query.join(jobs, jobs.c.job_id == deliveries.c.job_id).where(jobs.c.pool == pool)
        query = query.where(_undone, deliveries.c.error.is_not(None)).order_by(deliveries.c.at)
        return await self._database.read(lambda c: _pending([(*row,) for row in c.execute(query)]))

    async def calls_by_tool(self) -> dict[str, int]:
        """Return the number of calls that are not done, by tool, whether tried or not."""
        query = sa.select(deliveries.c.tool, sa.func.count()).where(_undone).group_by(deliveries.c.tool)
        return await self._database.read(lambda c: {tool: count for tool, count in c.execute(query)})

    async def bindings(self, most: int) -> tuple[int, list[str]]:
        """Return the callbacks that wait for the binding of their task.

        Args:
            most: Number of callbacks to list at most.

        Returns:
            The number of such callbacks, and provider and task of the newest ones.
        """
        of_task = (tasks.c.provider == webhooks.c.provider) & (tasks.c.task_id == webhooks.c.task_id)
        waits = (webhooks.c.verdict == "waits", webhooks.c.at > now_ms() - KEPT_MS, ~sa.exists().where(of_task))
        count = sa.select(sa.func.count()).where(*waits)
        newest = sa.select(webhooks.c.provider, webhooks.c.task_id).where(*waits).order_by(webhooks.c.id.desc()).limit(most)

        def look(connection: Connection) -> tuple[int, list[str]]:
            return connection.execute(count).scalar_one(), [" ".join(row) for row in connection.execute(newest)]

        return await self._database.read(look)

    async def refusals(self, pool: str, lately_ms: int) -> tuple[int, int]:
        """Count how often providers refused jobs of the pool.

        Args:
            pool: Name of the pool.
            lately_ms: How far to look back (ms).

        Returns:
            The number of refusals, and the number of jobs that ran to an end.
        """
        lately = (events.c.pool == pool) & (events.c.at > now_ms() - lately_ms)
        refused = sa.select(sa.func.count()).where(lately, events.c.kind == "queued", events.c.why.is_not(None))
        ran = sa.select(sa.func.count()).where(lately, events.c.kind.in_(("completed", "failed")))
        return await self._database.read(lambda c: (c.execute(refused).scalar_one(), c.execute(ran).scalar_one()))

    async def tools_down(self, lately_ms: int) -> dict[str, str]:
        """Return the tools whose last start call shows a wrong address or a wrong secret.

        Args:
            lately_ms: How far to look back (ms).

        Returns:
            The answer or error of that call, by tool.
        """
        ended = deliveries.c.done_at.is_not(None) & (deliveries.c.done_at > now_ms() - lately_ms)
        query = sa.select(deliveries.c.tool, deliveries.c.result, deliveries.c.error)
        query = query.where(ended, deliveries.c.kind == "start").order_by(deliveries.c.done_at, deliveries.c.id)

        def look(connection: Connection) -> dict[str, str]:
            last = {row.tool: (row.result, row.error) for row in connection.execute(query)}
            return {tool: error or "" for tool, (result, error) in last.items() if result == "tool_down"}

        return await self._database.read(look)

    async def hurry(self) -> None:
        """Make every pending call and refund due at once. Raises StoreDown when SQL cannot be written."""

        def work(batch: UnitOfWork) -> None:
            connection = batch.connection
            connection.execute(deliveries.update().where(_undone).values(due_at=0))
            connection.execute(owed.update().values(due_at=0))

        await self._database.write("", "", work)


_undone = deliveries.c.done_at.is_(None)


def _pending(rows: Sequence[tuple[int, int, str | None]]) -> Pending:
    """Sum up rows of credits, time and error, the oldest first."""
    errors = [error for *_, error in rows if error is not None]
    return Pending(len(rows), sum(one[0] for one in rows), rows[0][1] if rows else None, errors[-1] if errors else None)
