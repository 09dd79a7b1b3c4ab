"""The routes of a job: in, while it runs, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.http.auth.roles import Asking, Caller
from gate.http.schemas import (
    WAIT_MAX_S,
    AcquireBody,
    HistoryOut,
    JobId,
    JobOut,
    LeaseBody,
    ReasonBody,
    ReleaseBody,
    RenewBody,
    TaskBody,
    event_body,
)
from gate.http.server.json_response import Json
from gate.http.services import AdmissionService, JobService, QueryService
from gate.http.strict_json import StrictRoute
from gate.model.errors import Invalid
from gate.model.job import Job, Request, new_job_id
from gate.model.job_json import job_body

router = APIRouter(prefix="/v1/pools/{pool}", tags=["jobs"], route_class=StrictRoute)
Pool = Annotated[str, Path(max_length=64)]
JobPath = Annotated[JobId, Path()]
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)]
Status = Literal["queued", "granted", "running", "completed", "failed", "cancelled", "expired"]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def _answer(job: Job, caller: Caller, status: int = 200) -> JSONResponse:
    return Json(job_body(job, caller.may_release), status)


@router.post("/acquire", response_model=JobOut, responses={202: {"model": JobOut, "description": "queued, or granted"}})
async def acquire(
    pool: Pool, body: AcquireBody, admission: AdmissionService, asking: Asking, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Take a slot, or join the queue. 200 only with `running`; 202 with `queued` or `granted` (claim it first).

    With `"started_by": "gate"`, gate starts the job itself by the `start_url` of its tool, now or when its turn comes: do not claim it.
    `wait_seconds` then waits until the job has been started.

    An `Idempotency-Key` stands for a job_id: the same key from the same caller is the same job. Beside a `job_id` it counts for nothing.
    """
    job_id = body.job_id or (_job_id_of(idempotency_key, pool, asking) if idempotency_key else None)
    wanted = request_of(body, job_id, asking.role == "tool")
    job = await admission.acquire(pool, wanted, body.wait_seconds, by_gate=body.started_by == "gate")
    return _answer(job, asking, 202 if job.status in ("queued", "granted") else 200)


@router.get("/jobs/{job_id}", response_model=JobOut)
async def job(
    pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking, wait_seconds: Wait = 0, status: Status = "queued"
) -> JSONResponse:
    """The job. With `wait_seconds`: as soon as its status is no longer `status`, or after that time."""
    return _answer(await queries.wait(pool, job_id, status, wait_seconds), asking)


async def _known(pool: Pool, job_id: JobPath, queries: QueryService) -> None:
    await queries.job(pool, job_id)  # before the stream begins: afterwards no status can be sent


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(_known)])
async def events(pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking) -> AsyncIterator[ServerSentEvent]:
    """Server-Sent Events: `event: job`, data = the job; when its status or its place changes; the last has its outcome."""
    async for changed in queries.follow(pool, job_id):
        yield ServerSentEvent(event="job", data=job_body(changed, asking.may_release))


@router.get("/jobs/{job_id}/history", response_model=HistoryOut)
async def history(pool: Pool, job_id: JobPath, queries: QueryService) -> JSONResponse:
    """What happened to a job, in order, with who and why. Empty once it is pruned."""
    found = await queries.history(pool, job_id)
    return JSONResponse({"job_id": job_id, "events": [event_body(event) for event in found]})


@router.post("/jobs/{job_id}/claim", response_model=JobOut)
async def claim(pool: Pool, job_id: JobPath, body: LeaseBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """A granted job has started: `running`, a full lease from now."""
    return _answer(await jobs.claim(pool, job_id, body.lease_id), asking)


@router.post("/jobs/{job_id}/renew", response_model=JobOut)
async def renew(pool: Pool, job_id: JobPath, body: RenewBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """The holder's heartbeat; it claims too."""
    return _answer(await jobs.renew(pool, job_id, body.lease_id, _ms(body.lease_seconds)), asking)


@router.post("/jobs/{job_id}/release", response_model=JobOut)
async def release(pool: Pool, job_id: JobPath, body: ReleaseBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Give the slot back and say how it ended."""
    return _answer(await jobs.release(pool, job_id, body.lease_id, body.outcome, body.error, body.output), asking)


@router.post("/jobs/{job_id}/cancel", response_model=JobOut)
async def cancel(
    pool: Pool, job_id: JobPath, jobs: JobService, asking: Asking, body: ReasonBody | None = None
) -> JSONResponse:
    """End any job that has not ended."""
    return _answer(await jobs.cancel(pool, job_id, (body.reason or None) if body else None), asking)


@router.put("/jobs/{job_id}/task", response_model=JobOut)
async def task(pool: Pool, job_id: JobPath, body: TaskBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Which provider task this is; it claims too."""
    return _answer(await jobs.bind(pool, job_id, body.provider, body.task_id, body.lease_id), asking)


def request_of(body: AcquireBody, job_id: str | None = None, trusted: bool = False) -> Request:
    """Raises Invalid."""
    job_id = job_id or body.job_id
    if body.credits and job_id is None:
        raise Invalid("job_id", "credits need a job_id or an Idempotency-Key: without one a retry would charge twice")
    lease_ms = _ms(body.lease_seconds)
    return Request(job_id or new_job_id(), body.user, body.tool, body.session, body.credits, body.payload, lease_ms, trusted)


def _job_id_of(key: str, pool: str, asking: Caller) -> str:
    """Each caller's keys are his own, in each pool."""
    return f"i{hashlib.sha256(json.dumps([asking.name, pool, key]).encode()).hexdigest()[:40]}"


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
