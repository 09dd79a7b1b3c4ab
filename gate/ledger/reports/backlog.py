"""Read what gate owes to others, and what others owe to gate: refunds, calls, bindings. For operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.commit.database import Database
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.reports.first_id import first_id
from gate.ledger.reports.refused_jobs import RefusedJob, is_refusal, refused_jobs
from gate.ledger.sql.job_rows import is_live
from gate.ledger.sql.tables import deliveries, events, jobs, owed, tasks, webhooks
from gate.ledger.transitions.deliveries import GIVE_UP_MS
from gate.ledger.transitions.inbox import KEPT_MS
from gate.model.job import ENDED, now_ms


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


@dataclass(frozen=True, slots=True)
class PoolBacklog:
    """What is not done in one pool.

    Attributes:
        refunds: Refunds that the owner's function has not paid.
        calls: Calls that a tool has not answered, among those that were tried.
        refused: How often its provider refused a job lately.
        ran: How many jobs ran to an end lately.
    """

    refunds: Pending
    calls: Pending
    refused: int
    ran: int


@dataclass(frozen=True, slots=True)
class Crowd:
    """The users who wait in a pool.

    Attributes:
        waiting: Number of waiting jobs, those without a user included.
        users: Number of users who wait.
        first: The user with the most waiting jobs; empty when no user waits.
        most: Number of that user's waiting jobs.
    """

    waiting: int
    users: int
    first: str
    most: int


@dataclass(frozen=True, slots=True)
class LineLength:
    """How long the line of a pool is, and whether it was too long lately.

    Attributes:
        waiting: Jobs that wait now.
        timed_out: Jobs that lately waited for the whole queue time of the pool. Those with a time of their own are left out.
    """

    waiting: int = 0
    timed_out: int = 0


LATELY = 2000
"""Newest events among which users are counted. Their ids are the key of the table, so the count is cheap however many there are."""


class Backlog:
    """Queries for work that is not done. Each raises StoreDown when SQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def refunds(self, pool: str) -> Pending:
        """Return the refunds that the owner's function has not paid."""
        query = sa.select(owed.c.amount, owed.c.since, owed.c.error).where(owed.c.pool == pool).order_by(owed.c.since)
        return await self._database.reports.read(lambda c: _pending([(*row,) for row in c.execute(query)]))

    async def calls(self, pool: str) -> Pending:
        """Return the calls that a tool has not answered, among those that were tried."""
        query = sa.select(sa.literal(0), deliveries.c.at, deliveries.c.error)
        query = query.join(jobs, jobs.c.job_id == deliveries.c.job_id).where(jobs.c.pool == pool)
        query = query.where(_undone, deliveries.c.error.is_not(None)).order_by(deliveries.c.at)
        return await self._database.reports.read(lambda c: _pending([(*row,) for row in c.execute(query)]))

    async def by_pool(self, lately_ms: int) -> dict[str, PoolBacklog]:
        """Return what is not done in each pool, by one read. Pools in which nothing happened lately may be missing.

        Args:
            lately_ms: How far to look back for refusals (ms).
        """
        refunds = sa.select(owed.c.pool, owed.c.amount, owed.c.since, owed.c.error).order_by(owed.c.since)
        calls = sa.select(jobs.c.pool, sa.literal(0), deliveries.c.at, deliveries.c.error).order_by(deliveries.c.at)
        calls = calls.join(jobs, jobs.c.job_id == deliveries.c.job_id).where(_undone, deliveries.c.error.is_not(None))
        since = now_ms() - lately_ms
        counted = sa.select(events.c.pool, _refused, sa.func.count()).where(events.c.at > since, _refused | _ran)
        counted = counted.group_by(events.c.pool, _refused)

        def look(connection: Connection) -> dict[str, PoolBacklog]:
            rows: defaultdict[str, _Rows] = defaultdict(_Rows)
            lately = counted.where(events.c.id >= first_id(connection, events, since))
            for pool, *row in connection.execute(refunds):
                rows[pool].refunds.append((row[0], row[1], row[2]))
            for pool, *row in connection.execute(calls):
                rows[pool].calls.append((row[0], row[1], row[2]))
            for pool, was_refused, count in connection.execute(lately):
                rows[pool].counts[bool(was_refused)] = count
            return {pool: one.summed_up() for pool, one in rows.items()}

        return await self._database.reports.read(look)

    async def calls_by_tool(self) -> dict[str, int]:
        """Return the number of calls that are not done, by tool, whether tried or not."""
        query = sa.select(deliveries.c.tool, sa.func.count()).where(_undone).group_by(deliveries.c.tool)
        return await self._database.reports.read(lambda c: {tool: count for tool, count in c.execute(query)})

    async def bindings(self, most: int) -> tuple[int, list[str]]:
        """Return the callbacks that wait for the binding of their task. One that names a job which has ended waits for nothing.

        Args:
            most: Number of tasks to list at most.

        Returns:
            The number of such callbacks, and provider and task of the newest ones, each once.
        """
        of_task = (tasks.c.provider == webhooks.c.provider) & (tasks.c.task_id == webhooks.c.task_id)
        same = sa.alias(webhooks)  # a caller of finish may have named the job of that task
        of_one = (same.c.provider == webhooks.c.provider) & (same.c.task_id == webhooks.c.task_id)
        ended = sa.exists().where(of_one, jobs.c.job_id == same.c.job_id, jobs.c.ended_at.is_not(None))
        since = now_ms() - KEPT_MS
        waits = (webhooks.c.verdict == "waits", webhooks.c.at > since, ~sa.exists().where(of_task), ~ended)
        count = sa.select(sa.func.count()).where(*waits)
        task = (webhooks.c.provider, webhooks.c.task_id)
        newest = sa.select(*task).where(*waits).group_by(*task).order_by(sa.func.max(webhooks.c.id).desc()).limit(most)

        def look(connection: Connection) -> tuple[int, list[str]]:
            lately = webhooks.c.id >= first_id(connection, webhooks, since)
            found = connection.execute(newest.where(lately))
            return connection.execute(count.where(lately)).scalar_one(), [" ".join(row) for row in found]

        return await self._database.reports.read(look)

    async def refused_jobs(self, most_refusals: Mapping[str, int]) -> dict[str, list[RefusedJob]]:
        """Return the jobs that their provider always refuses while others are started, by pool. See `refused_jobs`.

        Args:
            most_refusals: Fewest refusals that count, by pool. No other pool is looked at.
        """
        refused = (
            sa.select(jobs.c.pool, sa.func.max(jobs.c.refusals)).where(is_live, jobs.c.refusals > 0).group_by(jobs.c.pool)
        )

        def look(connection: Connection) -> dict[str, list[RefusedJob]]:
            most = {pool: count for pool, count in connection.execute(refused) if pool in most_refusals}
            suspects = [pool for pool, count in most.items() if count >= most_refusals[pool]]
            return {pool: refused_jobs(connection, pool, most_refusals[pool]) for pool in suspects}

        return await self._database.reports.read(look)

    async def crowds(self) -> dict[str, Crowd]:
        """Return who waits, by pool. A pool in which no job waits is left out."""
        waits = jobs.c.ended_at.is_(None) & (jobs.c.status == "queued")
        count = sa.func.count()
        query = sa.select(jobs.c.pool, jobs.c.user, count).where(waits).group_by(jobs.c.pool, jobs.c.user)
        query = query.order_by(count.desc(), jobs.c.user)

        def look(connection: Connection) -> dict[str, Crowd]:
            found: dict[str, Crowd] = {}
            for pool, user, waiting in connection.execute(query):
                before = found.get(pool, Crowd(0, 0, "", 0))
                first, most = (before.first, before.most) if before.users or user is None else (user, waiting)
                found[pool] = Crowd(before.waiting + waiting, before.users + (user is not None), first, most)
            return found

        return await self._database.reports.read(look)

    async def lines(self, lately_ms: int) -> dict[str, LineLength]:
        """Return the length of the line of each pool in which a job waits, or has waited too long lately.

        Args:
            lately_ms: Age (ms) up to which the end of a wait counts.
        """
        waits = jobs.c.ended_at.is_(None) & (jobs.c.status == "queued")
        since = now_ms() - lately_ms
        over = (jobs.c.end_reason == "queue_timeout") & jobs.c.queue_ms.is_(None)
        by_pool = sa.select(jobs.c.pool, sa.func.count()).group_by(jobs.c.pool)

        def look(connection: Connection) -> dict[str, LineLength]:
            ended = _ended_since(connection, since)
            waiting, timed_out = (
                {pool: count for pool, count in connection.execute(by_pool.where(such))} for such in (waits, over & ended)
            )
            return {
                pool: LineLength(waiting.get(pool, 0), timed_out.get(pool, 0)) for pool in waiting.keys() | timed_out.keys()
            }

        return await self._database.reports.read(look)

    async def users_lately(self) -> dict[str, int]:
        """Return the number of users who had jobs lately, by pool. A pool without users is left out."""
        newest = sa.select(sa.func.max(events.c.id)).scalar_subquery()
        query = sa.select(jobs.c.pool, sa.func.count(jobs.c.user.distinct())).join(events, events.c.job_id == jobs.c.job_id)
        # A condition on `user` would let SQLite read all jobs by its index, instead of the newest events.
        query = query.where(events.c.id > newest - LATELY).group_by(jobs.c.pool)
        return await self._database.reports.read(lambda c: {pool: users for pool, users in c.execute(query) if users})

    async def clock_steps(self, lately_ms: int) -> dict[str, tuple[int, int, str]]:
        """Count how often the clock of Redis stepped under each pool.

        Args:
            lately_ms: How far to look back (ms).

        Returns:
            By pool: the number of steps, and time (ms since 1970) and length of the last, such as `+600.0 s`.
        """
        since = now_ms() - lately_ms
        stepped = (events.c.kind == "clock_stepped") & (events.c.at > since)
        query = sa.select(events.c.pool, events.c.at, events.c.why).where(stepped).order_by(events.c.id)

        def look(connection: Connection) -> dict[str, tuple[int, int, str]]:
            found: dict[str, tuple[int, int, str]] = {}
            for pool, at, why in connection.execute(query.where(events.c.id >= first_id(connection, events, since))):
                found[pool] = (found[pool][0] + 1 if pool in found else 1, at, why)
            return found

        return await self._database.reports.read(look)

    async def tools_down(self, lately_ms: int) -> dict[str, str]:
        """Return the tools whose last start call shows a wrong address or a wrong secret.

        Args:
            lately_ms: How far to look back (ms).

        Returns:
            The answer or error of that call, by tool.
        """
        since = now_ms() - lately_ms
        ended = deliveries.c.done_at.is_not(None) & (deliveries.c.done_at > since)
        query = sa.select(deliveries.c.tool, deliveries.c.result, deliveries.c.error)
        query = query.where(ended, deliveries.c.kind == "start").order_by(deliveries.c.done_at, deliveries.c.id)

        def look(connection: Connection) -> dict[str, str]:
            written = deliveries.c.id >= first_id(connection, deliveries, since - GIVE_UP_MS)
            last = {row.tool: (row.result, row.error) for row in connection.execute(query.where(written))}
            return {tool: error or "" for tool, (result, error) in last.items() if result == "tool_down"}

        return await self._database.reports.read(look)

    async def unstarted(self, addressed: Collection[str], lately_ms: int) -> dict[str, tuple[int, int]]:
        """Find tools without a start address whose jobs are not started.

        Args:
            addressed: Tools that have a start address.
            lately_ms: Age (ms) up to which an end counts.

        Returns:
            By tool: live jobs that gate has to start, and jobs whose claim time ran out lately. A tool that had a job started lately has
            none of the second kind.
        """
        without = jobs.c.tool.is_not(None) & jobs.c.tool.not_in(list(addressed))
        live = without & jobs.c.ended_at.is_(None)
        since = now_ms() - lately_ms
        by_tool = sa.select(jobs.c.tool, sa.func.count()).group_by(jobs.c.tool)
        wait = by_tool.where(live, jobs.c.starts, jobs.c.status.in_(("queued", "granted")))
        by_starter = jobs.c.ended_by.in_(("holder", "provider", "tool"))
        tools = sa.select(jobs.c.tool).distinct()

        def look(connection: Connection) -> dict[str, tuple[int, int]]:
            lately = without & _ended_since(connection, since)
            waiting = {tool: count for tool, count in connection.execute(wait)}
            started = (tools.where(lately, by_starter), tools.where(live, jobs.c.status == "running"))
            some_started = {tool for query in started for tool in connection.execute(query).scalars()}
            unclaimed = connection.execute(by_tool.where(lately, jobs.c.end_reason == "claim_timeout"))
            over = {tool: count for tool, count in unclaimed if tool not in some_started}
            return {tool: (waiting.get(tool, 0), over.get(tool, 0)) for tool in waiting.keys() | over.keys()}

        return await self._database.reports.read(look)

    async def hurry(self) -> None:
        """Make every pending call and refund due at once. Raises StoreDown when SQL cannot be written."""

        def work(batch: UnitOfWork) -> None:
            connection = batch.connection
            connection.execute(deliveries.update().where(_undone).values(due_at=0))
            connection.execute(owed.update().values(due_at=0))

        await self._database.write("", "", work)


