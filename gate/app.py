"""The HTTP door: one table of routers, one of errors, in front of a gate that is open already."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from gate import __version__
from gate.gatekeeper import Gatekeeper
from gate.http import doors, jobs, limits, looking, pools, problems


def make_app(gatekeeper: Gatekeeper) -> FastAPI:
    app = FastAPI(title="gate", version=__version__, summary="Three run, the fourth waits.", redirect_slashes=False)
    app.add_middleware(limits.BodyLimit)
    app.state.gatekeeper = gatekeeper
    problems.install(app)
    for router in (jobs.router, pools.router, looking.router):
        app.include_router(router, dependencies=[Depends(doors.known_query)])
    return app
