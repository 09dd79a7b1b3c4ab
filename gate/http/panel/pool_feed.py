"""Pools as people watch them: who holds, who waits, what ended, and what is not as it should be. One read a change, however many
look on; none when nobody does.
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

from gate.coordination.queries import JobQueries, PoolSnapshot
from gate.coordination.waiters import Waiters, the_line
from gate.ledger import LedgerQueries
from gate.ledger.reports.backlog import Pending
from gate.ledger.reports.timeline import Changed, as_changes
from gate.ledger.transitions.unread_callbacks import Unread
from gate.model.errors import GateError, StoreDown
from gate.model.job import Job, now_ms
from gate.slots import QueueState

log = structlog.get_logger("gate.watch")

SHOWN = 100
"""Jobs of a queue that are read for whoever does not want them all."""
ALL = 500
NONE = 0
"""For whoever wants only how many."""
AT_MOST_EVERY_S = {NONE: 0.5, SHOWN: 0.2, ALL: 0.8}
"""Many changes in a moment are one for whoever looks. By how many are read."""
AT_LEAST_EVERY_S = 2.0
"""A message may be lost, a store may be away."""
GLANCE_S = 0.4
"""Nobody is sent word of a slot that was free and is taken: so the line alone is looked at, which costs Redis one script."""
ENDINGS = 8
UNREAD = 5
"""Callbacks that could not be read and wait for an operator, of those the newest."""
CHANGES = 6
TWICE_S = 1.5
"""Between two looks a commit that was on its way has come: what both saw differ is drift (as in the reconciler)."""
GRANTING_S = 2.0
"""Nobody waits so long beside a free slot (I7 of `gate verify`)."""


@dataclass(frozen=True, slots=True, order=True)
class StoreDifference:
    """A job that the stores disagree about. `kind` is `ended`, `stranger`, `lost`, `adopt` or `seat`, as in the reconciler."""

    kind: str
    job_id: str


@dataclass(frozen=True, slots=True)
class PoolReport:
    """A pool at one moment. `view` is the last that was read, None before the first; `down` the store that is away, and since when
    (ms); `owed` and `undelivered` the refunds and the calls that were tried in vain; `differs` what two looks saw; `unread` the newest callbacks that could not be read and wait for an operator; `granting_since` (monotonic) how long somebody waits beside a free slot for no reason.
    `made`: what whoever shows it has made of it, once for all.
    """

    view: PoolSnapshot | None = None
    endings: list[Job] = field(default_factory=list)
    changes: list[Changed] = field(default_factory=list)
    owed: Pending | None = None
    undelivered: Pending | None = None
    differs: tuple[StoreDifference, ...] = ()
    unread: list[Unread] = field(default_factory=list)
    down: str | None = None
    down_since: int = 0
    granting_since: float | None = None
    at: float = 0
    made: dict[tuple[str, bool, bool], dict[str, str]] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        """By Redis's clock, as good as it is known."""
        if self.view is None:
            return now_ms()
        return self.view.line.now_ms + round((time.monotonic() - self.at) * 1000)

    @property
    def stuck(self) -> bool:
        return self.granting_since is not None and time.monotonic() - self.granting_since > GRANTING_S


