"""The HTTP door: one table of routers, one of errors, in front of a gate that is open already."""

from __future__ import annotations

from fastapi import FastAPI

from gate import __version__
from gate.gatekeeper import Gatekeeper
from gate.http import jobs, limits, looking, problems


def make_app(gatekeeper: Gatekeeper) -> FastAPI:
    app = FastAPI(title="gate", version=__version__, summary="Three run, the fourth waits.")
    app.add_middleware(limits.BodyLimit)
    app.state.gatekeeper = gatekeeper
    problems.install(app)
    app.include_router(jobs.router)
    app.include_router(looking.router)
    return app
