"""The feed of the panel: the state of each pool that a page shows, read anew at each change.

All pages of a pool share one read. A pool that no page shows is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request

from gate.coordination.drift import DriftKind, Place, misplaced
from gate.coordination.queries import JobQueries, PoolSnapshot
from gate.coordination.store_health import StoreHealth, StoreTrouble
from gate.coordination.waiters import Waiters, the_line
from gate.ledger import LedgerQueries
from gate.ledger.reports.backlog import Pending
from gate.ledger.reports.open_tasks import Stopping
from gate.ledger.reports.timeline import Changed, as_changes
from gate.ledger.transitions.unread_callbacks import Unread
from gate.model.errors import GateError, StoreDown
from gate.model.job import Job, JobStatus, now_ms
from gate.slots import QueueState

log = structlog.get_logger("gate.watch")

SHOWN = 100
"""Jobs of a queue that a page shows unless it asks for all. More would slow each read."""
ALL = 500
"""Jobs of a queue that a page shows when it asks for all."""
AT_MOST_EVERY_S = {SHOWN: 0.2, ALL: 0.8}
"""Shortest time between two reads (s), by the number of jobs that are read. It joins many changes into one."""
AT_LEAST_EVERY_S = 2.0
"""Longest time between two reads (s). A notification may be lost, and a store may be down."""
GLANCE_S = 0.4
"""Time between two reads of the queue in Redis (s), one script each. No notification says that a free slot was taken."""
ENDINGS = 8
"""Jobs that ended last and that a page shows."""
UNREAD = 5
"""Unread callbacks that a page shows, the newest. They wait for an operator."""
CHANGES = 6
"""Newest changes of the pool's settings that a page shows."""
TWICE_S = 1.5
"""Time that a difference between the stores must last to count as drift (s). A commit that is under way ends within it."""
GRANTING_S = 2.0
"""Longest time that a job may wait although a slot is free (s), as in rule I7 of `gate verify`."""


@dataclass(frozen=True, slots=True, order=True)
class StoreDifference:
    """A job about which the two stores disagree.

    Attributes:
        kind: What differs.
        job_id: The job.
    """

    kind: DriftKind
    job_id: str


@dataclass(frozen=True, slots=True)
class PoolReport:
    """A pool at one moment.

    Attributes:
        view: Snapshot of the pool, the last that was read; None before the first.
        endings: Jobs that ended last.
        changes: Newest changes of the pool's settings.
        owed: Refunds that are not paid yet, when a payment has failed; None otherwise.
        undelivered: Calls to tools that are not answered yet, when a call has failed; None otherwise.
        differs: Jobs about which the stores disagree.
        unread: Newest callbacks that could not be read and wait for an operator.
        stopping: Tasks of jobs that have ended, which have to be stopped at the provider.
        down: The store that does not answer; None when both answer.
        down_since: Time of its first failure (ms since 1970).
        refusing: A store that answers and takes no writes; None when there is none.
        granting_since: Since when a job waits without a reason although a slot is free, by `time.monotonic()` (s).
        at: Time of the read, by `time.monotonic()` (s); 0 before the first.
        made: HTML that pages have rendered from this report, so that all pages share it.
    """

    view: PoolSnapshot | None = None
    endings: list[Job] = field(default_factory=list)
    changes: list[Changed] = field(default_factory=list)
    owed: Pending | None = None
    undelivered: Pending | None = None
    differs: tuple[StoreDifference, ...] = ()
    unread: list[Unread] = field(default_factory=list)
    stopping: list[Stopping] = field(default_factory=list)
    down: str | None = None
    down_since: int = 0
    refusing: StoreTrouble | None = None
    granting_since: float | None = None
    at: float = 0
    made: dict[tuple[str, bool, bool], dict[str, str]] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        """The current time by the clock of Redis (ms since 1970), estimated from the last read."""
        if self.view is None:
            return now_ms()
        return self.view.line.now_ms + round((time.monotonic() - self.at) * 1000)

    @property
    def stuck(self) -> bool:
        """Whether a job waits without a reason for longer than it may."""
        return self.granting_since is not None and time.monotonic() - self.granting_since > GRANTING_S


