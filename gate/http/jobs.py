"""Routes of a job: acquire, read, claim, renew, release, cancel, bind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gate.http.answers import HistoryOut, JobOut, event_body
from gate.http.auth.key_cache import KeyCache
from gate.http.auth.roles import ANY_KEY, TOOL, Asking, Caller, open_to
from gate.http.schemas import AcquireBody, JobId, LeaseBody, ReasonBody, ReleaseBody, RenewBody, TaskBody
from gate.http.server.json_response import Json
from gate.http.services import AdmissionService, CallerHangUp, JobService, QueryService
from gate.http.strict_json import StrictRoute
from gate.model.errors import Invalid
from gate.model.job import Job, JobStatus, Request, new_job_id
from gate.model.job_json import job_body, task_body
from gate.model.limits import WAIT_MAX_S

router = APIRouter(prefix="/v1/pools/{pool}", tags=["jobs"], route_class=StrictRoute)
Pool = Annotated[str, Path(max_length=64)]
JobPath = Annotated[JobId, Path()]
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX_S, allow_inf_nan=False)]
REPLAYED = (b"idempotent-replayed", b"true")
"""Header of an answer that an earlier call has got already."""
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=256)]
RECONNECT_MS = 2_000
"""Time (ms) after which a browser reconnects. Its own default differs between browsers, and may be none."""
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def _answer(job: Job, caller: Caller, status: int = 200) -> JSONResponse:
    return Json(job_body(job, caller.may_release), status)


def _answer_once(job: Job, caller: Caller, status: int = 200) -> JSONResponse:
    """Answer a call that makes its caller start the job. An answer that an earlier call has got says so."""
    answer = job_body(job, caller.may_release)
    if not job.replayed:
        return Json(answer, status)
    return Json(answer | {"replayed": True}, status, REPLAYED)


def _keyed_ids(pool: Pool, asking: Asking, request: HttpRequest, idempotency_key: IdempotencyKey = None) -> tuple[str, ...]:
    """Return the job_ids that an Idempotency-Key stands for: that of the caller first, then those under other API keys."""
    if idempotency_key is None:
        return ()
    ring: KeyCache = request.app.state.keyring
    names = dict.fromkeys([asking.name, *ring.names])
    return tuple(_job_id_of(idempotency_key, pool, name) for name in names)


KeyedIds = Annotated[tuple[str, ...], Depends(_keyed_ids)]


@router.post(
    "/acquire", response_model=JobOut, responses={202: {"model": JobOut, "description": "queued, granted, or ended"}}
)
@open_to(TOOL, conflicts={"user_busy", "job_id_reused", "already_ended"}, may_be_full=True, on_fast_path=True)
async def acquire(
    pool: Pool, body: AcquireBody, admission: AdmissionService, asking: Asking, hang_up: CallerHangUp, keyed: KeyedIds = ()
) -> JSONResponse:
    """Take a slot, or join the queue.

    The answer is 200 only when the job is `running`. It is 202 when the job is `queued`, or `granted` and has to be claimed
    first. It is 202 too when the job ended during this call, in its wait for example: it was charged, and `refund` says what
    gate has given back. A job that had ended before is refused with `already_ended`.

    `replayed` and the header `Idempotent-Replayed` are `true` when an earlier call has admitted the job. Start it then only if
    you know that the earlier call was your own and that its answer was lost.

    With `"started_by": "gate"`, gate calls the `start_url` of the tool, now or when the job is granted a slot. Do not claim
    such a job. `wait_seconds` then waits until the job has been started.

    An `Idempotency-Key` stands for a job_id: the same key from the same caller is the same job. If the call has `credits`, and
    another API key has made the same call with the same content, it is that job: a rotated API key charges nothing twice.
    Beside a `job_id` it is ignored.

    A repeat may leave out `user`, `tool`, `session`, `credits` and `payload`. One that names another value, or one that the first
    call did not name, is refused with `job_id_reused`.

    A call with neither is the only one that knows its job. When it disconnects before its answer, the job is cancelled, with
    the `end_reason` `caller_gone`, unless gate starts it. When its server dies in the wait, others pass the job after 10 to 13 s.
    """
    own = body.job_id or (keyed[0] if keyed else None)
    wanted = request_of(body, own, asking.role == "tool")
    if body.job_id is None and body.credits:
        wanted = wanted._replace(aliases=keyed[1:])
    job = await admission.acquire(pool, wanted, body.wait_seconds, body.started_by == "gate", body.max_eta_seconds, hang_up)
    status = 200 if job.status == "running" else 202  # guard: waiting-acquire-sees-the-end
    return _answer_once(job, asking, status)


@router.get("/jobs/{job_id}", response_model=JobOut)
@open_to(ANY_KEY)
async def job(
    pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking, hang_up: CallerHangUp, wait_seconds: Wait = 0,
    status: JobStatus = "queued",
) -> JSONResponse:  # fmt: skip
    """Read the job. With `wait_seconds`, the answer comes when its status is no longer `status`, or after that time.

    The read is a sign of its caller, for a job with `presence_seconds`. So is a stream of its events.
    """
    job = await queries.wait(pool, job_id, status, wait_seconds, hang_up)
    asked = await queries.asked(job)
    if asked is None:
        return _answer(job, asking)
    return Json(task_body(job_body(job, asking.may_release), asked))


async def _begins(pool: Pool, job_id: JobPath, queries: QueryService, last_event_id: LastEventId = None) -> None:
    """Check before the stream begins. Afterwards no status can be sent.

    Raises:
        HTTPException: 204: the client has the outcome. By the standard of EventSource, a browser does not come again then.
    """
    job = await queries.job(pool, job_id)
    if job.ended and last_event_id == _event_id(job):  # guard: outcome-is-sent-once
        raise HTTPException(204)


def _event_id(job: Job) -> str:
    """Return what a client knows after this event, in short. A client that reconnects sends it back."""
    return f"{job.status}-{job.position}" if job.position else job.status


@router.get(
    "/jobs/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(_begins)],
    responses={204: {"description": "the client has the outcome already: `Last-Event-ID` says so"}},
)  # fmt: skip
@open_to(ANY_KEY)
async def events(pool: Pool, job_id: JobPath, queries: QueryService, asking: Asking) -> AsyncIterator[ServerSentEvent]:
    """Follow the job by Server-Sent Events.

    Each event is `event: job`, with the job as its data. One is sent when the status or the place of the job changes. The
    last one has the outcome. Each has an `id`; a client that reconnects sends the last one as `Last-Event-ID`. The answer is
    204 when that is the outcome, so an EventSource does not reconnect any more.
    """
    async for changed in queries.follow(pool, job_id):
        body = job_body(changed, asking.may_release)
        yield ServerSentEvent(event="job", id=_event_id(changed), retry=RECONNECT_MS, data=body)


@router.get("/jobs/{job_id}/history", response_model=HistoryOut)
@open_to(ANY_KEY)
async def history(pool: Pool, job_id: JobPath, queries: QueryService) -> JSONResponse:
    """List the events of a job in order, each with its cause and its reason. The list is empty once it has been pruned."""
    found = await queries.history(pool, job_id)
    return JSONResponse({"job_id": job_id, "events": [event_body(event) for event in found]})


@router.post("/jobs/{job_id}/claim", response_model=JobOut)
@open_to(TOOL, conflicts={"started_by_gate", "already_ended"}, needs_lease=True, on_fast_path=True)
async def claim(pool: Pool, job_id: JobPath, body: LeaseBody, jobs: JobService, asking: Asking) -> JSONResponse:
    """Start a granted job. It is `running` then, with a full lease from now.

    `replayed` and the header `Idempotent-Replayed` are `true` when an earlier call has claimed this lease, as for `acquire`.
    """
    return _answer_once(await jobs.claim(pool, job_id, body.lease_id), asking)


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


@router.post("/jobs/{job_id}/ask", response_model=JobOut, status_code=202)
@open_to(TOOL, conflicts={"no_task"})
async def ask(pool: Pool, job_id: JobPath, jobs: JobService, asking: Asking) -> JSONResponse:
    """Ask the provider about the job's task now. The answer changes the job as a callback would, a moment later."""
    return _answer(await jobs.ask(pool, job_id), asking, 202)


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
    """Bind the job to its task at a provider. This also claims a granted job.

    `account` must be one of the provider's accounts in this pool. The task of a job that has ended is refused, and gate stops it.
    """
    bound = await jobs.bind(pool, job_id, body.provider, body.task_id, body.lease_id, body.account)
    return _answer(bound, asking)


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
        queue_ms=_ms(body.queue_seconds), presence_ms=_ms(body.presence_seconds), unnamed=job_id is None,
    )  # fmt: skip


def _job_id_of(key: str, pool: str, name: str) -> str:
    """Derive the job_id of an Idempotency-Key from the name of the caller's API key. Never change how: callers repeat calls."""
    return f"i{hashlib.sha256(json.dumps([name, pool, key]).encode()).hexdigest()[:40]}"


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
