"""The HTTP door: one table of routers, one of errors, one of roles, in front of a gate that is open already."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from gate import __version__
from gate.gatekeeper import Gatekeeper
from gate.http import accesslog, doors, jobs, limits, looking, pools, problems, reference, supabase
from gate.keeper.keyring import KeyRing

ROUTERS = (jobs.router, pools.router, looking.router, reference.router)
"""Of version 1."""


def make_app(gatekeeper: Gatekeeper, keyring: KeyRing, access_log: bool = False) -> FastAPI:
    app = FastAPI(
        title="gate",
        version=__version__,
        summary="Three run, the fourth waits.",
        redirect_slashes=False,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(limits.BodyLimit)
    if access_log:
        app.add_middleware(accesslog.AccessLog)
    app.state.gatekeeper, app.state.keyring = gatekeeper, keyring
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(doors.enter), Depends(doors.known_query)])
    app.include_router(supabase.router, dependencies=[Depends(doors.enter)])  # old front ends may ask for more
    reference.describe(app)
    return app