def _ended_since(connection: Connection, since_ms: int) -> sa.ColumnElement[bool]:
    """Return the condition that a job ended after a time (ms since 1970). Its event is found by its id, so no index is needed."""
    first = first_id(connection, events, since_ms)
    lately = sa.select(events.c.job_id).where(events.c.id >= first, events.c.kind.in_(sorted(ENDED)))
    return jobs.c.job_id.in_(lately) & (jobs.c.ended_at > since_ms)


_undone = deliveries.c.done_at.is_(None)
_refused = is_refusal(events)
_ran = events.c.kind.in_(("completed", "failed"))


@dataclass(slots=True)
class _Rows:
    """What was read of one pool: credits, time and error of refunds and of calls, and the number of events by `_refused`."""

    refunds: list[tuple[int, int, str | None]] = field(default_factory=list)
    calls: list[tuple[int, int, str | None]] = field(default_factory=list)
    counts: dict[bool, int] = field(default_factory=dict)

    def summed_up(self) -> PoolBacklog:
        return PoolBacklog(_pending(self.refunds), _pending(self.calls), self.counts.get(True, 0), self.counts.get(False, 0))


def _pending(rows: Sequence[tuple[int, int, str | None]]) -> Pending:
    """Sum up rows of credits, time and error, the oldest first."""
    errors = [error for *_, error in rows if error is not None]
    return Pending(len(rows), sum(one[0] for one in rows), rows[0][1] if rows else None, errors[-1] if errors else None)
