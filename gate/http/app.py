"""Builds the HTTP application from its routers, for services that run already."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from gate import __version__
from gate.coordination.services import Services
from gate.http import (
    admin,
    jobs,
    legacy_supabase,
    lookups,
    metrics,
    openapi,
    panel,
    pools,
    problems,
    unread_callbacks,
    webhooks,
)
from gate.http.auth import roles
from gate.http.auth.key_cache import KeyCache
from gate.http.middleware import access_log as accesslog
from gate.http.middleware import body_limit, fast_path, no_store, request_metrics
from gate.http.panel.list_feed import PoolListFeed
from gate.http.panel.pool_feed import PoolFeed
from gate.model.tool import Tools

ROUTERS = (jobs.router, pools.router, lookups.router, unread_callbacks.router, admin.router, metrics.router)
"""Routers of version 1 of the API."""
OF_OLD_CALLERS = (legacy_supabase.router, webhooks.router)
"""Routers for providers and old front ends. They send query parameters that gate does not know, so these are allowed."""
READ_BY_PEOPLE = (openapi.router, *panel.ROUTERS)
"""Routers that accept the session of a browser too, because a browser does not send a key by itself."""


def make_app(
    services: Services,
    keyring: KeyCache,
    feed: PoolFeed,
    tools: Tools | None = None,
    provider_secrets: Mapping[str, Sequence[str]] | None = None,
    check_counts: bool = False,
    hinting: Collection[str] = (),
) -> FastAPI:
    """Build the application with all routes.

    Args:
        services: Services that the routes need.
        keyring: The keys that are valid.
        feed: The feed of the panel.
        tools: The configured tools; None for none.
        provider_secrets: Secrets that callbacks have to show, by provider; None for none.
        check_counts: Whether a `check` without a job is answered with the number of free slots.
        hinting: Names of the providers whose callbacks are hints: they show no secret, and are not believed.
    """
    app = FastAPI(
        title="gate",
        version=__version__,
        summary="Three run, the fourth waits.",
        redirect_slashes=False,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services, app.state.keyring, app.state.pool_feed = services, keyring, feed
    app.state.pool_list = PoolListFeed(services)
    app.state.tools, app.state.provider_secrets = tools or Tools(), provider_secrets or {}
    app.state.check_counts, app.state.hinting = check_counts, hinting
    app.state.routes = roles.routes((*ROUTERS, *OF_OLD_CALLERS, *READ_BY_PEOPLE))
    problems.install(app, panel.unknown_page)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(roles.enter), Depends(roles.known_query)])
    for router in OF_OLD_CALLERS:
        app.include_router(router, dependencies=[Depends(roles.enter)])
    for router in READ_BY_PEOPLE:
        app.include_router(router, dependencies=[Depends(panel.enter)])
    openapi.describe(app)
    return app


def in_front(app: FastAPI, access_log: bool = False) -> ASGIApp:
    """Put the middleware in front of the application.

    Args:
        app: The application.
        access_log: Whether each request is logged.

    Returns:
        The ASGI application to serve.
    """
    front: ASGIApp = fast_path.FastPath(body_limit.BodyLimit(app), app.state.services, app.state.keyring)
    front = request_metrics.RequestMetrics(no_store.NoStore(front), app.state.routes)
    return accesslog.AccessLog(front) if access_log else front
