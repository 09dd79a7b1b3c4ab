"""The queue manager that gate replaces: the same paths, bodies and answers, as a thin skin over the same gatekeeper.

Old front ends cannot be changed: their fields are theirs, unknown ones are ignored, refusals are `{"error": …}`, and nothing is
ever cached. Everything happens in the pool `default`; a table of theirs is the tool of a job here.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from gate.errors import AlreadyEnded, GateError, JobUnknown, LeaseLost, QueueFull, UserBusy
from gate.gatekeeper import Gatekeeper
from gate.http import wire
from gate.http.doors import Asking, Caller, Keeper
from gate.http.problems import OLD_HEADERS as HEADERS
from gate.http.problems import RETRY_AFTER_S, TABLE, as_postgrest
from gate.jobs import CREDITS_MAX, HOLDING, LABEL_MAX, Job
from gate.jobs import Request as Wanted
from gate.tools import Tool, Tools
from gate.view import PoolView

POOL = "default"
MANAGER = "/functions/v1/runninghub-queue-manager"
PREFLIGHT = HEADERS | {
    "Access-Control-Allow-Methods": "POST, GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "authorization, x-client-info, apikey, content-type, content-profile, accept-profile, "
    "accept, prefer, range, x-region, x-supabase-api-version, x-retry-count, x-request-id, traceparent, tracestate, baggage",
    "Access-Control-Max-Age": "86400",
}
Id = Annotated[wire.JobId, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


def _a_name(value: Any) -> str | int | None:
    """What is none is nothing: it must not keep a job from running."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, str) and len(value) <= LABEL_MAX and value.isprintable() else None


def _or_none(value: Any) -> Any:
    return None if value == "" else value


def _a_number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")
    _asking: Caller = PrivateAttr()
    _tools: Tools = PrivateAttr()


class CheckBody(_Body):
    table: wire.Label | None = None
    jobId: Id | None = None
    userId: Annotated[wire.Label | None, BeforeValidator(_or_none)] = None
    creditCost: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None


class EnqueueBody(CheckBody):
    table: wire.Label
    jobId: Id
    sessionId: Annotated[wire.Label | None, BeforeValidator(_or_none)] = None
    job_payload: wire.Payload | None = None
    webappId: Annotated[str | int | None, BeforeValidator(_a_name)] = None


class UserBody(_Body):
    userId: wire.Label


class FinishBody(_Body):
    table: wire.Label
    jobId: Id
    status: Literal["completed", "failed", "cancelled"]
    outputUrl: wire.Text | None = None
    errorMessage: wire.Text | None = None
    taskId: wire.Label | None = None
    rhCost: Annotated[float | int | None, BeforeValidator(_a_number)] = None


class SessionBody(_Body):
    sessionId: Annotated[wire.Label | None, BeforeValidator(_or_none)] = None
    userId: Annotated[wire.Label | None, BeforeValidator(_or_none)] = None


class CancelBody(_Body):
    p_table_name: wire.Label
    p_job_id: Id


NO_START_URL = "a tool has no start_url: who enqueues its jobs has to start them himself"
log = structlog.get_logger("gate.tools")
_warned: set[str] = set()
OVER: dict[str, Any] = {"success": True, "skipped": True, "reason": "already_terminal"}
B = TypeVar("B", bound=_Body)
Answer = dict[str, Any] | list[dict[str, Any]]
Path = Callable[[Gatekeeper, Any], Awaitable[Answer]]
router = APIRouter(include_in_schema=False)


# ---- the paths


async def check(keeper: Gatekeeper, body: CheckBody) -> Answer:
    """How many slots are free. With a jobId a free one is taken for it in the same step; without one nothing is queued."""
    mine = None
    if body.jobId is not None and body.table is None:
        raise _Missing("table")
    if body.jobId is not None:
        with contextlib.suppress(AlreadyEnded):
            mine = await keeper.take(POOL, _wanted(body))
    view = await keeper.view.pool(POOL, 0)
    running, free = _in_use(view), _free(view)
    if body.jobId is not None:
        running -= 1 if mine else 0  # counted as before, so that a repeat says the same
        free = max(view.line.limit - running, 1) if mine else 0
    return {"available": free > 0, **_counts(view, running, free)}


