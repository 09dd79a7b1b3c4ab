"""How a route gets at the gatekeeper."""

from __future__ import annotations

from fastapi import Request

from gate.errors import Invalid
from gate.gatekeeper import Gatekeeper


def known_query(request: Request) -> None:
    """Refuses a query parameter that the route does not know: `?usr=ana` must not answer for everybody."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise Invalid(name, f"there is no parameter {name!r} here")


def gatekeeper(request: Request) -> Gatekeeper:
    return request.app.state.gatekeeper
