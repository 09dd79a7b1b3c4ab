"""Sessions of browsers. A user shows a key once, and the browser then keeps a session cookie in place of the key.

The cookie names the key that opened the session and the time of its end, signed with the hash of that key. The server stores
nothing: a restart keeps every session, and several servers accept the same cookie. A revoked key ends its sessions at the
next read of the key cache.

Only the panel and the HTTP reference (/docs) accept a session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response

from gate.http.auth import roles
from gate.http.auth.key_cache import KeyCache
from gate.model.errors import Forbidden, ForeignPage, Unauthorized

COOKIE = "gate_session"
SESSION_S = 14 * 24 * 3600
"""Lifetime of a session (s). After two weeks the user has to show the key again."""
NOBODY = "open"
"""Prefix of the cookie of a browser that has shown no key. It needs one too: the CSRF token is derived from it."""
_SEP = "~"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A browser, or a caller with a key, that asks for a page.

    Attributes:
        name: Name of the key; empty when no key was needed.
        role: Role of the key; empty when the request shows neither a valid key nor a valid session.
        cookie: The session cookie.
        fresh: The browser does not have this cookie yet, so the answer has to set it.
    """

    name: str
    role: str
    cookie: str
    fresh: bool

    @property
    def may_act(self) -> bool:
        """Whether the visitor may change things."""
        return self.role in roles.ADMIN

    @property
    def signed_in(self) -> bool:
        """Whether a key opened this session."""
        return not self.cookie.startswith(NOBODY + _SEP)

    @property
    def csrf(self) -> str:
        """The CSRF token of the session.

        Only a page of gate can know it: scripts cannot read the cookie, and other sites cannot make the browser send it.
        """
        return hmac.new(self.cookie.encode(), b"gate panel csrf", hashlib.sha256).hexdigest()


def enter(request: Request) -> Visitor:
    """Check that the visitor may use the route of a request.

    Returns:
        The visitor.

    Raises:
        Unauthorized: The request shows neither a valid session nor a valid key.
        Forbidden: The role of the key may not use the route.
    """
    may = roles.facts_of(request.scope["route"]).may
    visitor = visitor_of(request)
    if may != roles.ANYONE and visitor.role not in may:
        if not visitor.role:
            raise Unauthorized(
                "sign in at /session with a key of the role read or admin, or show one: Authorization: Bearer KEY"
            )
        raise Forbidden(f"a key with the role {visitor.role} may not do this")
    request.scope.setdefault("state", {})["caller"] = visitor.name
    request.state.visitor = visitor
    return visitor


def visitor_of(request: Request) -> Visitor:
    """Identify the visitor by session, then by key.

    Returns:
        The visitor. The role is empty when the request shows neither a valid session nor a valid key.
    """
    ring: KeyCache = request.app.state.keyring
    cookie = request.cookies.get(COOKIE, "")
    headers = dict(reversed(request.scope["headers"]))
    if not ring.closed and roles.from_here(request.scope, headers) and roles.is_here(roles.asked_for(headers) or ""):
        return _without_key(cookie, "admin")
    if (found := _opened_by(cookie, ring)) is not None:
        return Visitor(*found, cookie, False)
    shown = roles.shown_keys(headers.get(b"authorization", b""), headers.get(b"apikey", b""))
    name, role = next((who for key in shown if (who := ring.who(key))), ("", ""))
    visitor = _without_key(cookie, role)
    return Visitor(name, role, visitor.cookie, visitor.fresh)


def stands(request: Request, visitor: Visitor) -> bool:
    """Say whether the visitor of an open stream still has the same role. The key may be revoked while the stream is open."""
    return visitor_of(request).role == visitor.role


def _without_key(cookie: str, role: str) -> Visitor:
    if cookie.startswith(NOBODY + _SEP) and len(cookie) == len(NOBODY) + 1 + 32:
        return Visitor("", role, cookie, False)
    return Visitor("", role, f"{NOBODY}{_SEP}{secrets.token_hex(16)}", True)


def open_for(key: str, ring: KeyCache) -> str:
    """Open a session.

    Args:
        key: The key as the user typed it.
        ring: The keys that are valid.

    Returns:
        The session cookie.

    Raises:
        Unauthorized: The key is not valid.
        Forbidden: It is a tool's key.
    """
    found = ring.who(key)
    if found is None:
        raise Unauthorized("this key is not valid")
    name, role = found
    if role not in roles.LOOK:
        raise Forbidden("a tool's key never belongs in a browser")
    content = _SEP.join((_packed(name), str(int(time.time()) + SESSION_S), secrets.token_hex(16)))
    by = hashlib.sha256(key.encode()).hexdigest()
    return f"{content}{_SEP}{_seal(by, content)}"


def _opened_by(cookie: str, ring: KeyCache) -> tuple[str, str] | None:
    """Name and role of the valid key that opened this session; None when the cookie is not signed by one, or is over."""
    content, _, seal = cookie.rpartition(_SEP)
    parts = content.split(_SEP)
    if len(parts) != 3 or not parts[1].isascii() or not parts[1].isdigit() or int(parts[1][:15]) < time.time():
        return None
    name = _unpacked(parts[0])
    for role, by in ring.sealed(name):
        if hmac.compare_digest(_seal(by, content).encode(), seal.encode()) and role in roles.LOOK:
            return name, role
    return None


def _seal(by: str, content: str) -> str:
    return hmac.new(by.encode(), f"gate panel session {content}".encode(), hashlib.sha256).hexdigest()


def _packed(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _unpacked(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return ""


def give(response: Response, request: Request, cookie: str) -> None:
    """Set the session cookie on a response. It is marked `secure` when the browser speaks HTTPS, to gate or to a proxy."""
    by_tls = request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"
    lives = None if cookie.startswith(NOBODY) else SESSION_S
    response.set_cookie(COOKIE, cookie, max_age=lives, path="/", secure=by_tls, httponly=True, samesite="strict")


def of_this_page(request: Request) -> None:
    """Refuse a change that a page of another origin asks for, whatever cookie or token it sends.

    Raises:
        ForeignPage: Sec-Fetch-Site or Origin names another origin.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    else:  # An old browser, or no HTTPS. A proxy may rewrite Host, so the comparison with it is only the fallback.
        same = origin is None or origin.partition("//")[2] == request.headers.get("host")
    if not same:
        raise ForeignPage("a page of another origin may not ask for this; a proxy in between has to pass the Host on")


def checked(visitor: Visitor, token: str) -> None:
    """Check the CSRF token of a form.

    Args:
        visitor: The visitor who sent the form.
        token: The token in the form; empty when it has none.

    Raises:
        ForeignPage: The token is not of this session.
    """
    if visitor.fresh or not hmac.compare_digest(visitor.csrf.encode(), token.encode()):
        raise ForeignPage("this page is older than your session: load it again")


Looking = Annotated[Visitor, Depends(enter)]
"""The visitor who sends the request, as a parameter of a route."""
