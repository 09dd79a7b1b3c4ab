"""The routes that change a pool, live: its settings, pause and resume. `looking.py` has the one that shows it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import JSONResponse

from gate.errors import Invalid
from gate.gatekeeper import Gatekeeper
from gate.http.doors import gatekeeper
from gate.http.wire import PoolBody, PoolOut, ReasonBody, pool_body

router = APIRouter(prefix="/v1/pools/{pool}", tags=["pools"])
Keeper = Annotated[Gatekeeper, Depends(gatekeeper)]
Pool = Annotated[str, Path(max_length=64)]


@router.put("", response_model=PoolOut)
async def change(pool: Pool, body: PoolBody, keeper: Keeper) -> JSONResponse:
    """Change a pool live; kept through restart and rebuild."""
    if not (values := body.in_ms()):
        raise Invalid("body", "name at least one setting")
    return JSONResponse(pool_body(await keeper.change_pool(pool, values)))


@router.post("/pause", response_model=PoolOut)
async def pause(pool: Pool, keeper: Keeper, body: ReasonBody | None = None) -> JSONResponse:
    """Nobody is granted a slot until it is resumed; who runs goes on."""
    return JSONResponse(pool_body(await keeper.change_pool(pool, {"paused": True}, body.reason if body else None)))


@router.post("/resume", response_model=PoolOut)
async def resume(pool: Pool, keeper: Keeper, body: ReasonBody | None = None) -> JSONResponse:
    """Grants go on, beginning with who waits first."""
    return JSONResponse(pool_body(await keeper.change_pool(pool, {"paused": False}, body.reason if body else None)))
