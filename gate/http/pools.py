"""Routes of a pool: its present state, its settings, and the cancellation of waiting jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from gate.http.answers import CancelledOut, DeletedOut, PoolOut, pool_body
from gate.http.auth.roles import ADMIN, ANY_KEY, TOOL, Asking, open_to
from gate.http.schemas import CancelBody, PoolBody, PoolName, ReasonBody, Text
from gate.http.services import PoolService, QueryService
from gate.http.strict_json import StrictRoute
from gate.model.errors import Invalid, PoolUnknown
from gate.model.job_json import job_body

router = APIRouter(prefix="/v1/pools", tags=["pools"], route_class=StrictRoute)
Pool = Annotated[str, Path(max_length=64)]
Reason = Annotated[Text | None, Query()]
Most = Annotated[int, Query(ge=0, le=1000)]
LISTED = 1000
"""Cancelled jobs that an answer lists unless its caller asks for fewer. All of a long queue would be megabytes."""
Listed = Annotated[int, Query(ge=0, le=LISTED)]


@router.get("", response_model=list[PoolOut])
@open_to(ANY_KEY)
async def pools(queries: QueryService, asking: Asking, limit: Most = 100) -> JSONResponse:
    """List all pools by name, each as it is now."""
    return JSONResponse([pool_body(view, asking.may_release) for view in await queries.pools(limit)])


@router.get("/{pool}", response_model=PoolOut)
@open_to(ANY_KEY)
async def pool(pool: Pool, queries: QueryService, asking: Asking, limit: Most = 100) -> JSONResponse:
    """Read the pool as it is now. `limit` is how many holders, and how many waiters, are listed at most."""
    return JSONResponse(pool_body(await queries.pool(pool, limit), asking.may_release))


@router.put("/{pool}", response_model=PoolOut, responses={201: {"model": PoolOut, "description": "made"}})
@open_to(ADMIN)
async def change_pool(
    pool: Annotated[PoolName, Path()], body: PoolBody, pools: PoolService, queries: QueryService, asking: Asking
) -> JSONResponse:
    """Change settings of a pool, or make a pool.

    A change takes effect at once, and outlasts restarts and rebuilds. A new pool (201) has the defaults for all settings that
    the body does not name.

    A shorter `cooldown_seconds` also shortens the cool-down of the pool that is under way, but not below what a tool has asked
    for. The cool-down of one tool or of one job, of a minute at most, ends as it began.
    """
    values = body.in_ms()
    try:
        if not values:
            await queries.pool(pool, 0)
            raise Invalid("body", "name at least one setting")
        return JSONResponse(pool_body(await pools.change(pool, values), asking.may_release))
    except PoolUnknown:
        made = await pools.make(pool, values)
        view = made or await pools.change(pool, values)
        return JSONResponse(pool_body(view, asking.may_release), 201 if made else 200)


@router.delete("/{pool}", response_model=DeletedOut)
@open_to(ADMIN, conflicts={"pool_not_empty"})
async def delete_pool(pool: Pool, pools: PoolService, asking: Asking, reason: Reason = None) -> JSONResponse:
    """Delete a pool that has no live job. Its jobs, their history and their money stay, and it may be made again."""
    await pools.delete(pool, reason)
    return JSONResponse({"pool": pool, "deleted": True})


@router.post("/{pool}/pause", response_model=PoolOut)
@open_to(ADMIN)
async def pause(pool: Pool, pools: PoolService, asking: Asking, body: ReasonBody | None = None) -> JSONResponse:
    """Stop granting slots until the pool is resumed. Jobs that hold a slot go on."""
    view = await pools.change(pool, {"paused": True}, body.reason if body else None)
    return JSONResponse(pool_body(view, asking.may_release))


@router.post("/{pool}/resume", response_model=PoolOut)
@open_to(ADMIN)
async def resume(pool: Pool, pools: PoolService, asking: Asking, body: ReasonBody | None = None) -> JSONResponse:
    """Grant slots again, beginning with the first in the queue."""
    view = await pools.change(pool, {"paused": False}, body.reason if body else None)
    return JSONResponse(pool_body(view, asking.may_release))


@router.post("/{pool}/cancel", response_model=CancelledOut)
@open_to(TOOL)
async def cancel_waiting(
    pool: Pool, body: CancelBody, pools: PoolService, asking: Asking, limit: Listed = LISTED
) -> JSONResponse:
    """Cancel the queued jobs of a session, or of a user. Jobs that hold a slot go on.

    `cancelled` counts all. `jobs` lists at most `limit` of them, the last in the queue first, and `left_out` says how many are not
    listed.
    """
    if (body.session is None) == (body.user is None):
        raise Invalid("session", "name a session or a user, one of the two")
    cancelled = await pools.cancel_waiting(pool, session=body.session, user=body.user)
    listed = [job_body(job, asking.may_release) for job in cancelled[:limit]]
    return JSONResponse({"cancelled": len(cancelled), "jobs": listed, "left_out": len(cancelled) - len(listed)})
