"""Routes of callbacks that could not be read: list them, apply one to a job, dismiss one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from gate.http.answers import JobOut, UnreadOut, UnreadPageOut, unread_body
from gate.http.auth.roles import ADMIN, LOOK, Asking, open_to
from gate.http.lookups import SQL_INTEGER_MAX
from gate.http.schemas import ApplyBody, DismissBody
from gate.http.services import UnreadService
from gate.http.strict_json import StrictRoute
from gate.model.job_json import job_body

router = APIRouter(prefix="/v1/callbacks/unread", tags=["webhooks"], route_class=StrictRoute)


@router.get("", response_model=UnreadPageOut)
@open_to(LOOK)
async def unread(
    unread: UnreadService,
    asking: Asking,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    after: Annotated[int, Query(ge=0, le=SQL_INTEGER_MAX)] = 0,
) -> JSONResponse:
    """List callbacks with the right secret that could not be read (422), oldest first, a page at a time.

    `times` counts how often the same body came. `body` is null to a key with the role read.
    """
    rows, following = await unread.callbacks.page(after, limit)
    return JSONResponse({"rows": [unread_body(row, asking.may_release) for row in rows], "next": following})


@router.post("/{callback_id}/apply", response_model=JobOut)
@open_to(ADMIN, conflicts={"callback_applied", "not_running", "already_ended"})
async def apply(
    callback_id: Annotated[int, Path(ge=1, le=SQL_INTEGER_MAX)], body: ApplyBody, unread: UnreadService, asking: Asking
) -> JSONResponse:
    """End a job of the same pool as the provider would have ended it, with the outcome that you read out of the callback.

    Each callback is applied once.
    """
    operator = asking.name or "operator"
    job = await unread.apply(callback_id, body.job_id, body.outcome, body.reason, operator)
    return JSONResponse(job_body(job, asking.may_release))


@router.post("/{callback_id}/dismiss", response_model=UnreadOut)
@open_to(ADMIN, conflicts={"callback_applied"})
async def dismiss(
    callback_id: Annotated[int, Path(ge=1, le=SQL_INTEGER_MAX)], body: DismissBody, unread: UnreadService, asking: Asking
) -> JSONResponse:
    """Settle a callback that is about no job of yours. It is kept with your reason, and no longer reported."""
    one = await unread.dismiss(callback_id, body.reason, asking.name or "operator")
    return JSONResponse(unread_body(one, asking.may_release))
