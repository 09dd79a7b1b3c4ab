"""How a route gets at the gatekeeper."""

from __future__ import annotations

from fastapi import Request

from gate.gatekeeper import Gatekeeper


def gatekeeper(request: Request) -> Gatekeeper:
    return request.app.state.gatekeeper
