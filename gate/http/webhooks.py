"""What providers call back with. Open to everybody: each provider shows a secret of its own, and that is checked first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gate.coordination.services import Services
from gate.http.schemas import HeardOut
from gate.http.services import AllServices
from gate.model.errors import PoolUnknown, ProviderUnknown, Unreadable
from gate.model.job import POOL_NAME
from gate.providers import PROVIDERS
from gate.providers.callback import Callback
from gate.providers.parsing import clean
from gate.telemetry import counters

router = APIRouter(tags=["webhooks"])
SAID = {"ended": "applied", "late": "late", "waits": "kept", "history": "ignored", "repeat": "repeat"}
"""What is answered, always with 200: a provider that calls again would change nothing."""
BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "description": "in the provider's words"}}},
}


@router.post("/v1/webhooks/{provider}/{pool}", response_model=HeardOut, openapi_extra={"requestBody": BODY})
async def webhook(provider: str, pool: str, request: Request, services: AllServices) -> JSONResponse:
    """Hear how a task ended, in the provider's own words. `standard` is Standard Webhooks with `{type, data: {job_id | task_id,
    outcome, error?, output?}}` and `webhook-*` or `svix-*` headers; `runninghub` shows `?token=`. Answers `{result}`: `applied`,
    `late`, `kept` (until its task is bound), `ignored`, `repeat`.

    A `task_id` may be a number. An end is never refused for its error or its output: what is too long or too deep is cut, and
    `… (cut)` marks the place. The output of `runninghub` is `{files: [{url, type, …}], texts?, coins?, usage?, taskUsageList?,
    cut?}`, wherever the callback has them; a success of an unknown shape completes the job with the callback under `raw`.
    """
    return await _heard(provider, pool, request, services)


@router.post("/functions/v1/runninghub-webhook", include_in_schema=False)
async def of_old(request: Request, services: AllServices) -> JSONResponse:
    """Where RunningHub calls the queue manager that gate replaces. The pool is that of the job which is bound to the task.

    A callback may come before its binding, and the binding holds only its own pool's row: so a task that is not bound yet is kept in
    each pool that a tool waits in.
    """
    return await _heard("runninghub", None, request, services)


async def _heard(provider: str, pool: str | None, request: Request, services: Services) -> JSONResponse:
    secrets: Mapping[str, Sequence[str]] = request.app.state.provider_secrets
    if provider not in PROVIDERS:
        raise ProviderUnknown(f"there is no provider {clean(provider)!r}")
    body = await request.body()
    callback = Callback(dict(request.headers), dict(request.query_params), body, secrets.get(provider, ()), time.time())
    try:
        said = PROVIDERS[provider].read(callback)
    except Unreadable as error:  # its secret was right: Forged is another error, and raised before
        await services.unread.keep(pool or "default", provider, body, f"{error.field}: {error.detail}")
        raise
    if said is None:
        return JSONResponse({"result": SAID["history"]})
    if pool is not None and not POOL_NAME.fullmatch(pool):  # SQL could not even be asked for it
        raise PoolUnknown(f"there is no pool {clean(pool)!r}")
    raw = clean(body.decode("utf-8", "replace"))
    if pool is not None:
        pools = [pool]
    else:
        bound = await services.ledger.pool_of_task(provider, said.task_id or "")
        pools = [bound] if bound is not None else request.app.state.tools.pools
    words = [await services.jobs.hear(one, provider, said, raw) for one in pools]
    word = min(words, key=list(SAID).index)
    if not said.understood and word != "repeat":
        counters.not_understood[provider] += 1
    return JSONResponse({"result": SAID[word]})
