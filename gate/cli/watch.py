"""`gate status --watch`: shows a pool, redrawn at each change and each second, until Ctrl-C.

A message through Redis says that something has changed, as it does to servers. What has changed is read from the events in SQL,
because a job may come and go between two looks. If the server stops, the command waits for it. The server may come back
with another Redis on another port. In a pipe the output is one line for each change; with `--json` each line is a document.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gate.cli import context
from gate.cli.render import as_json, console, plain, title
from gate.coordination.notifier import Notifier
from gate.coordination.queries import PoolSnapshot
from gate.coordination.waiters import the_line
from gate.explain.formatting import clock, span
from gate.http.answers import pool_body
from gate.ledger.reports.timeline import Happening, Timelines
from gate.model.errors import CannotStart, StoreDown
from gate.model.job import Job
from gate.model.job_json import moment
from gate.runtime.settings import Settings
from gate.runtime.wiring import RunningGate
from gate.telemetry import logging as logs

EVERY_S = 1.0
"""Longest time (s) between two looks. Remaining times shrink without any change, and a notification may be lost."""
AT_MOST_EVERY_S = 0.1
"""Shortest time (s) between two looks, so that a busy pool does not keep the stores and the terminal busy."""
LISTED = 100
"""Most holders and most waiters that one look reads, so that a long queue does not make it slow."""
EVENTS_MAX = 500
"""Most events that one look reads. The newest count."""
OVERLAP = 200
"""Events before the newest one seen that are read again. Their IDs are drawn before the commit, so a lower one may come later."""
LATELY = 5
"""Changes that a terminal lists under the pool."""
WIDE = 76
"""Width (columns) of the terminal below which tool and user are left out."""


def watch(settings: Settings, pool: str, json: bool) -> None:
    """Show a pool until Ctrl-C.

    Args:
        settings: Settings that name the stores.
        pool: Name of the pool.
        json: Print one JSON document for each change instead of text.

    Raises:
        PoolUnknown: There is no such pool.
        CannotStart: No server runs here when the command starts.
    """
    logs.configure(logging.CRITICAL)  # a log line would break the picture, which shows the errors that matter
    screen = _Lines(json) if json or not console.is_terminal else _Screen()
    with screen:
        asyncio.run(_until_interrupted(_keep(settings, pool, screen, _Changes(pool))))


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or Ctrl-C. Raises what it raises.

    It is cancelled again and again until it ends. redis-py may swallow one cancellation while it checks a connection with a
    timeout of zero.
    """
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, over.set)
    tasks = asyncio.create_task(work), asyncio.create_task(over.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    left: set[asyncio.Task[Any]] = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
    if not tasks[0].cancelled():
        tasks[0].result()


class _Changes:
    """Reads the events of a pool, each once."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._newest: int | None = None
        self._seen: set[int] = set()

    async def read(self, timelines: Timelines) -> list[Happening]:
        """Return the events since the last read, the oldest first. The first read returns none.

        Raises:
            StoreDown: SQL does not answer.
        """
        if self._newest is None:
            self._newest = await timelines.newest()
            self._seen = {one.id for one in await timelines.after(self._pool, self._newest - OVERLAP, EVENTS_MAX)}
            return []
        found = await timelines.after(self._pool, self._newest - OVERLAP, EVENTS_MAX)
        new = [one for one in found if one.id not in self._seen]
        self._newest = max([self._newest, *(one.id for one in new)])
        self._seen = {one.id for one in found}
        return new


async def _keep(settings: Settings, pool: str, screen: _Lines | _Screen, changes: _Changes) -> None:
    was_drawn = False
    while True:
        try:
            where = context.redis_url(settings)
            if where is None:
                raise CannotStart(context.not_running(settings))
            async with context.opened(settings, where) as gate:
                was_drawn = await _follow(settings, where, gate, pool, screen, changes) or was_drawn
        except (StoreDown, CannotStart) as error:
            if not was_drawn and isinstance(error, CannotStart):
                raise
            screen.away(error.detail)
        await asyncio.sleep(EVERY_S)


async def _follow(
    settings: Settings, where: str, gate: RunningGate, pool: str, screen: _Lines | _Screen, changes: _Changes
) -> bool:  # fmt: skip
    """Draw each change until the server behind `where` has stopped. Returns True. Raises StoreDown."""
    listening = asyncio.create_task(Notifier(gate.waiters, gate.semaphore.link).listen())
    try:
        with gate.waiters.parked(the_line(pool)) as changed:
            while context.redis_url(settings) == where:
                changed.clear()
                new = await changes.read(gate.services.ledger.timelines)  # before the pool, which is then as new as they are
                screen.draw(await gate.services.queries.pool(pool, LISTED), new)
                await asyncio.sleep(AT_MOST_EVERY_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S):
                        await changed.wait()
    finally:
        listening.cancel()
        await asyncio.wait([listening], timeout=1)
    return True


def _words(one: Happening) -> str:
    what = f"{one.kind} {one.why}" if one.why is not None and one.job_id is None else one.kind
    return what if one.job_id is None else f"{one.job_id} {what}"


class _Screen:
    """Output to a terminal. The last picture stays there."""

    def __init__(self) -> None:
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop", redirect_stdout=False)
        self._view: PoolSnapshot | None = None
        self._lately: deque[str] = deque(maxlen=LATELY)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self, view: PoolSnapshot, new: Sequence[Happening]) -> None:
        self._view = view
        self._lately.extend(f"{clock(one.at)} {_words(one)}" for one in new)
        shown = [Text(plain(one), style="dim", no_wrap=True, overflow="ellipsis") for one in self._lately]
        shown = shown if console.height > 2 * LATELY + 4 else []
        self._live.update(Group(picture(view, console, len(shown)), *shown), refresh=True)

    def away(self, why: str) -> None:
        note = Text(plain(f"{clock(round(time.time() * 1000))} {why}; waiting for it"), style="bold")
        last = [picture(self._view, console, 3)] if self._view is not None else []
        self._live.update(Group(note, *last), refresh=True)


def picture(view: PoolSnapshot, on: Console, less: int = 0) -> Group:
    """Draw a pool in as many lines as the terminal has. Each job takes one line.

    Args:
        view: The pool.
        on: The terminal.
        less: Number of lines to leave free.
    """
    line, wide = view.line, on.width >= WIDE
    heading = f"{clock(line.now_ms)} {title(view)}"
    rows_max = max(on.height - len(heading) // on.width - 4 - less, 1)  # a picture higher than the terminal cannot be redrawn
    columns = ("place", "job", "status", "tool", "user", "time") if wide else ("place", "job", "time")
    table = Table(header_style="bold", box=None, pad_edge=False, expand=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=3)
    rows = [
        (f"slot {n}", one, f"{span(max((one.expires_at or 0) - line.now_ms, 0))} left")
        for n, one in enumerate(view.holders, 1)
    ]
    rows += [(f"queue {one.position}", one, f"since {span(line.now_ms - one.enqueued_at)}{_turn(one)}") for one in view.queue]
    for place, one, when in rows[:rows_max]:
        what = (one.job_id, one.status, one.tool, one.user) if wide else (one.job_id,)
        table.add_row(*(Text(plain(str(cell or ""))) for cell in (place, *what, when)))
    more = line.running + line.granted + line.queued - min(len(rows), rows_max)
    parts: list[Any] = [Text(plain(heading), style="bold"), *([table] if rows else [])]
    return Group(*parts, *([Text(f"and {more} more")] if more > 0 else []))


def _turn(one: Job) -> str:
    return f", turn in ~ {span(round(one.eta_seconds * 1000))}" if one.eta_seconds is not None else ""


class _Lines:
    """Output to a pipe: a line for each change. It has all that happened since the last line, and how it is now."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self._last: tuple[Any, ...] | None = None
        self._jobs: dict[str, str] = {}
        self._told: deque[tuple[str, str]] = deque(maxlen=2 * LISTED)
        """States of jobs that the pool showed before their events were read. Such an event is not told again."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def draw(self, view: PoolSnapshot, new: Sequence[Happening]) -> None:
        line = view.line
        jobs = {one.job_id: _state(one) for one in [*view.holders, *view.queue]}
        now = (line.limit, line.running, line.granted, line.queued, line.paused, line.cooling_until, jobs)
        if now == self._last and not new:
            return
        news = [f"{job} {state}" for job, state in jobs.items() if self._jobs.get(job) != state]
        if len(jobs) == line.running + line.granted + line.queued:  # else a missing job may just be too far back to be listed
            news += [f"{job} gone" for job in self._jobs if job not in jobs]
        final = {
            one.id
            for one in {one.job_id: one for one in new}.values()
            if jobs.get(one.job_id or "", " ").startswith(one.kind)
        }
        past = [one for one in new if one.id not in final and not self._was_told(one)]
        begun = {(one.job_id, one.kind) for one in new}
        self._told.extend(
            (job, kind)
            for job, state in jobs.items()
            if (kind := _kind(state)) != _kind(self._jobs.get(job, "")) and (job, kind) not in begun
        )
        news = [_words(one) for one in past] + news  # a job's place now says its last event too
        self._last, self._jobs = now, jobs
        if self._json:
            as_json(pool_body(view) | {"changes": [_body(one) for one in new]})
        else:
            more = f" · {', '.join(news)}" if news else ""
            print(plain(f"{clock(line.now_ms)} {title(view)}{more}"), flush=True)

    def _was_told(self, one: Happening) -> bool:
        state = (one.job_id or "", one.kind)
        if state not in self._told:
            return False
        self._told.remove(state)
        return True

    def away(self, why: str) -> None:
        if self._last == (why,):
            return
        self._last = (why,)
        if self._json:
            as_json({"away": why})
        else:
            print(plain(f"{clock(round(time.time() * 1000))} {why}; waiting for it"), flush=True)


def _body(one: Happening) -> dict[str, Any]:
    return {"at": moment(one.at), "job_id": one.job_id, "kind": one.kind, "why": one.why}


def _kind(state: str) -> str:
    return state.partition(" ")[0]


def _state(job: Job) -> str:
    return f"queued at {job.position}" if job.status == "queued" else job.status
