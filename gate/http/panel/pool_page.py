"""The page of a pool, the stream that keeps it current, and its statistics over time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.coordination.pools import ALWAYS
from gate.http.auth import session
from gate.http.auth.roles import LOOK, open_to
from gate.http.auth.session import Looking
from gate.http.panel import assets, render
from gate.http.panel.list_feed import ListFeed
from gate.http.panel.pool_feed import ALL, SHOWN, Feed, PoolReport
from gate.http.panel.routing import PanelRoute, language
from gate.http.services import LedgerService, QueryService
from gate.ledger import LedgerQueries, ServerRow
from gate.model.errors import StoreDown
from gate.model.job import now_ms

router = APIRouter(route_class=PanelRoute, include_in_schema=False)
Pool = Annotated[str, Path(max_length=64)]
PARTS = ("summary", "alerts", "unread", "actions", "slots", "accounts", "queue", "endings", "changes")
"""Parts of a pool's page. Each has its own template, and is sent only when it differs from what the page has."""
CARDS = 60
"""Slots that are drawn at most. Of more slots the page shows only the number."""
Span = Literal["hour", "day", "week"]


async def servers_of(ledger: LedgerQueries) -> list[ServerRow]:
    """Read the servers of this gate. One that is alone is not shown, and none is while SQL does not answer."""
    try:
        found = await ledger.servers()
    except StoreDown:
        return []
    return found if len(found) > 1 else []


@router.get("/", response_model=None)
@open_to(LOOK)
async def pools(
    request: Request, queries: QueryService, ledger: LedgerService, feed: Feed, list_feed: ListFeed, visitor: Looking
) -> Response:
    """Show all pools. When there is only one, show its page."""
    names = await queries.names()
    if len(names) == 1:
        return await pool(names[0], request, queries, ledger, feed, visitor)
    seen, servers = await list_feed.look(), await servers_of(ledger)
    return render.page("pools.html", request, visitor, seen=seen, servers=servers, live="/live")


@router.get("/live", response_class=EventSourceResponse)
@open_to(LOOK)
async def live_pools(request: Request, feed: ListFeed, visitor: Looking) -> AsyncIterator[ServerSentEvent]:
    """Send the list of all pools whenever it changes."""
    tongue, changed, sent = language(request), asyncio.Event(), ""
    with feed.followed(changed):
        yield hello()
        while await _again(changed) and not feed.closing:
            if not session.stands(request, visitor):
                yield ServerSentEvent(event="gate:signed-out", data=True)
                return
            reports = feed.seen()
            html = _partial("pools", render.fragment("_pools.html", tongue, seen=reports))
            if html != sent:
                yield ServerSentEvent(raw_data=html)
                sent = html
            yield _clock(max((one.now_ms for one in reports.values()), default=now_ms()))


@router.get("/pools/{pool}", response_model=None)
@open_to(LOOK)
async def pool(
    pool: Pool,
    request: Request,
    queries: QueryService,
    ledger: LedgerService,
    feed: Feed,
    visitor: Looking,
    all: bool = False,
) -> Response:
    """Show a pool. When a store is down, the page shows the last state that the feed has.

    Raises:
        PoolUnknown: There is no such pool.
    """
    report = await feed.look(pool, ALL if all else SHOWN)
    if report.view is None:
        report = feed.seen(pool) or report
    names = await queries.names()
    parts = await parts_of(pool, report, language(request), visitor.may_act)
    return render.page(
        "pool.html", request, visitor, pool=pool, parts=parts, seen=report, pools=names, span="hour", servers=await servers_of(ledger),
        live=f"/pools/{pool}/live{'?all=true' if all else ''}",
    )  # fmt: skip


async def _known(pool: Pool, queries: QueryService) -> None:
    await queries.know(pool)  # Check before the stream begins. Afterwards no status can be sent.


@router.get("/pools/{pool}/live", response_class=EventSourceResponse, dependencies=[Depends(_known)])
@open_to(LOOK)
async def live(
    pool: Pool, request: Request, feed: Feed, visitor: Looking, all: bool = False
) -> AsyncIterator[ServerSentEvent]:
    """Send the parts of the page that changed, and the clock by which the page shows deadlines."""
    tongue, changed = language(request), asyncio.Event()
    sent = dict[str, str]()
    with feed.followed(pool, changed, ALL if all else SHOWN):
        yield hello()
        while await _again(changed) and not feed.closing:
            if not session.stands(request, visitor):
                yield ServerSentEvent(event="gate:signed-out", data=True)
                return
            report = feed.seen(pool)
            if report is None:
                continue
            parts = await parts_of(pool, report, tongue, visitor.may_act)
            changes = {name: html for name, html in parts.items() if sent.get(name) != html}
            if changes:
                yield ServerSentEvent(raw_data="".join(_partial(name, html) for name, html in changes.items()))
                sent |= changes
            yield _clock(report.now_ms)


@router.get("/pools/{pool}/trends", response_model=None)
@open_to(LOOK)
async def trends(
    pool: Pool,
    request: Request,
    queries: QueryService,
    ledger: LedgerService,
    visitor: Looking,
    span: Annotated[Span, Query()] = "hour",
) -> Response:
    """Send tables of statistics. The script draws them as plots.

    Raises:
        PoolUnknown: There is no such pool.
        StoreDown: SQL does not answer.
    """
    await queries.know(pool)
    reading = ledger.statistics
    buckets = await reading.lately(pool, span)
    html = render.fragment("_trends.html", language(request), pool=pool, span=span, spans=reading.spans, buckets=buckets)
    return render.answer(html, request, visitor)


async def parts_of(pool: str, seen: PoolReport, tongue: str, may_act: bool) -> dict[str, str]:
    """Render the parts of a pool's page. Visitors with the same language and the same rights share the result.

    A long queue is rendered in a thread: on the event loop it would delay all other requests.

    Args:
        pool: Name of the pool.
        seen: State of the pool. It keeps the result.
        tongue: Language of the texts.
        may_act: Whether the visitor may change the pool.

    Returns:
        HTML of each part, by name.
    """
    stuck = seen.stuck
    key = (tongue, may_act, stuck)
    if key not in seen.made:
        values = {"pool": pool, "seen": seen, "view": seen.view, "may_act": may_act, "stuck": stuck, "cards": CARDS,
                  "deletable": _is_deletable(pool, seen)}  # fmt: skip
        is_long = seen.view is not None and len(seen.view.queue) > SHOWN
        seen.made[key] = await asyncio.to_thread(_made, tongue, values) if is_long else _made(tongue, values)
    return seen.made[key]


def _is_deletable(pool: str, seen: PoolReport) -> bool:
    line = seen.view.line if seen.view is not None else None
    return line is not None and pool != ALWAYS and not (line.running or line.granted or line.queued)


def _made(tongue: str, values: dict[str, Any]) -> dict[str, str]:
    return {name: render.fragment(f"_{name}.html", tongue, **values) for name in PARTS}


def hello() -> ServerSentEvent:
    """Make the first event of a stream, which names the version of the files. A page of another version reloads itself."""
    return ServerSentEvent(event="gate:hello", data={"version": assets.version(), "now": now_ms()}, retry=500)


def _clock(now: int) -> ServerSentEvent:
    return ServerSentEvent(event="gate:clock", data={"now": now})


def _partial(name: str, html: str) -> str:
    return f'<hx-partial hx-target="#{name}" hx-swap="innerMorph">{html}</hx-partial>'


async def _again(changed: asyncio.Event) -> bool:
    await changed.wait()
    changed.clear()
    return True
