"""Refusals as RFC 9457 `application/problem+json`. One table has the status, code and title of each error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from gate.http.strict_json import AmbiguousJson
from gate.model.errors import (
    AlreadyEnded,
    CallbackApplied,
    CallbackUnknown,
    Forbidden,
    ForeignPage,
    Forged,
    GateError,
    Invalid,
    JobIdReused,
    JobUnknown,
    LeaseLost,
    NoTask,
    NotRunning,
    PoolNotEmpty,
    PoolUnknown,
    ProviderUnknown,
    QueueFull,
    StartedByGate,
    StoreDown,
    TaskTaken,
    TooLong,
    ToolUnknown,
    Unauthorized,
    Unreadable,
    UserBusy,
    UserQueueFull,
)
from gate.model.job_json import job_body

RETRY_AFTER_S = {QueueFull: 5, UserQueueFull: 5, TooLong: 5, StoreDown: 1}
"""Value of Retry-After (s). For other refusals no time is known."""
TABLE: dict[type[GateError], tuple[int, str, str]] = {
    Invalid: (422, "invalid", "The request is invalid"),
    Unreadable: (422, "invalid", "The request is invalid"),
    Unauthorized: (401, "unauthorized", "A key is wanted"),
    Forged: (401, "forged", "The provider's secret is missing or wrong"),
    Forbidden: (403, "forbidden", "This key may not do that"),
    ForeignPage: (403, "forbidden", "That page may not do that"),
    PoolUnknown: (404, "pool_unknown", "No such pool"),
    JobUnknown: (404, "job_unknown", "No such job"),
    ToolUnknown: (404, "tool_unknown", "No such tool"),
    CallbackUnknown: (404, "callback_unknown", "No such callback"),
    ProviderUnknown: (404, "provider_unknown", "No such provider"),
    UserBusy: (409, "user_busy", "The user has a live job already"),
    JobIdReused: (409, "job_id_reused", "This job_id is another job"),
    NoTask: (409, "no_task", "gate asks no provider about this job"),
    TaskTaken: (409, "task_taken", "This task is another job's"),
    StartedByGate: (409, "started_by_gate", "gate starts this job"),
    AlreadyEnded: (409, "already_ended", "The job has ended already"),
    NotRunning: (409, "not_running", "The job holds no slot"),
    PoolNotEmpty: (409, "pool_not_empty", "The pool has live jobs"),
    CallbackApplied: (409, "callback_applied", "This callback was applied before"),
    LeaseLost: (410, "lease_lost", "The lease is lost"),
    QueueFull: (429, "queue_full", "The queue is full"),
    TooLong: (429, "too_long", "The wait would be too long"),
    UserQueueFull: (429, "user_queue_full", "The user's part of the queue is full"),
    StoreDown: (503, "store_down", "A store does not answer"),
}
"""HTTP status, code and title of each error. The codes are stable, because clients compare them."""
HTTP_CODES = {
    404: ("not_found", "There is nothing here"),
    408: ("too_slow", "The request takes too long"),
    405: ("method_not_allowed", "Another method is wanted"),
    413: ("too_large", "The body is too large"),
}
"""Code and title of the refusals by the framework, by HTTP status."""
TOLD = 5
"""Faults that `detail` names at most. It is one sentence for users. `errors` has more."""
LISTED = 100
"""Faults that `errors` lists at most. A long list of wrong fields must not make a long answer."""
PROCEDURES = "/rest/v1/rpc/"
OLD_PATHS = ("/functions/v1/runninghub-queue-manager", PROCEDURES)
OLD_HEADERS = {
    "Cache-Control": "no-store",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After, Content-Range",
}
"""Headers of each answer on an old path. Without them a browser hides the error from its page, or shows an old answer."""


def install(app: FastAPI, unknown_page: Callable[[Request], Response | None]) -> None:
    """Register the handlers that turn errors into refusals.

    Args:
        app: The application.
        unknown_page: Makes the answer to a browser that asks for an address that no route has; None for another client.
    """
    app.state.unknown_page = unknown_page
    app.add_exception_handler(GateError, _refused)
    app.add_exception_handler(RequestValidationError, _not_of_the_form)
    app.add_exception_handler(HTTPException, _by_the_framework)


def problem(status: int, code: str, title: str, detail: str, retry_after_s: int | None = None, **more: Any) -> JSONResponse:
    """Make a problem response.

    Args:
        status: HTTP status.
        code: Stable code of the problem.
        title: Sentence for the code.
        detail: Sentence for this case.
        retry_after_s: Value of Retry-After (s); None for no such header.
        more: Further fields of the body.
    """
    body = {
        "type": f"urn:gate:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GateError)
    return refusal(request, error)


def refusal(request: Request, error: GateError) -> JSONResponse:
    """Make the response to a request that gate refuses. On an old path it has the form that old front ends read.

    Args:
        request: The request.
        error: Why it is refused.
    """
    status, code, title = TABLE[type(error)]
    if request.url.path.startswith(OLD_PATHS):
        return _on_old_path(request, status, error.detail, code, _asks_for_a_key(error))
    more: dict[str, Any] = {}
    if isinstance(error, Invalid):
        more["errors"] = [{"field": error.field, "message": error.detail}]
    if isinstance(error, UserBusy):
        more["active_job_id"] = error.active_job_id
    if isinstance(error, TooLong):
        more["eta_seconds"] = round(error.eta_s, 1)
    if error.job is not None:
        more["job"] = job_body(error.job)  # With its lease_id: only a caller that may release meets such an error.
    answer = problem(status, code, title, error.detail, RETRY_AFTER_S.get(type(error)), **more)
    answer.headers.update(_asks_for_a_key(error))
    return answer


def _on_old_path(request: Request, status: int, detail: str, code: str, headers: dict[str, str]) -> JSONResponse:
    body = {"error": detail, "code": code}
    if request.url.path.startswith(PROCEDURES):
        body = as_postgrest(body)
    return JSONResponse(body, status, OLD_HEADERS | headers)


def as_postgrest(body: dict[str, Any]) -> dict[str, Any]:
    """Add the fields of PostgREST to a refusal on an old path. supabase-js passes this body to the page as `error` of an rpc.

    Args:
        body: The refusal. It has `error`, and `code` when gate has a code for it.
    """
    return {"code": "invalid", "message": body["error"], "details": None, "hint": None} | body


def _asks_for_a_key(error: GateError) -> dict[str, str]:
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}


async def _not_of_the_form(request: Request, error: Exception) -> JSONResponse:
    """Refuse a request that does not match its schema.

    The response names each wrong field and never repeats its value. The value may be NaN, which is no JSON, or huge, or a
    secret.
    """
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    errors = [{"field": _field(found["loc"]), "message": _message(found)} for found in faults[:LISTED]]
    if errors[0]["field"] == "body" and "json" not in request.headers.get("content-type", ""):
        errors = [{"field": "body", "message": "send JSON, with content-type: application/json"}]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:TOLD])
    if len(faults) > TOLD:
        detail += f"; and {len(faults) - TOLD} more"
    status, code, title = TABLE[Invalid]
    return problem(status, code, title, detail, errors=errors)


def _message(found: dict[str, Any]) -> str:
    if found["type"] == "json_invalid":  # The framework's own message lacks the reason and the place.
        return f"it is not JSON: {found['ctx']['error']}, at character {found['loc'][1]}"
    text: str = found["msg"]
    return text.removeprefix("Value error, ")


def _field(location: tuple[Any, ...]) -> str:
    """Name a field by its location: `('body', 'credits')` is `credits`, and the body itself is `body`."""
    inside = [str(part) for part in location[1:] if not isinstance(part, int) or len(location) > 2]
    return ".".join(inside) or str(location[0])


async def _by_the_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 204:
        return Response(status_code=204)
    if request.url.path.startswith(OLD_PATHS):
        code, _ = HTTP_CODES.get(error.status_code, ("refused", ""))
        return _on_old_path(request, error.status_code, str(error.detail), code, dict(error.headers or {}))
    if isinstance(error, AmbiguousJson):
        errors = [{"field": error.field, "message": error.detail}]
        return problem(422, "invalid", "The request is invalid", f"{error.field}: {error.detail}", errors=errors)
    if error.status_code == 400:  # The framework could not decode the body.
        errors = [{"field": "body", "message": "it is not JSON"}]
        return problem(422, "invalid", "The request is invalid", "body: it is not JSON", errors=errors)
    if error.status_code == 404 and (page := request.app.state.unknown_page(request)) is not None:
        found: Response = page
        found.headers["Vary"] = "Accept, Accept-Language, Cookie"
        return found
    code, title = HTTP_CODES.get(error.status_code, ("refused", "Refused"))
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == 404:
        headers["Vary"] = "Accept"
    if error.status_code == 405:  # The framework names only the methods of the first route with this path.
        headers["Allow"] = ", ".join(_methods(request))
        detail = f"here are {headers['Allow']}"
    answer = problem(error.status_code, code, title, detail)
    answer.headers.update(headers)
    return answer


def _methods(request: Request) -> list[str]:
    """Methods of all routes that match the path of a request."""
    return sorted({method for method, of in request.app.state.routes if compile_path(of)[0].match(request.url.path)})
