"""A pool as it is: its page, the stream that keeps the page true, and how it went over time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.http.auth import session
from gate.http.auth.session import Looking
from gate.http.panel import assets, render
from gate.http.panel.pool_feed import ALL, NONE, SHOWN, Feed, PoolReport
from gate.http.panel.routing import PanelRoute, language
from gate.http.services import LedgerService, QueryService
from gate.model.job import now_ms

router = APIRouter(route_class=PanelRoute, include_in_schema=False)
Pool = Annotated[str, Path(max_length=64)]
PARTS = ("summary", "alerts", "unread", "actions", "slots", "queue", "endings", "changes")
"""Of the page of a pool: each a template of its own, and sent when it is another than before."""
CARDS = 60
"""Slots that are drawn; of the others only how many there are."""
Span = Literal["hour", "day", "week"]


@router.get("/", response_model=None)
async def pools(request: Request, queries: QueryService, feed: Feed, visitor: Looking) -> Response:
    """Every pool; where there is one, that one."""
    names = await queries.names()
    if len(names) == 1:
        return await pool(names[0], request, queries, feed, visitor)
    seen = {name: await feed.look(name, NONE) for name in names}
    return render.page("pools.html", request, visitor, seen=seen, live="/live")


@router.get("/live", response_class=EventSourceResponse)
async def live_pools(request: Request, queries: QueryService, feed: Feed, visitor: Looking) -> AsyncIterator[ServerSentEvent]:
    """All pools, in one fragment."""
    names, tongue, changed, sent = await queries.names(), language(request), asyncio.Event(), ""
    with contextlib.ExitStack() as following:
        for name in names:
            following.enter_context(feed.followed(name, changed, NONE))
        yield hello()
        while await _again(changed) and not feed.closing:
            if not session.stands(request, visitor):
                yield ServerSentEvent(event="gate:signed-out", data=True)
                return
            seen = {name: found for name in names if (found := feed.seen(name)) is not None}
            html = _partial("pools", render.fragment("_pools.html", tongue, seen=seen))
            if html != sent:
                yield ServerSentEvent(raw_data=html)
                sent = html
            yield _clock(max((one.now_ms for one in seen.values()), default=now_ms()))


@router.get("/pools/{pool}", response_model=None)
async def pool(
    pool: Pool, request: Request, queries: QueryService, feed: Feed, visitor: Looking, all: bool = False
) -> Response:
    seen = await feed.look(pool, ALL if all else SHOWN)
    if seen.view is None:
        seen = feed.seen(pool) or seen
    names = await queries.names()
    parts = await parts_of(pool, seen, language(request), visitor.may_act)
    return render.page(
        "pool.html", request, visitor, pool=pool, parts=parts, seen=seen, pools=names, span="hour",
        live=f"/pools/{pool}/live{'?all=true' if all else ''}",
    )  # fmt: skip


async def _known(pool: Pool, queries: QueryService) -> None:
    await queries.know(pool)  # before the stream begins: afterwards no status can be sent


@router.get("/pools/{pool}/live", response_class=EventSourceResponse, dependencies=[Depends(_known)])
async def live(
    pool: Pool, request: Request, feed: Feed, visitor: Looking, all: bool = False
) -> AsyncIterator[ServerSentEvent]:
    """The parts of the page that changed, and the clock that deadlines are told by."""
    tongue, changed = language(request), asyncio.Event()
    sent = dict[str, str]()
    with feed.followed(pool, changed, ALL if all else SHOWN):
        yield hello()
        while await _again(changed) and not feed.closing:
            if not session.stands(request, visitor):
                yield ServerSentEvent(event="gate:signed-out", data=True)
                return
            seen = feed.seen(pool)
            if seen is None:
                continue
            parts = await parts_of(pool, seen, tongue, visitor.may_act)
            news = {name: html for name, html in parts.items() if sent.get(name) != html}
            if news:
                yield ServerSentEvent(raw_data="".join(_partial(name, html) for name, html in news.items()))
                sent |= news
            yield _clock(seen.now_ms)


@router.get("/pools/{pool}/trends", response_model=None)
async def trends(
    pool: Pool,
    request: Request,
    queries: QueryService,
    ledger: LedgerService,
    visitor: Looking,
    span: Annotated[Span, Query()] = "hour",
) -> Response:
    """Tables, which the script draws as plots."""
    await queries.know(pool)
    reading = ledger.statistics
    buckets = await reading.lately(pool, span)
    html = render.fragment("_trends.html", language(request), pool=pool, span=span, spans=reading.spans, buckets=buckets)
    return render.answer(html, request, visitor)


async def parts_of(pool: str, seen: PoolReport, tongue: str, may_act: bool) -> dict[str, str]:
    """Made once for all who read this language and may do the same. A long line beside the loop, which others need meanwhile."""
    stuck = seen.stuck
    key = (tongue, may_act, stuck)
    if key not in seen.made:
        values = {"pool": pool, "seen": seen, "view": seen.view, "may_act": may_act, "stuck": stuck, "cards": CARDS}
        is_long = seen.view is not None and len(seen.view.queue) > SHOWN
        seen.made[key] = await asyncio.to_thread(_made, tongue, values) if is_long else _made(tongue, values)
    return seen.made[key]


def _made(tongue: str, values: dict[str, Any]) -> dict[str, str]:
    return {name: render.fragment(f"_{name}.html", tongue, **values) for name in PARTS}


def hello() -> ServerSentEvent:
    """Which files the pages of this gate load: one with others loads itself anew."""
    return ServerSentEvent(event="gate:hello", data={"version": assets.version(), "now": now_ms()}, retry=500)


def _clock(now: int) -> ServerSentEvent:
    return ServerSentEvent(event="gate:clock", data={"now": now})


def _partial(name: str, html: str) -> str:
    return f'<hx-partial hx-target="#{name}" hx-swap="innerMorph">{html}</hx-partial>'


async def _again(changed: asyncio.Event) -> bool:
    await changed.wait()
    changed.clear()
    return True
