"""Routes about this server itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gate.http.answers import DrainOut
from gate.http.auth.roles import ADMIN, open_to
from gate.http.services import ShutdownService

router = APIRouter(prefix="/v1/admin", tags=["health"])


@router.post("/drain", status_code=202, response_model=DrainOut)
@open_to(ADMIN)
async def drain(shutdown: ShutdownService) -> Any:
    """Stop this server as SIGTERM does, without a failed call.

    First `/readyz` is 503 and each answer closes its connection, while calls are still served: for `delay_seconds`, so that proxies and
    load balancers send their calls elsewhere. Then the port is closed, calls under way are answered, and the process ends. A
    supervisor such as systemd or Kubernetes starts it again. It cannot be taken back; a repeat changes nothing.
    """
    shutdown.request()
    return JSONResponse({"status": "draining", "delay_seconds": shutdown.delay_s}, 202)
