"""The HTTP door: one table of routers, one of errors, one of roles, in front of a gate that is open already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from gate import __version__
from gate.gatekeeper import Gatekeeper
from gate.http import (
    accesslog,
    callbacks,
    counting,
    doors,
    jobs,
    limits,
    looking,
    metrics,
    panel,
    pools,
    problems,
    reference,
    short,
    supabase,
    webhooks,
)
from gate.keeper.keyring import KeyRing
from gate.tools import Tools

ROUTERS = (jobs.router, pools.router, looking.router, callbacks.router, metrics.router)
"""Of version 1."""
READ_BY_PEOPLE = (reference.router, *panel.ROUTERS)
"""Whose door knows the session of a browser too, which shows no key by itself."""


def make_app(
    gatekeeper: Gatekeeper,
    keyring: KeyRing,
    tools: Tools | None = None,
    provider_secrets: Mapping[str, Sequence[str]] | None = None,
    check_counts: bool = False,
) -> FastAPI:
    """Every route. `provider_secrets`: what callbacks have to show, by provider; `check_counts`: see `Settings`."""
    app = FastAPI(
        title="gate",
        version=__version__,
        summary="Three run, the fourth waits.",
        redirect_slashes=False,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.gatekeeper, app.state.keyring = gatekeeper, keyring
    app.state.tools, app.state.provider_secrets = tools or Tools(), provider_secrets or {}
    app.state.check_counts = check_counts
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(doors.enter), Depends(doors.known_query)])
    for router in (supabase.router, webhooks.router):  # what others send has its own form: more than is known may be there
        app.include_router(router, dependencies=[Depends(doors.enter)])
    for router in READ_BY_PEOPLE:
        app.include_router(router, dependencies=[Depends(panel.enter)])
    reference.describe(app)
    return app


def in_front(app: FastAPI, access_log: bool = False) -> ASGIApp:
    """What is served: `app`, and before it whatever sees each request."""
    front: ASGIApp = short.ShortWay(limits.BodyLimit(app), app.state.gatekeeper, app.state.keyring)
    front = counting.Counting(front)
    return accesslog.AccessLog(front) if access_log else front
