"""Compatible routes: paths, bodies and answers of the queue manager that gate replaces, on the services of gate.

Installed front ends cannot be changed. So unknown fields are ignored, refusals are `{"error": …}`, and no answer is ever
cached. A table of the old system is the tool of a job in gate, and the job's pool is that of the tool.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import JsonValue, ValidationError

from gate.coordination.queries import PoolSnapshot
from gate.coordination.services import Services
from gate.http.auth.roles import ANYONE, TOOL, Asking, Caller, open_to
from gate.http.legacy_bodies import Body, CancelBody, CheckBody, EnqueueBody, FinishBody, JobBody, SessionBody, UserBody
from gate.http.problems import OLD_HEADERS as HEADERS
from gate.http.problems import RETRY_AFTER_S, TABLE, as_postgrest
from gate.http.services import AllServices
from gate.model.errors import (
    AlreadyEnded,
    GateError,
    JobUnknown,
    LeaseLost,
    NoTask,
    QueueFull,
    StoreDown,
    ToolUnknown,
    UserBusy,
)
from gate.model.job import HOLDING, REFUNDED, Job
from gate.model.job import Request as Wanted
from gate.model.limits import QUEUE_MAX
from gate.model.messages import Outcome, RelayedPayload
from gate.model.tool import Tool
from gate.providers.parsing import tolerantly

MANAGER = "/functions/v1/runninghub-queue-manager"
"""Path of the old queue manager, which installed front ends call."""
PREFLIGHT = HEADERS | {
    "Access-Control-Allow-Methods": "POST, GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "authorization, x-client-info, apikey, content-type, content-profile, accept-profile, "
    "accept, prefer, range, x-region, x-supabase-api-version, x-retry-count, x-request-id, traceparent, tracestate, baggage",
    "Access-Control-Max-Age": "86400",
}
"""Headers of the answer to a preflight request. They allow the request headers that installed front ends send."""
ASKED_WITHIN_S = 3.0
"""Longest wait (s) for the provider's word before a job is failed by the clock of its front end."""
RECONCILED_WITHIN_S = 8.0
"""Longest wait (s) for the provider's word in `reconcile`."""
log = structlog.get_logger("gate.tools")
_without_start_url: set[str] = set()
"""Tables whose tools were warned about. A warning at each call would flood the log."""
B = TypeVar("B", bound=Body)
Answer = dict[str, Any] | list[dict[str, Any]]
Path = Callable[[Services, Any], Awaitable[Answer]]
router = APIRouter(include_in_schema=False)


# ---- the paths


async def check(services: Services, body: CheckBody) -> Answer:
    """Take a free slot for the job that the body names, in one step. Without a free slot nothing is queued.

    A call without a job is never promised a slot. Else five callers that each read of three free slots would start five
    tasks.

    Raises:
        _Missing: The body names a job and no table.
        GateError: `Admission.take` has refused the job, except because it has ended.
    """
    if body.jobId is not None and body.table is None:
        raise _Missing("table")
    pool = _pool(body)
    if body.jobId is None:
        view = await services.queries.pool(pool, 0)
        free = _free(view) if body._counts_slots else 0  # guard: nameless-check-promises-no-slot
        return {"available": free > 0, **_counts(view, _in_use(view), free)}
    mine = None
    with contextlib.suppress(AlreadyEnded):
        mine = await services.admission.take(pool, _wanted(body))
    view = await services.queries.pool(pool, 0)
    running = _in_use(view) - (1 if mine else 0)  # without the job itself, so that a repeat gets the same answer
    free = max(view.line.limit - running, 1) if mine else 0
    return {"available": free > 0, **_counts(view, running, free)}