async def enqueue(keeper: Gatekeeper, body: EnqueueBody) -> Answer:
    """gate starts it, where its tool says how; who asked is told what came of that, when a slot was free."""
    _warn_once(body._tools[body.table])
    try:
        job = await keeper.enqueue(POOL, _wanted(body))
    except AlreadyEnded as error:
        assert error.job is not None
        job = error.job
    if job.ended and (job.task_id is None or not job.starts) and not (job.starts and job.status == "completed"):
        raise _NotStarted(job)
    view = await keeper.view.pool(POOL, 0)
    waits = job.status == "queued"
    task = {"taskId": job.task_id} if job.task_id is not None else {}
    return {"success": True, "queued": waits, "position": job.position or 0, "totalQueued": view.line.queued, **task}


async def check_user_active(keeper: Gatekeeper, body: UserBody) -> Answer:
    job = await keeper.view.active(body.userId)
    if job is None:
        return {"hasActiveJob": False, "activeTool": None}
    status = "starting" if job.status == "granted" else job.status
    return {
        "hasActiveJob": True,
        "activeTool": body._tools[job.tool].name if job.tool else None,
        "activeJobId": job.job_id,
        "activeStatus": status,
    }


async def process_next(keeper: Gatekeeper, _body: _Body) -> Answer:
    """gate grants by itself; what was granted in this very call is told."""
    granted = await keeper.poolkeeper.turn(POOL)
    if granted:
        waited_s = round((granted.granted_at or 0) - granted.enqueued_at) / 1000
        return {"processed": True, "table": granted.tool, "jobId": granted.job_id, "queueWaitSeconds": waited_s}
    view = await keeper.view.pool(POOL, 0)
    return {"processed": False, "reason": "Global limit reached" if view.line.queued else "No queued jobs"}


async def finish(keeper: Gatekeeper, body: FinishBody) -> Answer:
    job = await _known(keeper, body.table, body.jobId)
    if body.taskId is not None and job.task_id not in (None, body.taskId):
        return OVER  # word of an earlier task of this job
    named = {"url": body.outputUrl, "rhCost": body.rhCost}
    output = {name: value for name, value in named.items() if value is not None} or None
    try:
        if job.lease_id and (job.status in HOLDING or job.status == "expired"):  # what comes too late is kept
            ended = await keeper.release(POOL, job.job_id, job.lease_id, body.status, body.errorMessage, output)
        elif job.ended:
            raise AlreadyEnded("it has ended", job)
        else:
            ended = await keeper.cancel(POOL, job.job_id, body.errorMessage, body.status)
    except (AlreadyEnded, LeaseLost):
        return OVER
    return {"success": True, "refundedAmount": ended.refund.amount if ended.refund else 0}


async def cancel_session(keeper: Gatekeeper, body: SessionBody) -> Answer:
    if body.sessionId is None and body.userId is None:
        raise _Missing("sessionId or userId")
    user = body.userId if body.sessionId is None else None
    jobs = await keeper.poolkeeper.cancel_waiting(POOL, session=body.sessionId, user=user)
    told = [{"table": job.tool, "id": job.job_id} for job in jobs]
    return {"success": True, "cancelledCount": len(told), "cancelledJobs": told}


async def status(keeper: Gatekeeper, _body: _Body) -> Answer:
    view = await keeper.view.pool(POOL, wire.QUEUE_MAX)
    running, free = _in_use(view), _free(view)
    by_tool = Counter(job.tool or "" for job in view.queue)
    return {
        "totalMaxSlots": view.line.limit, "totalRunning": running, "totalSlotsAvailable": free,
        "queuedByTool": dict(by_tool), "accounts": [], **_counts(view, running, free),
    }  # fmt: skip


PATHS: dict[str, tuple[type[_Body], Path]] = {
    "check": (CheckBody, check),
    "run-or-queue": (EnqueueBody, enqueue),
    "enqueue": (EnqueueBody, enqueue),
    "check-user-active": (UserBody, check_user_active),
    "process-next": (_Body, process_next),
    "finish": (FinishBody, finish),
    "cancel-session": (SessionBody, cancel_session),
    "status": (_Body, status),
}


@router.options(MANAGER)
@router.options(MANAGER + "/{path:text}")
@router.options("/rest/v1/rpc/{name}")
async def preflight() -> Response:
    """A browser asks first; whoever it asks for shows a key afterwards."""
    return Response(status_code=204, headers=PREFLIGHT)


@router.post(MANAGER + "/{path:text}")
async def manager(path: str, request: Request, keeper: Keeper, asking: Asking) -> JSONResponse:
    if path.strip("/") not in PATHS:
        return _refused(400, "Invalid endpoint")
    shape, answer = PATHS[path.strip("/")]
    return await _answered(request, keeper, asking, shape, answer)


@router.post("/rest/v1/rpc/cleanup_all_stale_ai_jobs")
async def clean_up(request: Request, keeper: Keeper, asking: Asking) -> JSONResponse:
    return _procedure(await _answered(request, keeper, asking, _Body, _clean_up))


