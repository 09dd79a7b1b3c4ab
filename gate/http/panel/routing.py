"""The route class of the panel. A refusal is a page for a user, a fragment for the script, and problem+json for others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gate.http.auth import session
from gate.http.panel import render, words
from gate.http.problems import TABLE
from gate.model.errors import (
    CallbackUnknown,
    Forbidden,
    ForeignPage,
    GateError,
    JobUnknown,
    PoolUnknown,
    StoreDown,
    Unauthorized,
)

PAGES: dict[type[GateError], tuple[str, str]] = {
    Forbidden: ("not_allowed", "not_allowed_why"),
    ForeignPage: ("not_this_page", "stale"),
    PoolUnknown: ("not_found", "not_found_why"),
    JobUnknown: ("not_found", "not_found_why"),
    CallbackUnknown: ("not_found", "not_found_why"),
    StoreDown: ("store_down", "store_down_why"),
}
"""Title and explanation of each refusal, as keys of the words."""


class PanelRoute(APIRoute):
    """A route that sends refusals as pages or fragments."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler, so that a browser gets a page in place of an error."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except GateError as error:
                if not _by_a_person(request):
                    raise
                return _page(request, error)
            except HTTPException as error:
                if error.status_code != 404 or not _by_a_person(request):
                    raise
                return _page(request, PoolUnknown(""))

        return handled


def unknown_page(request: Request) -> Response | None:
    """Make the page of an address that no route has.

    Returns:
        The page for a browser; None for any other client.
    """
    return _page(request, PoolUnknown("")) if _by_a_person(request) else None


def language(request: Request) -> str:
    """Return the language that the browser prefers, of those that the panel has."""
    return words.language(request.headers.get("accept-language", ""))


def by_script(request: Request) -> bool:
    """Say whether htmx sends the request. It needs a fragment, not a whole page."""
    return request.headers.get("hx-request") == "true"


def _by_a_person(request: Request) -> bool:
    accepts = request.headers.get("accept", "")
    return ("text/html" in accepts or by_script(request)) and not request.url.path.endswith("/live")


def _page(request: Request, error: GateError) -> Response:
    status = TABLE[type(error)][0]
    visitor = session.visitor_of(request)
    if isinstance(error, Unauthorized) and not by_script(request):
        at = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        return render.page("sign_in.html", request, visitor, status, next=at if request.method == "GET" else "/", wrong=None)
    title, why = PAGES.get(type(error), PAGES[ForeignPage])
    store = error.store if isinstance(error, StoreDown) else "sql"
    if by_script(request):
        html = render.fragment("_refused.html", language(request), title=title, why=why, store=store)
        return render.answer(html, request, visitor, status)
    return render.page("refused.html", request, visitor, status, title=title, why=why, store=store)