@dataclass(slots=True)
class _Watched:
    report: PoolReport = field(default_factory=PoolReport)
    followers: dict[asyncio.Event, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    differed: dict[StoreDifference, float] = field(default_factory=dict)


class PoolFeed:
    """Reads the pools that pages follow, and wakes these pages at each change."""

    def __init__(self, queries: JobQueries, rows: LedgerQueries, waiters: Waiters, health: StoreHealth) -> None:
        self._queries, self._rows, self._waiters, self._health = queries, rows, waiters, health
        self._watched: defaultdict[str, _Watched] = defaultdict(_Watched)

    @contextlib.contextmanager
    def followed(self, pool: str, changed: asyncio.Event, most: int = SHOWN) -> Iterator[None]:
        """Follow a pool: read it at each change, and every two seconds.

        Args:
            pool: Name of the pool.
            changed: Set after each read.
            most: Jobs of the queue that are read at most.
        """
        watched = self._watched[pool]
        if most > max(watched.followers.values(), default=0) and watched.task is not None:
            watched.task.cancel()
            watched.task = None
        watched.followers[changed] = most
        if watched.task is None:
            watched.task = asyncio.create_task(self._keep(pool, watched))
        try:
            yield
        finally:
            del watched.followers[changed]
            if not watched.followers:
                watched.task.cancel()
                self._watched.pop(pool, None)

    @contextlib.contextmanager
    def job(self, job_id: str, changed: asyncio.Event) -> Iterator[None]:
        """Follow a job.

        Args:
            job_id: The job.
            changed: Set whenever the job has changed.
        """
        with self._waiters.parked(job_id) as bell:
            task = asyncio.create_task(_pass_on(bell, changed))
            try:
                yield
            finally:
                task.cancel()

    def seen(self, pool: str) -> PoolReport | None:
        """Return the last report of a pool.

        Returns:
            The report; None when no page follows the pool, or before the first read.
        """
        watched = self._watched.get(pool)
        return watched.report if watched is not None and watched.report.at else None

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down, so that streams have to end."""
        return self._waiters.closing

    async def look(self, pool: str, most: int = SHOWN) -> PoolReport:
        """Read a pool now.

        Args:
            pool: Name of the pool.
            most: Jobs of the queue that are read at most.

        Returns:
            The report. When a store does not answer, `down` names it.

        Raises:
            PoolUnknown: There is no such pool.
        """
        return await self._look(pool, PoolReport(), most)

    async def _keep(self, pool: str, watched: _Watched) -> None:
        with self._waiters.parked(the_line(pool)) as changed:
            while not self._waiters.closing:
                changed.clear()
                most = max(watched.followers.values(), default=SHOWN)
                try:
                    report = await self._look(pool, watched.report, most)
                    watched.report = replace(report, differs=_lasting(watched, report))
                except GateError as error:
                    log.debug("pool_feed.read_failed", pool=pool, error=str(error))
                except Exception:
                    log.exception("pool_feed.read_crashed", pool=pool)
                _wake(watched)
                await asyncio.sleep(AT_MOST_EVERY_S[most])
                await self._until_it_moves(pool, watched, changed, most)
        _wake(watched)

    async def _until_it_moves(self, pool: str, watched: _Watched, changed: asyncio.Event, most: int) -> None:
        """Return when the pool has changed, or when the next read is due."""
        end = time.monotonic() + AT_LEAST_EVERY_S
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_S):
                    await changed.wait()
                    return
            try:
                line = await self._queries.line(pool, most)
            except StoreDown as error:  # Report it now: the next read would wait for the store's timeout again.
                watched.report = with_store_down(watched.report, error)
                return _wake(watched)
            if self._health.refusing != watched.report.refusing:
                return
            if watched.report.view is None or _shown(line) != _shown(watched.report.view.line):
                return

    async def _look(self, pool: str, before: PoolReport, most: int) -> PoolReport:
        try:
            view = await self._queries.pool(pool, most)
            at = time.monotonic()
            endings = await self._rows.statistics.endings(pool, ENDINGS)
            # The reason of a change is an event too, so read twice as many.
            happened = await self._rows.timelines.changes(pool, 2 * CHANGES)
            changes = as_changes(happened)[:CHANGES]
            owed, undelivered = await self._rows.backlog.refunds(pool), await self._rows.backlog.calls(pool)
            unread = await self._rows.unread.pending(pool, UNREAD)
            in_sql = await self._rows.line(pool, most + 1)
            stopping = (await self._rows.open_tasks(pool)).stopping if view.capacity is not None else []
        except StoreDown as error:
            return with_store_down(before, error)
        line = view.line
        granting = bool(
            line.queued
            and line.free
            and not (line.paused or line.cooling_until or line.cooling_tools or line.aside_until or line.away)
        )
        since = (before.granting_since or at) if granting else None
        held = {one.job_id for one in in_sql if one.granted_at is not None}
        waits = {one.job_id for one in in_sql if one.granted_at is None}
        ended = {job.job_id for job in (*view.holders, *view.queue) if job.ended}
        differs = tuple(sorted(differing(view, held, waits, ended, most)))
        return PoolReport(
            view,
            endings,
            changes,
            owed if owed.error else None,
            undelivered if undelivered.error else None,
            differs,
            unread,
            stopping,
            granting_since=since,
            at=at,
            refusing=self._health.refusing,
        )


def with_store_down(before: PoolReport, error: StoreDown) -> PoolReport:
    """Return the last report, with the store that does not answer now."""
    since = before.down_since if before.down == error.store else now_ms()
    refusing = StoreTrouble(error.store, error.detail, True, since) if error.refuses else None
    at = before.at or time.monotonic()
    return replace(before, down=error.store, down_since=since, refusing=refusing, made={}, at=at)


def _wake(watched: _Watched) -> None:
    for follower in watched.followers:
        follower.set()


def differing(view: PoolSnapshot, held: set[str], waits: set[str], ended: set[str], most: int) -> Iterator[StoreDifference]:
    """Find the jobs whose place in Redis differs from SQL.

    When a list is longer than what was read, only the differences that are certain are returned.

    Args:
        view: The pool as Redis has it.
        held: Jobs that hold a slot in SQL.
        waits: Jobs that wait in SQL.
        ended: Jobs of `view` that have ended in SQL.
        most: Jobs of the queue that were read at most.
    """
    holders, queue = set(view.line.holders), set(view.line.queue)
    known = {job.job_id for job in (*view.holders, *view.queue)}
    statuses: dict[str, JobStatus] = {
        **dict.fromkeys(ended, "completed"),
        **dict.fromkeys(waits, "queued"),
        **dict.fromkeys(held, "running"),
    }
    all_holders = len(holders) == view.line.running + view.line.granted
    all_waiters = len(queue) == view.line.queued and len(waits) <= most
    for job_id in holders | queue | held | waits:
        place = Place.SLOT if job_id in holders else Place.QUEUE if job_id in queue else None
        kind = misplaced(place, statuses.get(job_id))
        certain = {
            DriftKind.UNKNOWN_JOB: job_id not in known,
            DriftKind.LOST_LEASE: all_holders,
            DriftKind.LOST_PLACE: all_waiters,
        }
        if kind is not None and certain.get(kind, True):
            yield StoreDifference(kind, job_id)


def _shown(line: QueueState) -> tuple[Any, ...]:
    """The fields of a queue that a page shows."""
    who = line.holders, line.queue, line.running, line.granted, line.draining, line.queued
    return *who, line.limit, line.paused, line.cooling_until


def _lasting(watched: _Watched, report: PoolReport) -> tuple[StoreDifference, ...]:
    """The differences that last longer than a commit takes."""
    now = time.monotonic()
    watched.differed = {one: watched.differed.get(one, now) for one in report.differs}
    return tuple(one for one in report.differs if now - watched.differed[one] >= TWICE_S)


async def _pass_on(bell: asyncio.Event, changed: asyncio.Event) -> None:
    while True:
        await bell.wait()
        bell.clear()
        changed.set()


def feed(request: Request) -> PoolFeed:
    """Return the feed of the application that answers this request."""
    found: PoolFeed = request.app.state.pool_feed
    return found


Feed = Annotated[PoolFeed, Depends(feed)]
"""The feed, as a parameter of a route."""
