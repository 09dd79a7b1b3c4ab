"""Routes that providers call back. They need no API key: each provider shows a secret of its own, which is checked first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gate.coordination.services import Services
from gate.http.answers import HeardOut
from gate.http.auth.roles import ANYONE, open_to
from gate.http.services import AllServices
from gate.model.errors import PoolUnknown, ProviderUnknown, Unreadable
from gate.model.job import POOL_NAME
from gate.providers import PROVIDERS
from gate.providers.callback import Callback
from gate.providers.parsing import clean
from gate.telemetry import counters

router = APIRouter(tags=["webhooks"])
SAID = {
    "ended": "applied",
    "retried": "retried",
    "late": "late",
    "waits": "kept",
    "history": "ignored",
    "hint": "asking",
    "repeat": "repeat",
}
"""Answer for each result of a callback. The status is always 200, because a repeated call would change nothing."""
BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "description": "in the provider's words"}}},
}


@router.post("/v1/webhooks/{provider}/{pool}", response_model=HeardOut, openapi_extra={"requestBody": BODY})
@open_to(ANYONE)
async def webhook(provider: str, pool: str, request: Request, services: AllServices) -> JSONResponse:
    """Receive a provider's callback about the end of a task, in the provider's own format.

    `standard` is Standard Webhooks with `{type, data: {job_id | task_id, outcome, error?, output?}}` and `webhook-*` or
    `svix-*` headers. `replicate` is signed in the same way. `runninghub` and `fal` show `?token=`. Answers `{result}`: `applied`, `late`, `kept` (until its task is bound),
    `ignored`, `repeat`, `asking`.

    With `callbacks = "hint"` the callbacks of a provider need no secret and are not believed: gate asks the provider about the task.

    A `task_id` may be a number. An end is never refused for its error or its output. A value that is too long or too deep is
    cut, and `… (cut)` marks the place. The output of `runninghub` is `{files: [{url, type, …}], texts?, coins?, usage?,
    taskUsageList?, cut?}`, wherever the callback has them. A success of an unknown shape completes the job with the callback
    under `raw`.
    """
    return await _receive(provider, pool, request, services)


@router.post("/functions/v1/runninghub-webhook", include_in_schema=False)
@open_to(ANYONE)
async def of_old(request: Request, services: AllServices) -> JSONResponse:
    """Receive a callback at the address where RunningHub calls the queue manager that gate replaces.

    The pool is that of the job which is bound to the task. A callback may come before its binding, and the binding holds only
    the row of its own pool. So a callback whose task is not bound yet is kept in the pool of every tool.
    """
    return await _receive("runninghub", None, request, services)


async def _receive(provider: str, pool: str | None, request: Request, services: Services) -> JSONResponse:
    secrets: Mapping[str, Sequence[str]] = request.app.state.provider_secrets
    if provider not in PROVIDERS:
        raise ProviderUnknown(f"there is no provider {clean(provider)!r}")
    body = await request.body()
    without_keys = services.jobs.without_keys
    kept = without_keys(body.decode("utf-8", "replace"))
    is_hint = provider in request.app.state.hinting
    callback = Callback(
        dict(request.headers), dict(request.query_params), body, secrets.get(provider, ()), time.time(), is_hint
    )
    try:
        report = PROVIDERS[provider].read(callback)
    except Unreadable as error:  # its secret was right, because Forged is raised before any reading
        if not is_hint:  # guard: unread-hint-is-not-kept
            # Any caller may send a hint, so an unread one would let any caller alarm the operator.
            await services.unread.keep(pool or "default", provider, kept.encode(), f"{error.field}: {error.detail}")
        raise
    if report is None:
        return JSONResponse({"result": SAID["history"]})
    if pool is not None and not POOL_NAME.fullmatch(pool):  # SQL refuses a statement with such a name
        raise PoolUnknown(f"there is no pool {clean(pool)!r}")
    report = replace(report, error=without_keys(report.error), output=without_keys(report.output))
    if pool is not None:
        pools = [pool]
    else:
        bound = await services.ledger.pool_of_task(provider, report.task_id or "")
        pools = [bound] if bound is not None else request.app.state.tools.pools
    hear = services.jobs.hear
    if is_hint:  # guard: hint-is-not-believed
        hear = services.hints.hint
    words = [await hear(one, provider, report, clean(kept)) for one in pools]
    word = min(words, key=list(SAID).index)
    counters.callback_ends[provider, word] += 1
    if not report.understood and word not in ("repeat", "hint"):
        counters.not_understood[provider] += 1
    return JSONResponse({"result": SAID[word]})
