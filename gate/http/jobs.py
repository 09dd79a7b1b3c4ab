"""The routes of a job: in, while it runs, out."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse

from gate.errors import Invalid
from gate.gatekeeper import Gatekeeper
from gate.http.doors import gatekeeper
from gate.http.wire import (
    WAIT_MAX_S,
    AcquireBody,
    JobId,
    JobOut,
    LeaseBody,
    ReasonBody,
    ReleaseBody,
    RenewBody,
    job_body,
)
from gate.jobs import Job, Request, new_job_id

router = APIRouter(prefix="/v1/pools/{pool}", tags=["jobs"])
Keeper = Annotated[Gatekeeper, Depends(gatekeeper)]
Pool = Annotated[str, Path(max_length=64)]
JobPath = Annotated[JobId, Path()]
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)]
Status = Literal["queued", "granted", "running", "completed", "failed", "cancelled", "expired"]


def _answer(job: Job, status: int = 200) -> JSONResponse:
    return JSONResponse(job_body(job), status)


@router.post("/acquire", response_model=JobOut, responses={202: {"model": JobOut}})
async def acquire(pool: Pool, body: AcquireBody, keeper: Keeper) -> JSONResponse:
    """Take a slot, or join the queue. 200 only with `running`; 202 with `queued` or `granted` (claim it first)."""
    job = await keeper.acquire(pool, request_of(body), body.wait_seconds)
    return _answer(job, 202 if job.status in ("queued", "granted") else 200)


@router.get("/jobs/{job_id}", response_model=JobOut)
async def job(pool: Pool, job_id: JobPath, keeper: Keeper, wait_seconds: Wait = 0, status: Status = "queued") -> JSONResponse:
    """The job. With `wait_seconds`: as soon as its status is no longer `status`, or after that time."""
    return _answer(await keeper.view.wait(pool, job_id, status, wait_seconds))


@router.post("/jobs/{job_id}/claim", response_model=JobOut)
async def claim(pool: Pool, job_id: JobPath, body: LeaseBody, keeper: Keeper) -> JSONResponse:
    """A granted job has started: `running`, a full lease from now."""
    return _answer(await keeper.claim(pool, job_id, body.lease_id))


@router.post("/jobs/{job_id}/renew", response_model=JobOut)
async def renew(pool: Pool, job_id: JobPath, body: RenewBody, keeper: Keeper) -> JSONResponse:
    """The holder's heartbeat; it claims too."""
    return _answer(await keeper.renew(pool, job_id, body.lease_id, _ms(body.lease_seconds)))


@router.post("/jobs/{job_id}/release", response_model=JobOut)
async def release(pool: Pool, job_id: JobPath, body: ReleaseBody, keeper: Keeper) -> JSONResponse:
    """Give the slot back and say how it ended."""
    return _answer(await keeper.release(pool, job_id, body.lease_id, body.outcome, body.error, body.output))


@router.post("/jobs/{job_id}/cancel", response_model=JobOut)
async def cancel(pool: Pool, job_id: JobPath, keeper: Keeper, body: ReasonBody | None = None) -> JSONResponse:
    """End any job that has not ended."""
    return _answer(await keeper.cancel(pool, job_id, (body.reason or None) if body else None))


def request_of(body: AcquireBody) -> Request:
    """Raises Invalid."""
    if body.credits and body.job_id is None:
        raise Invalid("job_id", "credits need a job_id: without one a retry would charge twice")
    lease_ms = _ms(body.lease_seconds)
    job_id = body.job_id or new_job_id()
    return Request(job_id, body.user, body.tool, body.session, body.credits, body.payload, lease_ms)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