@dataclass(slots=True)
class _Watched:
    seen: PoolReport = field(default_factory=PoolReport)
    followers: dict[asyncio.Event, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    differed: dict[StoreDifference, float] = field(default_factory=dict)


class PoolFeed:
    def __init__(self, queries: JobQueries, rows: LedgerQueries, waiters: Waiters) -> None:
        self._queries, self._rows, self._waiters = queries, rows, waiters
        self._watched: defaultdict[str, _Watched] = defaultdict(_Watched)

    @contextlib.contextmanager
    def followed(self, pool: str, changed: asyncio.Event, most: int = SHOWN) -> Iterator[None]:
        """`changed` is set whenever the pool was looked at anew: at each change, and every two seconds."""
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
        """`changed` is set whenever the job has changed."""
        with self._waiters.parked(job_id) as bell:
            task = asyncio.create_task(_pass_on(bell, changed))
            try:
                yield
            finally:
                task.cancel()

    def seen(self, pool: str) -> PoolReport | None:
        """As last looked at, while somebody follows it."""
        watched = self._watched.get(pool)
        return watched.seen if watched is not None and watched.seen.at else None

    @property
    def closing(self) -> bool:
        return self._waiters.closing

    async def look(self, pool: str, most: int = SHOWN) -> PoolReport:
        """The pool now. Raises PoolUnknown; a store that is away is said, not raised."""
        return await self._look(pool, PoolReport(), most)

    async def _keep(self, pool: str, watched: _Watched) -> None:
        with self._waiters.parked(the_line(pool)) as changed:
            while not self._waiters.closing:
                changed.clear()
                most = max(watched.followers.values(), default=SHOWN)
                try:
                    seen = await self._look(pool, watched.seen, most)
                    watched.seen = replace(seen, differs=_still(watched, seen))
                except GateError as error:
                    log.debug("the pool is not seen", pool=pool, error=str(error))
                except Exception:
                    log.exception("the pool is not seen", pool=pool)
                _tell(watched)
                await asyncio.sleep(AT_MOST_EVERY_S[most])
                await self._until_it_moves(pool, watched, changed, most)
        _tell(watched)

    async def _until_it_moves(self, pool: str, watched: _Watched, changed: asyncio.Event, most: int) -> None:
        """At the latest when it is time to look again anyway."""
        end = time.monotonic() + AT_LEAST_EVERY_S
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_S):
                    await changed.wait()
                    return
            try:
                line = await self._queries.line(pool, most)
            except StoreDown as error:  # said now: the next look would wait for it as long again
                watched.seen = _away(watched.seen, error)
                return _tell(watched)
            if watched.seen.view is None or _moves(line) != _moves(watched.seen.view.line):
                return

    async def _look(self, pool: str, before: PoolReport, most: int) -> PoolReport:
        try:
            view = await self._queries.pool(pool, most)
            at = time.monotonic()
            endings = await self._rows.statistics.endings(pool, ENDINGS)
            happened = await self._rows.timelines.changes(pool, 2 * CHANGES)  # a reason is an event of its own
            changes = as_changes(happened)[:CHANGES]
            owed, undelivered = await self._rows.backlog.refunds(pool), await self._rows.backlog.calls(pool)
            unread = await self._rows.unread.pending(pool, UNREAD)
            in_sql = await self._rows.line(pool, most + 1)
        except StoreDown as error:
            return _away(before, error)
        line = view.line
        granting = bool(line.queued and line.free and not (line.paused or line.cooling_until or line.cooling_tools))
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
            granting_since=since,
            at=at,
        )


def _away(before: PoolReport, error: StoreDown) -> PoolReport:
    """What was seen last, and the store that does not answer now."""
    since = before.down_since if before.down == error.store else now_ms()
    return replace(before, down=error.store, down_since=since, made={}, at=before.at or time.monotonic())


def _tell(watched: _Watched) -> None:
    for follower in watched.followers:
        follower.set()


def differing(view: PoolSnapshot, held: set[str], waits: set[str], ended: set[str], most: int) -> Iterator[StoreDifference]:
    """Who holds and who waits by Redis (`view.line`) and not by SQL (`held`, `waits`), or the other way round. Of lines that are
    longer than `most` only what is sure is said.
    """
    holders, queue = set(view.line.holders), set(view.line.queue)
    known = {job.job_id for job in (*view.holders, *view.queue)}
    for job_id in (holders | queue) - held - waits:
        if job_id in ended:
            yield StoreDifference("ended", job_id)
        elif job_id not in known:
            yield StoreDifference("stranger", job_id)
    for job_id in holders & waits:
        yield StoreDifference("adopt", job_id)
    whole = len(holders) == view.line.running + view.line.granted
    for job_id in held - holders if whole else ():
        yield StoreDifference("lost", job_id)
    if len(queue) == view.line.queued and len(waits) <= most:
        for job_id in waits - holders - queue:
            yield StoreDifference("seat", job_id)


def _moves(line: QueueState) -> tuple[Any, ...]:
    """What somebody who looks at the line would see move."""
    who = line.holders, line.queue, line.running, line.granted, line.queued
    return *who, line.limit, line.paused, line.cooling_until


def _still(watched: _Watched, seen: PoolReport) -> tuple[StoreDifference, ...]:
    """What differs for longer than a commit takes."""
    now = time.monotonic()
    watched.differed = {one: watched.differed.get(one, now) for one in seen.differs}
    return tuple(one for one in seen.differs if now - watched.differed[one] >= TWICE_S)


async def _pass_on(bell: asyncio.Event, changed: asyncio.Event) -> None:
    while True:
        await bell.wait()
        bell.clear()
        changed.set()


def feed(request: Request) -> PoolFeed:
    """The feed of the application that answers this request."""
    found: PoolFeed = request.app.state.pool_feed
    return found


Feed = Annotated[PoolFeed, Depends(feed)]