async def enqueue(services: Services, body: EnqueueBody) -> Answer:
    """Admit a job that gate starts. With a free slot the answer waits for its start call.

    Callers take `queued` or `taskId` for a success and anything else for a failed start. So a job whose start call is still
    under way is answered as queued.

    Raises:
        _NotStarted: The job has ended without having been started, and was not completed.
        GateError: `Admission.enqueue` has refused the job, except because it has ended.
    """
    _warn_without_start_url(body._tools[body.table])
    repeat = await services.ledger.job(body.jobId) is not None
    try:
        job = await services.admission.enqueue(_pool(body), _wanted(body))
    except AlreadyEnded as error:
        assert error.job is not None
        job = error.job
    if job.ended and job.status != "completed" and (job.task_id is None or not job.starts):
        raise _NotStarted(job)
    view = await services.queries.pool(job.pool, 0)
    starts = job.starts and not job.ended and job.task_id is None and job.status != "queued"
    position = job.position or int(starts)
    answer = {
        "success": True,
        "queued": job.status == "queued" or starts,
        "position": position,
        "totalQueued": max(view.line.queued, position),
        "status": _status_in_their_words(job),
    }
    if job.task_id is not None:
        answer["taskId"] = job.task_id
    return answer | {"duplicate": True} if repeat else answer


async def check_user_active(services: Services, body: UserBody) -> Answer:
    """Say whether a user has a live job, and which."""
    job = await services.queries.active(body.userId)
    if job is None:
        return {"hasActiveJob": False, "activeTool": None}
    return {
        "hasActiveJob": True,
        "activeTool": body._tools[job.tool].name if job.tool else None,
        "activeJobId": job.job_id,
        "activeStatus": _status_in_their_words(job),
    }


async def process_next(services: Services, body: Body) -> Answer:
    """Answer with the job that this call has granted, if any. gate grants without such a call too."""
    waiting = 0
    for pool in body._tools.pools:
        granted = await services.pools.turn(pool)
        if granted:
            waited_s = round((granted.granted_at or 0) - granted.enqueued_at) / 1000
            return {"processed": True, "table": granted.tool, "jobId": granted.job_id, "queueWaitSeconds": waited_s}
        waiting += (await services.queries.pool(pool, 0)).line.queued
    return {"processed": False, "reason": "Global limit reached" if waiting else "No queued jobs"}


async def finish(services: Services, body: FinishBody) -> Answer:
    """End a job with the caller's outcome, and keep its provider's payload beside the callbacks."""
    job, answer = await _finished(services, body)
    if body.webhookPayload is not None:
        with contextlib.suppress(StoreDown):  # the job has ended, and its answer does not depend on this
            provider = job.provider or body._tools[body.table].provider or "finish"
            task_id = body.taskId or job.task_id
            relayed = RelayedPayload(provider, task_id, body.status, body.errorMessage, body.webhookPayload)
            await services.jobs.keep_payload(job, relayed)
    return answer


async def _finished(services: Services, body: FinishBody) -> tuple[Job, dict[str, Any]]:
    """Return the job and the answer of `finish`."""
    try:
        job = await _known(services, body.table, body.jobId)
    except JobUnknown:
        if body.status == "completed":
            raise
        job = await _end_unadmitted(services, body, body.table, body.jobId, body.status, body.errorMessage)
        if job.ended:
            return job, {"success": True, "refundedAmount": _refunded(job)}
    if body.status == "failed" and job.account is not None and job.task_id is not None and job.status in HOLDING:
        with contextlib.suppress(NoTask):  # the caller's clock says so; the provider may have finished it
            job = await services.jobs.ask_and_wait(job, ASKED_WITHIN_S)  # guard: failed-by-a-clock-asks-first
    if body.notAdmitted:
        return job, _over(job) if job.ended else {"success": True, "skipped": True, "reason": "admitted"}
    if body.taskId is not None and job.task_id not in (None, body.taskId):
        # The caller reports another task than this lease is bound to. As far as gate can tell, it is an earlier one.
        other = {"success": True, "skipped": True, "reason": "another_task", "taskId": job.task_id}
        return job, _over(job) if job.ended else other
    named: dict[str, JsonValue] = {"url": body.outputUrl, "rhCost": body.rhCost}
    output: JsonValue = {name: value for name, value in named.items() if value is not None} or None
    try:
        late = job.status == "expired" or (job.status in REFUNDED and body.status == "completed")
        if job.lease_id and (job.status in HOLDING or late):  # an outcome that comes too late is kept
            by = "caller" if late else "holder"  # a success that another caller reports is kept
            ended = await services.jobs.release(
                job.pool, job.job_id, job.lease_id, body.status, body.errorMessage, output, by
            )
        elif job.ended:
            raise AlreadyEnded("it has ended", job)
        else:
            ended = await services.jobs.cancel(job.pool, job.job_id, None, body.status, by="caller", error=body.errorMessage)
    except (AlreadyEnded, LeaseLost) as error:
        job = error.job or job
        return job, _over(job)
    return ended, {"success": True, "refundedAmount": _refunded(ended)}


