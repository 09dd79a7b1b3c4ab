"""The page of a job with its history and bookings, the page of a user's jobs, and the search for either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.coordination.queries import JobQueries
from gate.http import schemas
from gate.http.auth import session
from gate.http.auth.roles import LOOK, open_to
from gate.http.auth.session import Looking, Visitor
from gate.http.panel import render
from gate.http.panel.pool_feed import Feed
from gate.http.panel.pool_page import Pool, hello
from gate.http.panel.routing import PanelRoute, language
from gate.http.services import LedgerService, QueryService
from gate.ledger import LedgerQueries
from gate.model.errors import StoreDown
from gate.model.job import JOB_ID, now_ms
from gate.model.label import is_fit
from gate.model.limits import LABEL_MAX

router = APIRouter(route_class=PanelRoute, include_in_schema=False)
JobId = Annotated[schemas.JobId, Path()]
AT_LEAST_EVERY_S = 2.0
"""Longest time between two reads for an open page (s). After the end of a job, a refund or a callback wakes no waiter."""
JOBS_OF_A_USER = 100
"""Jobs on the page of a user, the newest. More would slow the page."""


@router.get("/pools/{pool}/jobs/{job_id}", response_model=None)
@open_to(LOOK)
async def job(
    pool: Pool, job_id: JobId, request: Request, queries: QueryService, ledger: LedgerService, visitor: Looking
) -> Response:
    """Show a job.

    Raises:
        JobUnknown: There is no such job.
        PoolUnknown: There is no such pool.
        StoreDown: SQL does not answer.
    """
    story = await _story(queries, ledger, pool, job_id, language(request), visitor)
    return render.page(
        "job.html", request, visitor, pool=pool, job_id=job_id, told=story, live=f"/pools/{pool}/jobs/{job_id}/live"
    )


async def _known(pool: Pool, job_id: JobId, queries: QueryService) -> None:
    await queries.job(pool, job_id)


@router.get("/pools/{pool}/jobs/{job_id}/live", response_class=EventSourceResponse, dependencies=[Depends(_known)])
@open_to(LOOK)
async def live(
    pool: Pool, job_id: JobId, request: Request, queries: QueryService, ledger: LedgerService, feed: Feed, visitor: Looking
) -> AsyncIterator[ServerSentEvent]:
    """Send the page's main part whenever something about the job changes."""
    tongue, changed, sent = language(request), asyncio.Event(), ""
    with feed.job(job_id, changed):
        yield hello()
        while not feed.closing:
            if not session.stands(request, visitor):
                yield ServerSentEvent(event="gate:signed-out", data=True)
                return
            try:
                story = await _story(queries, ledger, pool, job_id, tongue, visitor)
            except StoreDown as error:
                story = render.fragment("_down.html", tongue, store=error.store, since=None) + sent
            if story != sent:
                yield ServerSentEvent(raw_data=f'<hx-partial hx-target="#story" hx-swap="innerMorph">{story}</hx-partial>')
                sent = story
            yield ServerSentEvent(event="gate:clock", data={"now": now_ms()})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AT_LEAST_EVERY_S):
                    await changed.wait()
            changed.clear()


async def _story(queries: JobQueries, ledger: LedgerQueries, pool: str, job_id: str, tongue: str, visitor: Visitor) -> str:
    """Render the main part of a job's page.

    Raises:
        JobUnknown: There is no such job.
        PoolUnknown: There is no such pool.
        StoreDown: SQL does not answer.
    """
    found = await queries.job(pool, job_id)
    found = await queries.placed_if_seen(found)
    story = await ledger.timelines.of(job_id)
    assert story is not None
    entries, _ = await ledger.entries(job_id=job_id)
    values = {"job": found, "story": story, "entries": entries, "may_act": visitor.may_act, "now": now_ms()}
    return render.fragment("_story.html", tongue, **values)


@router.get("/users/{user:text}", response_model=None)
@open_to(LOOK)
async def user(user: Annotated[schemas.Label, Path()], request: Request, ledger: LedgerService, visitor: Looking) -> Response:
    """Show the newest jobs and the balance of a user.

    Raises:
        StoreDown: SQL does not answer.
    """
    jobs = await ledger.timelines.of_user(user, JOBS_OF_A_USER)
    balance = await ledger.balance(user)
    return render.page("user.html", request, visitor, user=user, jobs=jobs, balance=balance, live=None)


@router.get("/find", response_model=None)
@open_to(LOOK)
async def find(
    request: Request, ledger: LedgerService, visitor: Looking, q: Annotated[str, Query(max_length=LABEL_MAX)] = ""
) -> Response:
    """Redirect to the job of this id or task, or else to the user of this name.

    Raises:
        StoreDown: SQL does not answer.
    """
    for name in dict.fromkeys((q, q.strip())):
        if not is_fit(name):
            continue
        found = await ledger.job(name) if JOB_ID.fullmatch(name) else None
        if found is None and (bound := await ledger.timelines.of_task(name)) is not None:
            found = await ledger.job(bound)
        if found is not None:
            return RedirectResponse(f"/pools/{found.pool}/jobs/{found.job_id}", 303)
        if name and await ledger.timelines.of_user(name, 1):
            return RedirectResponse(f"/users/{quote(name, safe='')}", 303)
    return render.page("refused.html", request, visitor, 404, title="found_for", why="found_none", store="sql")
