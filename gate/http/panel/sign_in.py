"""Routes to sign in and out, and the route of scripts and styles."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from gate.http.auth import session
from gate.http.auth.roles import ANYONE, open_to
from gate.http.auth.session import Looking
from gate.http.panel import assets, render
from gate.http.panel.forms import fields
from gate.http.panel.routing import PanelRoute
from gate.model.errors import Forbidden, PoolUnknown, Unauthorized

router = APIRouter(route_class=PanelRoute, include_in_schema=False)
FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
"""Headers of a file of the current version. Its address changes with its content."""


@router.get("/session", response_model=None)
@open_to(ANYONE)
async def door(request: Request, visitor: Looking) -> Response:
    """Show the page to sign in."""
    return render.page("sign_in.html", request, visitor, next="/", wrong=None)


@router.post("/session", response_model=None)
@open_to(ANYONE)
async def sign_in(request: Request, visitor: Looking) -> Response:
    """Open a session for a key. The CSRF token keeps a foreign page from signing the browser in with a key of its own.

    Raises:
        ForeignPage: A page of another origin, or of another session, sent the form.
        Invalid: The body is no form.
    """
    session.of_this_page(request)
    form = await fields(request)
    session.checked(visitor, form.get("csrf", ""))
    to = _of_here(form.get("next", ""))
    try:
        cookie = session.open_for(form.get("key", "").strip(), request.app.state.keyring)
    except (Unauthorized, Forbidden) as error:
        wrong, status = ("tool_key", 403) if isinstance(error, Forbidden) else ("wrong_key", 401)
        return render.page("sign_in.html", request, visitor, status, next=to, wrong=wrong)
    answer = RedirectResponse(to, 303, render.HEADERS)
    session.give(answer, request, cookie)
    return answer


@router.post("/session/end", response_model=None)
@open_to(ANYONE)
async def sign_out(request: Request, visitor: Looking) -> Response:
    """Delete the session cookie.

    Raises:
        ForeignPage: A page of another origin, or of another session, sent the form.
        Invalid: The body is no form.
    """
    session.of_this_page(request)
    session.checked(visitor, (await fields(request)).get("csrf", ""))
    answer = RedirectResponse("/session", 303, render.HEADERS)
    answer.delete_cookie(session.COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/static/{version}/{name}", response_model=None)
@open_to(ANYONE)
async def static(version: str, name: str) -> Response:
    """Send a served file. No cache keeps it for another version, because that page may come from a server under replacement.

    Raises:
        PoolUnknown: There is no such file.
    """
    found = assets.files().get(name)
    if found is None:
        raise PoolUnknown("there is no such file")
    content, kind = found
    kept = FOR_EVER if version == assets.version() else {"Cache-Control": "no-store"}
    return Response(content, media_type=kind, headers=kept)


def _of_here(path: str) -> str:
    """Return the path to go on to. A path that leads to another host becomes `/`."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
