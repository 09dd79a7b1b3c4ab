"""Who looks at the panel: a key, shown once, opens a session; the browser keeps that and never the key.

The cookie says which key opened it and until when, sealed with the hash of that key. So nothing is kept on the server: a restart
keeps every session, several servers agree, and a revoked key ends its sessions when the key ring hears of it. It counts on the
panel's routes and for reading the reference (/docs), and on no other.
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
NOBODY = "open"
"""Of a browser that has shown no key: its cookie carries a CSRF token all the same."""
_SEP = "~"


@dataclass(frozen=True, slots=True)
class Visitor:
    """`name` is the key's, '' of one who needs none; `cookie` what the browser has, or is to be given (`fresh`)."""

    name: str
    role: str
    cookie: str
    fresh: bool

    @property
    def may_act(self) -> bool:
        return self.role in roles.ADMIN

    @property
    def signed_in(self) -> bool:
        return not self.cookie.startswith(NOBODY + _SEP)

    @property
    def csrf(self) -> str:
        """Only a page of gate's own can know it: the cookie is neither readable nor sent from elsewhere."""
        return hmac.new(self.cookie.encode(), b"gate panel csrf", hashlib.sha256).hexdigest()


def enter(request: Request) -> Visitor:
    """Raises Unauthorized, Forbidden."""
    may = roles.TABLE[request.method, request.scope["route"].path]
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
    """Whoever asks; `role` is '' of one who has shown nothing that counts."""
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
    """Whether who opened a stream would still be let in."""
    return visitor_of(request).role == visitor.role


def _without_key(cookie: str, role: str) -> Visitor:
    if cookie.startswith(NOBODY + _SEP) and len(cookie) == len(NOBODY) + 1 + 32:
        return Visitor("", role, cookie, False)
    return Visitor("", role, f"{NOBODY}{_SEP}{secrets.token_hex(16)}", True)


def open_for(key: str, ring: KeyCache) -> str:
    """The cookie of a session that this key opens. Raises Unauthorized; Forbidden for a tool's key."""
    found = ring.who(key)
    if found is None:
        raise Unauthorized("this is no living key")
    name, role = found
    if role not in roles.LOOK:
        raise Forbidden("a tool's key never belongs in a browser")
    said = _SEP.join((_packed(name), str(int(time.time()) + SESSION_S), secrets.token_hex(16)))
    by = hashlib.sha256(key.encode()).hexdigest()
    return f"{said}{_SEP}{_seal(by, said)}"


def _opened_by(cookie: str, ring: KeyCache) -> tuple[str, str] | None:
    """Name and role of the living key that opened this session."""
    said, _, seal = cookie.rpartition(_SEP)
    parts = said.split(_SEP)
    if len(parts) != 3 or not parts[1].isascii() or not parts[1].isdigit() or int(parts[1][:15]) < time.time():
        return None
    name = _unpacked(parts[0])
    for role, by in ring.sealed(name):
        if hmac.compare_digest(_seal(by, said).encode(), seal.encode()) and role in roles.LOOK:
            return name, role
    return None


def _seal(by: str, said: str) -> str:
    return hmac.new(by.encode(), f"gate panel session {said}".encode(), hashlib.sha256).hexdigest()


def _packed(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _unpacked(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return ""


def give(response: Response, request: Request, cookie: str) -> None:
    by_tls = request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"
    lives = None if cookie.startswith(NOBODY) else SESSION_S
    response.set_cookie(COOKIE, cookie, max_age=lives, path="/", secure=by_tls, httponly=True, samesite="strict")


def of_this_page(request: Request) -> None:
    """What changes something comes from a page of this gate, whatever it carries. Raises ForeignPage."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    else:  # an old browser, or no https: a proxy that speaks it for gate may change the host, so this is asked second
        same = origin is None or origin.partition("//")[2] == request.headers.get("host")
    if not same:
        raise ForeignPage("a page of another origin may not ask for this; a proxy in between has to pass the Host on")


def checked(visitor: Visitor, token: str) -> None:
    """Raises ForeignPage."""
    if visitor.fresh or not hmac.compare_digest(visitor.csrf.encode(), token.encode()):
        raise ForeignPage("this page is older than your session: load it again")


Looking = Annotated[Visitor, Depends(enter)]
