"""The HTTP door: one table of routers, one of errors, one of roles, in front of a gate that is open already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from gate import __version__
from gate.coordination.services import Services
from gate.http import jobs, legacy_supabase, lookups, metrics, openapi, panel, pools, problems, unread_callbacks, webhooks
from gate.http.auth import roles
from gate.http.auth.key_cache import KeyCache
from gate.http.middleware import access_log as accesslog
from gate.http.middleware import body_limit, fast_path, request_metrics
from gate.http.panel.pool_feed import PoolFeed
from gate.model.tool import Tools

ROUTERS = (jobs.router, pools.router, lookups.router, unread_callbacks.router, metrics.router)
"""Of version 1."""
READ_BY_PEOPLE = (openapi.router, *panel.ROUTERS)
"""Whose door knows the session of a browser too, which shows no key by itself."""


def make_app(
    services: Services,
    keyring: KeyCache,
    feed: PoolFeed,
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
    app.state.services, app.state.keyring, app.state.pool_feed = services, keyring, feed
    app.state.tools, app.state.provider_secrets = tools or Tools(), provider_secrets or {}
    app.state.check_counts = check_counts
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(roles.enter), Depends(roles.known_query)])
    for router in (
        legacy_supabase.router,
        webhooks.router,
    ):  # what others send has its own form: more than is known may be there
        app.include_router(router, dependencies=[Depends(roles.enter)])
    for router in READ_BY_PEOPLE:
        app.include_router(router, dependencies=[Depends(panel.enter)])
    openapi.describe(app)
    return app


def in_front(app: FastAPI, access_log: bool = False) -> ASGIApp:
    """What is served: `app`, and before it whatever sees each request."""
    front: ASGIApp = fast_path.FastPath(body_limit.BodyLimit(app), app.state.services, app.state.keyring)
    front = request_metrics.RequestMetrics(front)
    return accesslog.AccessLog(front) if access_log else front