@router.post("/rest/v1/rpc/user_cancel_ai_job")
async def cancel(request: Request, keeper: Keeper, asking: Asking) -> JSONResponse:
    return _procedure(await _answered(request, keeper, asking, CancelBody, _cancel))


@router.post(MANAGER)
async def nothing_there() -> JSONResponse:
    return _refused(400, "Invalid endpoint")


@router.post("/rest/v1/rpc/{name}")
async def no_such_procedure(name: str) -> JSONResponse:
    message = f"Could not find the function public.{name} in the schema cache"
    return _procedure(_refused(400, "Invalid endpoint", code="PGRST202", message=message))


def _procedure(answer: JSONResponse) -> JSONResponse:
    """The answer of a procedure. A refusal has the fields that supabase-js reads of one."""
    if answer.status_code >= 400:
        more = {"Retry-After": answer.headers["retry-after"]} if "retry-after" in answer.headers else {}
        return JSONResponse(as_postgrest(json.loads(bytes(answer.body))), answer.status_code, HEADERS | more)
    return answer


async def _clean_up(keeper: Gatekeeper, _body: _Body) -> Answer:
    """Every call reaps; what this one found dead is told, a row a table."""
    counts, credits = Counter[str](), Counter[str]()
    for job in await keeper.poolkeeper.reaped(POOL):
        counts[job.tool or ""] += 1
        credits[job.tool or ""] += job.refund.amount if job.refund else 0
    return [{"table_name": t, "cancelled_count": n, "refunded_credits": credits[t]} for t, n in sorted(counts.items())]


async def _cancel(keeper: Gatekeeper, body: CancelBody) -> Answer:
    try:
        job = await _known(keeper, body.p_table_name, body.p_job_id)
        job = await keeper.cancel(POOL, job.job_id, "cancelled by its user")
    except AlreadyEnded as error:
        return [{"success": False, "refunded_amount": 0, "error_message": error.detail}]
    return [{"success": True, "refunded_amount": job.refund.amount if job.refund else 0, "error_message": None}]


# ---- what they have in common


class _Missing(Exception):
    """`args[0]` is the field."""


class _NotStarted(Exception):
    """`args[0]` is the job, which has ended without having been started."""


async def _answered(request: Request, keeper: Gatekeeper, asking: Caller, shape: type[B], answer: Path) -> JSONResponse:
    try:
        text = await request.body()
        body = shape.model_validate(json.loads(text) if text.strip() else {})
        body._asking, body._tools = asking, request.app.state.tools
        return JSONResponse(await answer(keeper, body), headers=HEADERS)
    except _NotStarted as error:
        job: Job = error.args[0]
        return _refused(400, job.error or f"the job is {job.status}", success=False, refunded=job.refund is not None)
    except (_Missing, ValidationError, ValueError, RecursionError) as error:
        return _refused(400, _in_words(error))
    except (UserBusy, QueueFull) as error:
        _, code, _title = TABLE[type(error)]
        return _refused(400, error.detail, success=False, code=code, refunded=False)
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


def _wanted(body: CheckBody) -> Wanted:
    assert body.jobId is not None
    session = body.sessionId if isinstance(body, EnqueueBody) else None
    payload = body.job_payload if isinstance(body, EnqueueBody) else None
    if (
        isinstance(body, EnqueueBody) and body.webappId is not None
    ):  # whoever starts it has to know which of the provider's it is
        payload = {"webappId": body.webappId} | (payload or {})
    trusted = body._asking.role == "tool"
    return Wanted(body.jobId, body.userId, body.table, session, body.creditCost, payload, trusted=trusted)


async def _known(keeper: Gatekeeper, table: str, job_id: str) -> Job:
    """Raises JobUnknown; of another table's job too."""
    job = await keeper.view.job(POOL, job_id)
    if job.tool != table:
        raise JobUnknown(f"there is no such job in {table}")
    return job


def _warn_once(tool: Tool) -> None:
    if tool.start_url is None and tool.table not in _warned:
        _warned.add(tool.table)
        log.warning(NO_START_URL, tool=tool.table)


def _in_use(view: PoolView) -> int:
    return view.line.running + view.line.granted


def _free(view: PoolView) -> int:
    line = view.line
    return 0 if line.queued or line.paused or line.cooling_until else line.free


def _counts(view: PoolView, running: int, free: int) -> dict[str, Any]:
    return {
        "running": running,
        "maxConcurrent": view.line.limit,
        "slotsAvailable": free,
        "totalQueued": view.line.queued,
    }
