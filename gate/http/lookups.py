"""Routes that only read: the job of a user, the ledger, and the health of gate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from gate.http.answers import BalanceOut, JobOut, LedgerOut, ServerOut, balance_body, entry_body, server_body
from gate.http.auth.roles import ADMIN, ANY_KEY, ANYONE, Asking, open_to
from gate.http.schemas import JobId, Label
from gate.http.services import LedgerService, QueryService, ShutdownService
from gate.model.errors import StoreDown
from gate.model.job_json import job_body

router = APIRouter()
SQL_INTEGER_MAX = 2**63 - 1
"""Largest id in SQL. A larger number would be an error of the database."""


@router.get("/v1/users/{user:text}/active", response_model=JobOut | None, tags=["users"])
@open_to(ANY_KEY)
async def active(user: Annotated[Label, Path()], queries: QueryService, asking: Asking) -> JSONResponse:
    """Read the user's live job: a running one first, then a granted one, then a queued one. It is null when there is none."""
    job = await queries.active(user)
    return JSONResponse(job_body(job, asking.may_release) if job else None)


@router.get("/v1/ledger", response_model=LedgerOut, tags=["ledger"])
@open_to(ANY_KEY)
async def ledger(
    ledger: LedgerService,
    user: Annotated[Label | None, Query()] = None,
    job_id: Annotated[JobId | None, Query()] = None,
    kind: Literal["charge", "refund"] | None = None,
    after: Annotated[int, Query(ge=0, le=SQL_INTEGER_MAX)] = 0,
) -> JSONResponse:
    """List charges and refunds in pages, the lowest `id` first.

    To follow the ledger, ask again with the `id` of the last row that you have read as `after`. Each row then comes once and
    none is left out, however many servers write at the same time, on SQLite and on Postgres: a page ends before a row with a
    lower `id` could still be committed. The next page has the rows that were left out. Ids increase, and may have gaps.
    """
    rows, following = await ledger.entries(user=user, job_id=job_id, kind=kind, after=after)
    return JSONResponse({"rows": [entry_body(row) for row in rows], "next": following})


@router.get("/v1/ledger/balances/{user:text}", response_model=BalanceOut, tags=["ledger"])
@open_to(ANY_KEY)
async def balance(user: Annotated[Label, Path()], ledger: LedgerService) -> JSONResponse:
    """Read how much was charged to a user, and how much was refunded."""
    return JSONResponse(balance_body(user, await ledger.balance(user)))


@router.get("/v1/servers", response_model=list[ServerOut], tags=["health"])
@open_to(ADMIN)
async def servers(ledger: LedgerService) -> JSONResponse:
    """List the servers of this gate, in the order of their starts. One that stopped in order is left out."""
    return JSONResponse([server_body(one) for one in await ledger.servers()])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", tags=["health"])
@open_to(ANYONE)
async def healthz() -> dict[str, str]:
    """Check that this process is alive."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", tags=["health"], responses={503: {}})
@open_to(ANYONE)
async def readyz(queries: QueryService, ledger: LedgerService, shutdown: ShutdownService) -> Any:
    """Check that both stores answer and take writes, and that this server is not about to stop. A refusal says `why`, and names the `store`.

    `held` names the pools that gate has paused because SQL has gone back. gate is ready all the same: it answers, and ends jobs.
    """
    if shutdown.is_begun:  # guard: draining-is-not-ready
        return JSONResponse({"status": "not ready", "why": "this server is about to stop"}, 503, {"Retry-After": "1"})
    try:
        await queries.ready()
        held = await ledger.held()
    except StoreDown as error:
        # Any caller may ask. The address and the user of a store that does not answer are in the log only.
        why = error.detail if error.refuses else "it does not answer"
        return JSONResponse({"status": "not ready", "store": error.store, "why": why}, 503, {"Retry-After": "1"})
    return {"status": "ready", "held": sorted(held)} if held else {"status": "ready"}
