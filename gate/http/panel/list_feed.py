"""The feed of the list of pools. One read of all pools serves every page that shows the list.

Pools with jobs are read often, idle ones with all others every two seconds. A list that no page shows is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import structlog
from fastapi import Depends, Request

from gate.coordination.drift import DriftKind
from gate.coordination.queries import PoolSnapshot
from gate.coordination.services import Services
from gate.http.panel.pool_feed import TWICE_S, PoolReport, StoreDifference, with_store_down
from gate.model.errors import GateError, StoreDown

log = structlog.get_logger("gate.watch")

AT_MOST_EVERY_S = 0.5
"""Time between two reads of the pools with jobs (s)."""
ALL_EVERY_S = 2.0
"""Time between two reads of all pools (s). Another server may have changed the settings of an idle one."""
AT_ONCE = 100
"""Pools that one round trip reads. More would keep the event loop for long."""


class PoolListFeed:
    """Reads all pools while a page shows the list, and wakes these pages when it has changed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reports: dict[str, PoolReport] = {}
        self._differ_since: dict[str, float] = {}
        self._followers: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def followed(self, changed: asyncio.Event) -> Iterator[None]:
        """Follow the list.

        Args:
            changed: Set when the list has changed, and after each read of all pools.
        """
        self._followers.add(changed)
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            self._followers.discard(changed)
            if not self._followers and self._task is not None:
                self._task.cancel()
                self._task, self._reports = None, {}

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down, so that streams have to end."""
        return self._services.queries.waiters.closing

    def seen(self) -> dict[str, PoolReport]:
        """Return the last report of each pool, in order of their names. Empty when no page follows the list."""
        return self._reports

    async def look(self) -> dict[str, PoolReport]:
        """Read all pools now.

        Returns:
            A report of each, in order of their names. When a store does not answer, `down` names it.
        """
        names = await self._services.queries.names()
        return await self._read(names, {})

    async def _keep(self) -> None:
        all_at = 0.0
        while not self._services.queries.waiters.closing:
            is_whole = time.monotonic() - all_at >= ALL_EVERY_S
            try:
                before = self._reports
                if is_whole:
                    all_at = time.monotonic()
                    self._reports = self._lasting(await self._read(await self._services.queries.names(), before))
                else:
                    moving = [
                        name for name, one in before.items() if not self._services.queries.is_idle(name) or not _is_idle(one)
                    ]
                    self._reports = before | await self._read(moving, before)
                if is_whole or _lines(before) != _lines(self._reports):
                    self._wake()
            except GateError as error:
                log.debug("list_feed.read_failed", error=str(error))
            except Exception:
                log.exception("list_feed.read_crashed")
            await asyncio.sleep(AT_MOST_EVERY_S)
        self._wake()

    def _wake(self) -> None:
        for follower in self._followers:
            follower.set()

    async def _read(self, names: Sequence[str], before: dict[str, PoolReport]) -> dict[str, PoolReport]:
        """Read these pools: a script for each, in a few round trips, and one query for all."""
        try:
            held = await self._services.ledger.holders()
        except StoreDown as error:
            return {name: with_store_down(before.get(name, PoolReport()), error) for name in names}
        found = {}
        for first in range(0, len(names), AT_ONCE):
            for name, line in (await self._services.queries.lines(names[first : first + AT_ONCE])).items():
                if isinstance(line, StoreDown):
                    found[name] = with_store_down(before.get(name, PoolReport()), line)
                    continue
                lost = [held[name]] if name in held and line.running + line.granted == 0 else []
                differs = tuple(StoreDifference(DriftKind.LOST_LEASE, job_id) for job_id in lost)
                found[name] = PoolReport(PoolSnapshot(name, line, [], []), differs=differs, at=time.monotonic())
        return found

    def _lasting(self, reports: dict[str, PoolReport]) -> dict[str, PoolReport]:
        """Leave out differences that do not last longer than a commit takes."""
        now = time.monotonic()
        self._differ_since = {name: self._differ_since.get(name, now) for name, one in reports.items() if one.differs}
        young = {name for name, since in self._differ_since.items() if now - since < TWICE_S}
        return {name: replace(one, differs=()) if name in young else one for name, one in reports.items()}


def _is_idle(report: PoolReport) -> bool:
    line = report.view.line if report.view is not None else None
    return line is not None and not (line.running or line.granted or line.queued)


def _lines(reports: dict[str, PoolReport]) -> dict[str, tuple[object, ...]]:
    """What the list shows of each pool."""
    lines = {name: one.view.line for name, one in reports.items() if one.view is not None}
    return {
        name: (line.running + line.granted, line.queued, line.limit, line.paused, reports[name].down, reports[name].differs)
        for name, line in lines.items()
    }


def list_feed(request: Request) -> PoolListFeed:
    """Return the feed of the application that answers this request."""
    found: PoolListFeed = request.app.state.pool_list
    return found


ListFeed = Annotated[PoolListFeed, Depends(list_feed)]
"""The feed, as a parameter of a route."""
