"""Routes of a job: acquire, read, claim, renew, release, cancel, bind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.http.auth.roles import ANY_KEY, TOOL, Asking, Caller, open_to
from gate.http.schemas import (
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
from gate.http.services import AdmissionService, CallerHangUp, JobService, QueryService
from gate.http.strict_json import StrictRoute
from gate.model.errors import Invalid
from gate.model.job import Job, JobStatus, Request, new_job_id
from gate.model.job_json import job_body
from gate.model.limits import WAIT_MAX_S

router = APIRouter(prefix="/v1/pools/{pool}", tags=["jobs"], route_class=StrictRoute)
Pool = Annotated[str, Path(max_length=64)]
JobPath = Annotated[JobId, Path()]
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def _answer(job: Job, caller: Caller, status: int = 200) -> JSONResponse:
    return Json(job_body(job, caller.may_release), status)


@router.post("/acquire", response_model=JobOut, responses={202: {"model": JobOut, "description": "queued, or granted"}})
@open_to(TOOL, conflicts={"user_busy", "job_id_reused", "already_ended"}, may_be_full=True, on_fast_path=True)
async def acquire(
    pool: Pool, body: AcquireBody, admission: AdmissionService, asking: Asking, hang_up: CallerHangUp,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:  # fmt: skip
    """Take a slot, or join the queue.

    The answer is 200 only when the job is `running`. It is 202 when the job is `queued`, or `granted` and has to be claimed
    first.

    With `"started_by": "gate"`, gate calls the `start_url` of the tool, now or when the job is granted a slot. Do not claim
    such a job. `wait_seconds` then waits until the job has been started.

    An `Idempotency-Key` stands for a job_id: the same key from the same caller is the same job. Beside a `job_id` it is
    ignored.

    A call with neither is the only one that knows its job. When it disconnects before its answer, the job is cancelled, with
    the `end_reason` `caller_gone`, unless gate starts it.
    """
    job_id = body.job_id or (_job_id_of(idempotency_key, pool, asking) if idempotency_key else None)
    wanted = request_of(body, job_id, asking.role == "tool")
    job = await admission.acquire(pool, wanted, body.wait_seconds, body.started_by == "gate", hang_up)
    return _answer(job, asking, 202 if job.status in ("queued", "granted") else 200)


@router.get("/jobs/{job_id}", response_model=JobOut)
@open_to(ANY_KEY)
async def job(
    pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking, hang_up: CallerHangUp, wait_seconds: Wait = 0,
    status: JobStatus = "queued",
) -> JSONResponse:  # fmt: skip
    """Read the job. With `wait_seconds`, the answer comes when its status is no longer `status`, or after that time.

    The read is a sign of its caller, for a job with `presence_seconds`. So is a stream of its events.
    """
    return _answer(await queries.wait(pool, job_id, status, wait_seconds, hang_up), asking)


async def _known(pool: Pool, job_id: JobPath, queries: QueryService) -> None:
    await queries.job(pool, job_id)  # Check before the stream begins. Afterwards no status can be sent.


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(_known)])
@open_to(ANY_KEY)
async def events(pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking) -> AsyncIterator[ServerSentEvent]:
    """Follow the job by Server-Sent Events.

    Each event is `event: job`, with the job as its data. One is sent when the status or the place of the job changes. The
    last one has the outcome.
    """
    async for changed in queries.follow(pool, job_id):
        yield ServerSentEvent(event="job", data=job_body(changed, asking.may_release))


@router.get("/jobs/{job_id}/history", response_model=HistoryOut)
@open_to(ANY_KEY)
async def history(pool: Pool, job_id: JobPath, queries: QueryService) -> JSONResponse:
    """List the events of a job in order, each with its cause and its reason. The list is empty once it has been pruned."""
    found = await queries.history(pool, job_id)
    return JSONResponse({"job_id": job_id, "events": [event_body(event) for event in found]})


@router.post("/jobs/{job_id}/claim", response_model=JobOut)
@open_to(TOOL, conflicts={"started_by_gate", "already_ended"}, needs_lease=True, on_fast_path=True)
async def claim(pool: Pool, job_id: JobPath, body: LeaseBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Start a granted job. It is `running` then, with a full lease from now."""
    return _answer(await jobs.claim(pool, job_id, body.lease_id), asking)


@router.post("/jobs/{job_id}/renew", response_model=JobOut)
@open_to(TOOL, conflicts={"started_by_gate", "already_ended"}, needs_lease=True, on_fast_path=True)
async def renew(pool: Pool, job_id: JobPath, body: RenewBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Extend the lease, as the holder's heartbeat. It also claims a granted job."""
    return _answer(await jobs.renew(pool, job_id, body.lease_id, _ms(body.lease_seconds)), asking)


@router.post("/jobs/{job_id}/release", response_model=JobOut)
@open_to(TOOL, conflicts={"already_ended"}, needs_lease=True, on_fast_path=True)
async def release(pool: Pool, job_id: JobPath, body: ReleaseBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Give the slot back, and report how the job ended."""
    return _answer(await jobs.release(pool, job_id, body.lease_id, body.outcome, body.error, body.output), asking)


@router.post("/jobs/{job_id}/cancel", response_model=JobOut)
@open_to(TOOL, conflicts={"already_ended"})
async def cancel(
    pool: Pool, job_id: JobPath, jobs: JobService, asking: Asking, body: ReasonBody | None = None
) -> JSONResponse:
    """End a job that has not ended."""
    return _answer(await jobs.cancel(pool, job_id, (body.reason or None) if body else None), asking)


@router.put("/jobs/{job_id}/task", response_model=JobOut)
@open_to(TOOL, conflicts={"task_taken", "started_by_gate", "already_ended"}, needs_lease=True)
async def task(pool: Pool, job_id: JobPath, body: TaskBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Bind the job to its task at a provider. This also claims a granted job."""
    return _answer(await jobs.bind(pool, job_id, body.provider, body.task_id, body.lease_id), asking)


def request_of(body: AcquireBody, job_id: str | None = None, trusted: bool = False) -> Request:
    """Make the request for a slot from the body of a call.

    Args:
        body: The body.
        job_id: The job_id; None for the one in the body, or a new one when that has none.
        trusted: The caller showed a tool's key, so the owner's function may refund the credits.

    Raises:
        Invalid: The body has credits and no job_id.
    """
    job_id = job_id or body.job_id
    if body.credits and job_id is None:
        raise Invalid("job_id", "credits need a job_id or an Idempotency-Key: without one a retry would charge twice")
    lease_ms = _ms(body.lease_seconds)
    return Request(
        job_id or new_job_id(), body.user, body.tool, body.session, body.credits, body.payload, lease_ms, trusted,
        presence_ms=_ms(body.presence_seconds), unnamed=job_id is None,
    )  # fmt: skip


def _job_id_of(key: str, pool: str, asking: Caller) -> str:
    """Derive the job_id of an Idempotency-Key. Keys of different callers or pools never meet."""
    return f"i{hashlib.sha256(json.dumps([asking.name, pool, key]).encode()).hexdigest()[:40]}"


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