def _over(job: Job) -> dict[str, Any]:
    """Return the answer of `finish` for a job that had ended before. Its refund stays the same."""
    return {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": _refunded(job)}


def _refunded(job: Job) -> int:
    return job.refund.amount if job.refund else 0


async def cancel_session(services: Services, body: SessionBody) -> Answer:
    """Cancel the waiting jobs of a session; without a session, those of a user.

    Raises:
        _Missing: The body names neither.
    """
    if body.sessionId is None and body.userId is None:
        raise _Missing("sessionId or userId")
    user = body.userId if body.sessionId is None else None
    reason = "the waiting jobs of its user were cancelled" if body.sessionId is None else "its session was cancelled"
    jobs = []
    for pool in body._tools.pools:
        jobs += await services.pools.cancel_waiting(pool, session=body.sessionId, user=user, reason=reason, by="caller")
    rows = [{"table": job.tool, "id": job.job_id} for job in jobs]
    return {"success": True, "cancelledCount": len(rows), "cancelledJobs": rows}


async def reconcile(services: Services, body: JobBody) -> Answer:
    """Ask the provider what became of a job's task, and answer with the job's status if that has ended it."""
    job = await _known(services, body.table, body.jobId)
    state = None
    if not job.ended:
        try:
            job = await services.jobs.ask_and_wait(job, RECONCILED_WITHIN_S)
        except NoTask:
            return {"resolved": False, "reason": "no_task_id" if job.task_id is None else "api_error"}
        asked = await services.queries.asked(job)
        state = asked.state if asked is not None else None
    if job.ended:
        return {"resolved": True, "status": _status_in_their_words(job)}
    reason = "still_running" if state in ("queued", "running") else "api_error"
    return {"resolved": False, "reason": reason, "providerStatus": state}


async def status(services: Services, body: Body) -> Answer:
    """Add up the pools of all tools."""
    views = [await services.queries.pool(pool, QUEUE_MAX) for pool in body._tools.pools]
    limit, waiting = sum(view.line.limit for view in views), sum(view.line.queued for view in views)
    running, free = sum(map(_in_use, views)), sum(map(_free, views))
    by_tool = Counter(job.tool or "" for view in views for job in view.queue)
    return {
        "totalMaxSlots": limit, "totalRunning": running, "totalSlotsAvailable": free,
        "queuedByTool": dict(by_tool), "accounts": [],
        "running": running, "maxConcurrent": limit, "slotsAvailable": free, "totalQueued": waiting,
    }  # fmt: skip


PATHS: dict[str, tuple[type[Body], Path]] = {
    "check": (CheckBody, check),
    "run-or-queue": (EnqueueBody, enqueue),
    "enqueue": (EnqueueBody, enqueue),
    "check-user-active": (UserBody, check_user_active),
    "process-next": (Body, process_next),
    "finish": (FinishBody, finish),
    "cancel-session": (SessionBody, cancel_session),
    "reconcile": (JobBody, reconcile),
    "status": (Body, status),
}
"""Body and answer of each path below MANAGER."""


@router.options(MANAGER)
@router.options(MANAGER + "/{path:text}")
@router.options("/rest/v1/rpc/{name}")
@open_to(ANYONE)
async def preflight() -> Response:
    """Answer a browser's preflight request. It needs no key, because the request that follows shows one."""
    return Response(status_code=204, headers=PREFLIGHT)


@router.post(MANAGER + "/{path:text}")
@open_to(TOOL)
async def manager(path: str, request: Request, services: AllServices, asking: Asking) -> JSONResponse:
    """Answer a path of the old queue manager."""
    if path.strip("/") not in PATHS:
        return _refused(400, "Invalid endpoint")
    shape, answer = PATHS[path.strip("/")]
    return await _answered(request, services, asking, shape, answer)


@router.post("/rest/v1/rpc/cleanup_all_stale_ai_jobs")
@open_to(TOOL)
async def clean_up(request: Request, services: AllServices, asking: Asking) -> JSONResponse:
    """Expire overdue jobs, and answer how many there were, by table."""
    return _procedure(await _answered(request, services, asking, Body, _clean_up))


@router.post("/rest/v1/rpc/user_cancel_ai_job")
@open_to(TOOL)
async def cancel(request: Request, services: AllServices, asking: Asking) -> JSONResponse:
    """Cancel a job at the request of its user."""
    return _procedure(await _answered(request, services, asking, CancelBody, _cancel))


@router.post(MANAGER)
@open_to(TOOL)
async def nothing_there() -> JSONResponse:
    """Refuse a call that names no path."""
    return _refused(400, "Invalid endpoint")


@router.post("/rest/v1/rpc/{name}")
@open_to(TOOL)
async def no_such_procedure(name: str) -> JSONResponse:
    """Refuse an unknown procedure as PostgREST does."""
    message = f"Could not find the function public.{name} in the schema cache"
    return _procedure(_refused(400, "Invalid endpoint", code="PGRST202", message=message))


def _procedure(answer: JSONResponse) -> JSONResponse:
    """Return the answer of a procedure. Give a refusal the fields that supabase-js reads."""
    if answer.status_code >= 400:
        more = {"Retry-After": answer.headers["retry-after"]} if "retry-after" in answer.headers else {}
        return JSONResponse(as_postgrest(json.loads(bytes(answer.body))), answer.status_code, HEADERS | more)
    return answer


async def _clean_up(services: Services, body: Body) -> Answer:
    """Answer with the jobs that this call has expired, one row for each table. Every other call expires jobs too."""
    counts, credits = Counter[str](), Counter[str]()
    for pool in body._tools.pools:
        for job in await services.pools.reaped(pool):
            counts[job.tool or ""] += 1
            credits[job.tool or ""] += job.refund.amount if job.refund else 0
    return [{"table_name": t, "cancelled_count": n, "refunded_credits": credits[t]} for t, n in sorted(counts.items())]


async def _cancel(services: Services, body: CancelBody) -> Answer:
    reason = "cancelled by its user"
    try:
        try:
            job = await _known(services, body.p_table_name, body.p_job_id)
        except JobUnknown:
            job = await _end_unadmitted(services, body, body.p_table_name, body.p_job_id, "cancelled", reason)
        if not (job.ended and job.ticket == 0):  # a job that ended before its admission: a repeat gets the same answer
            job = await services.jobs.cancel(job.pool, job.job_id, reason, by="caller")
    except AlreadyEnded as error:
        return [{"success": False, "refunded_amount": 0, "error_message": error.detail}]
    return [{"success": True, "refunded_amount": job.refund.amount if job.refund else 0, "error_message": None}]


async def _end_unadmitted(services: Services, body: Body, table: str, job_id: str, outcome: Outcome, why: str | None) -> Job:
    """End a job before its admission, and return it. If the admission was first, return the live job. Raises JobUnknown."""
    reason, error = (why, None) if outcome == "cancelled" else (None, why)
    try:
        return await services.early_end.end(body._tools[table].pool, table, job_id, outcome, reason, error)
    except AlreadyEnded as error_:
        assert error_.job is not None
        return await _known(services, table, job_id)


# ---- shared by the routes


class _Missing(Exception):
    """A field of the body is missing; `args[0]` is its name."""


class _NotStarted(Exception):
    """A job has ended without having been started; `args[0]` is the job."""


async def _answered(request: Request, services: Services, asking: Caller, shape: type[B], answer: Path) -> JSONResponse:
    try:
        text = await request.body()
        body = shape.model_validate(tolerantly(text) if text.strip() else {})
        body._asking, body._tools = asking, request.app.state.tools
        body._counts_slots = request.app.state.check_counts
        return JSONResponse(await answer(services, body), headers=HEADERS)
    except _NotStarted as error:
        job: Job = error.args[0]
        return _refused(400, job.error or f"the job is {job.status}", success=False, refunded=job.refund is not None)
    except (_Missing, ValidationError, ValueError, RecursionError) as error:
        return _refused(400, _in_words(error))
    except (UserBusy, QueueFull) as error:
        _, code, _title = TABLE[type(error)]
        return _refused(400, error.detail, success=False, code=code, refunded=False, **_active(error))
    except ToolUnknown as error:
        status_code, code, _title = TABLE[ToolUnknown]
        log.warning("tool.unknown", table=error.table, path=request.url.path)
        status_code = 400 if shape is EnqueueBody else status_code  # like every other refusal of an admission on these routes
        return _refused(status_code, error.detail, success=False, code=code, refunded=False)
    except GateError as error:
        status_code, code, _title = TABLE[type(error)]
        retry_s = RETRY_AFTER_S.get(type(error))
        return _refused(status_code, error.detail, headers={"Retry-After": str(retry_s)} if retry_s else {}, code=code)


def _in_words(error: Exception) -> str:
    if isinstance(error, _Missing):
        return f"Missing {error.args[0]}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        return f"Missing {field}" if first["type"] == "missing" else f"{field}: {first['msg']}"
    return "the body is not JSON"


def _refused(status_code: int, error: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    return JSONResponse({"error": error, **more}, status_code, HEADERS | (headers or {}))


def _active(error: GateError) -> dict[str, Any]:
    """Return the fields that name the live job of a busy user."""
    if not isinstance(error, UserBusy):
        return {}
    named = {"activeJobId": error.active_job_id}
    return named | {"activeStatus": _status_in_their_words(error.job)} if error.job else named


def _status_in_their_words(job: Job) -> str:
    return {"granted": "starting", "expired": "failed"}.get(job.status, job.status)


def _pool(body: CheckBody) -> str:
    return body._tools[body.table].pool if body.table is not None else "default"


def _wanted(body: CheckBody) -> Wanted:
    assert body.jobId is not None
    session = body.sessionId if isinstance(body, EnqueueBody) else None
    payload = body.job_payload if isinstance(body, EnqueueBody) else None
    if isinstance(body, EnqueueBody) and body.webappId is not None:
        # The start call has to name the provider's app.
        payload = {"webappId": body.webappId} | (payload or {})
    trusted = body._asking.role == "tool"
    return Wanted(body.jobId, body.userId, body.table, session, body.creditCost, payload, trusted=trusted, is_lenient=True)


async def _known(services: Services, table: str, job_id: str) -> Job:
    """Read a job in any pool. Raises JobUnknown if there is none, or it is of another table."""
    job = await services.ledger.job(job_id)
    if job is None or job.tool != table:
        raise JobUnknown(f"there is no such job in {table}")
    return job


def _warn_without_start_url(tool: Tool) -> None:
    """Warn once for each tool without start_url: a caller that enqueues its jobs has to start them."""
    if tool.start_url is None and tool.table not in _without_start_url:
        _without_start_url.add(tool.table)
        log.warning("tool.without_start_url", tool=tool.table)


def _in_use(view: PoolSnapshot) -> int:
    return view.line.running + view.line.granted


def _free(view: PoolSnapshot) -> int:
    line = view.line
    # Waiters of a tool whose start address fails must not hide a free slot from jobs of other tools.
    waits = line.queued and not line.cooling_tools
    return 0 if waits or line.paused or line.cooling_until else line.free


def _counts(view: PoolSnapshot, running: int, free: int) -> dict[str, Any]:
    return {
        "running": running,
        "maxConcurrent": view.line.limit,
        "slotsAvailable": free,
        "totalQueued": view.line.queued,
    }
