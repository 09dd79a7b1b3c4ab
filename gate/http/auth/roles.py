"""Facts of the routes, which each declares at its endpoint, and the check of roles that runs before every route.

A key comes in `Authorization: Bearer KEY`, or in `apikey` as supabase-js sends it. The panel and the HTTP reference also
accept the session that a key has opened (`gate.http.auth.session`). No other route accepts a session.

While no key exists, a caller on this machine is an admin, and every other caller is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.routing import BaseRoute
from starlette.types import Scope

from gate.http.auth.key_cache import KeyCache
from gate.model.errors import Forbidden, Invalid, Unauthorized


class _Text(PathConvertor):
    """Match any text, with slashes and line breaks. The route then names the wrong value, where no match would be a 404."""

    regex = "(?s:.*)"


register_url_convertor("text", _Text())

F = TypeVar("F", bound=Callable[..., Any])
SHOWN_MAX_BYTES = 256
"""Length of both key headers (bytes) up to which the parsed result is cached. No key of gate is longer."""
ANYONE = frozenset({"tool", "admin", "read", ""})
ANY_KEY = frozenset({"tool", "admin", "read"})
TOOL = frozenset({"tool", "admin"})
ADMIN = frozenset({"admin"})
LOOK = frozenset({"admin", "read"})
"""Roles that may use the panel and the other operators' pages. A tool's key must never be in a browser."""


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What a route declares about itself.

    Attributes:
        may: Roles that may call it; with an empty one, any caller.
        conflicts: Codes with which it may be refused as a conflict (409).
        needs_lease: Whether it needs a lease, and so is refused with 410 when that is lost.
        may_be_full: Whether it is refused with 429 when the queue is full.
        on_fast_path: Whether the fast path calls it.
    """

    may: frozenset[str]
    conflicts: frozenset[str]
    needs_lease: bool
    may_be_full: bool
    on_fast_path: bool


Routes = dict[tuple[str, str], RouteFacts]
"""Facts of routes, by method and path."""
_facts: dict[Callable[..., Any], RouteFacts] = {}


def open_to(
    may: frozenset[str], *, conflicts: Iterable[str] = (), needs_lease: bool = False, may_be_full: bool = False,
    on_fast_path: bool = False,
) -> Callable[[F], F]:  # fmt: skip
    """Declare the facts of a route, at its endpoint. The arguments are the attributes of RouteFacts."""

    def declare(endpoint: F) -> F:
        _facts[endpoint] = RouteFacts(may, frozenset(conflicts), needs_lease, may_be_full, on_fast_path)
        return endpoint

    return declare


def routes(routers: Iterable[APIRouter]) -> Routes:
    """Return the facts of all routes, by method and path.

    Raises:
        KeyError: A route declares none.
    """
    found = (route for router in routers for route in router.routes if isinstance(route, APIRoute))
    return {(method, route.path): facts_of(route) for route in found for method in route.methods or ()}


def facts_of(route: BaseRoute) -> RouteFacts:
    """Return what a route declares.

    Raises:
        KeyError: Its endpoint has no `open_to`. The application is not built then.
    """
    return _facts[route.endpoint]  # type: ignore[attr-defined]  # every route of gate has an endpoint


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    Attributes:
        name: Name of the key; empty when no key was needed.
        role: `tool`, `admin` or `read`; empty when no valid key was shown.
    """

    name: str
    role: str

    @property
    def may_release(self) -> bool:
        """Whether the caller may release jobs, and so may see their lease ids and payloads."""
        return self.role in TOOL


def enter(request: Request) -> Caller:
    """Check that the caller of a request may use its route.

    Returns:
        The caller.

    Raises:
        Unauthorized: The route needs a key, and the request shows no valid one.
        Forbidden: The role of the key may not use the route, or the request comes from a page of another origin.
    """
    headers = dict(reversed(request.scope["headers"]))  # the first header of a name counts when it comes twice
    return caller(request.scope, headers, facts_of(request.scope["route"]).may, request.app.state.keyring)


def caller(scope: Scope, headers: Mapping[bytes, bytes], may: frozenset[str], ring: KeyCache) -> Caller:
    """Check that the caller may use a route, and note the caller's name in the scope for the access log.

    Args:
        scope: The request's ASGI scope.
        headers: Its headers, with lower-case names.
        may: Roles that may use the route.
        ring: The keys that are valid.

    Returns:
        The caller.

    Raises:
        Unauthorized: The route needs a key, and the request shows no valid one.
        Forbidden: The role of the key may not use the route. While no key exists: the request comes from a page of another
            origin, or asks for another host than this machine.
    """
    if (
        not ring.closed
        # guard: keyless-only-from-this-machine
        and from_here(scope, headers)
    ):
        if _by_a_foreign_page(scope, headers):
            raise Forbidden("a page of another origin may not ask while no key exists")
        if not asks_for_here(headers):
            raise Forbidden("while no key exists gate answers to this machine's own names only, such as localhost")
        return Caller("", "admin")
    tokens = shown_keys(headers.get(b"authorization", b""), headers.get(b"apikey", b""))
    found = next((who for token in tokens if (who := ring.who(token))), None)
    caller = Caller(*found) if found else Caller("", "")
    if caller.role in may:
        scope.setdefault("state", {})["caller"] = caller.name
        return caller
    if not caller.role:
        if not ring.closed:
            raise Unauthorized(
                "no key exists yet, and without one only this machine is let in, by no proxy: gate keys create NAME --role admin"
            )
        raise Unauthorized("send a valid key: Authorization: Bearer KEY, or apikey: KEY")
    raise Forbidden(f"a key with the role {caller.role} may not do this; {' or '.join(sorted(may - {''}))} may")


def _by_a_foreign_page(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a page of another origin sent the request.

    A browser on this machine sends what any page tells it to. Only /v1/ is checked: the routes of old front ends are made for
    pages of other origins.
    """
    if not scope["path"].startswith("/v1/"):
        return False
    origin = headers.get(b"origin")
    # A sandboxed frame has the origin `null`, whichever page it is from. It has no host and counts as foreign.
    return origin is not None and not is_here(_name_in(origin.decode("latin-1")) or "")


def asks_for_here(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a request asks for this machine by a name of its own.

    By DNS rebinding, a foreign page can point its own domain at this machine and so become a page of this origin. Such a
    domain has a dot, and is no IP address.
    """
    host = asked_for(headers)
    return host is not None and ("." not in host or host.endswith(".localhost") or _is_address(host))


def asked_for(headers: Mapping[bytes, bytes]) -> str | None:
    """Read the host that a request asks for.

    Returns:
        The host; empty when the Host header is missing; None when the header is malformed.
    """
    return _name_in(f"//{headers.get(b'host', b'').decode('latin-1')}")


def _name_in(address: str) -> str | None:
    """Read the host in a URL: empty when it has none, None when it is malformed."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_here(host: str) -> bool:
    """Say whether a host is `localhost` or a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown_keys(authorization: bytes, apikey: bytes) -> list[str]:
    """List the tokens that a request shows, the bearer token first. Short headers are parsed once and cached.

    Args:
        authorization: Value of the Authorization header; empty when there is none.
        apikey: Value of the `apikey` header; empty when there is none.
    """
    short = len(authorization) + len(apikey) <= SHOWN_MAX_BYTES
    return (_parsed if short else _parsed.__wrapped__)(authorization, apikey)


@lru_cache(maxsize=1024)
def _parsed(authorization: bytes, apikey: bytes) -> list[str]:
    scheme, _, bearer = authorization.decode("latin-1").partition(" ")
    shown = [bearer.strip()] if scheme.lower() == "bearer" else []
    return [token for token in (*shown, apikey.decode("latin-1").strip()) if token]


def from_here(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a request comes from this machine itself.

    A proxy on this machine forwards requests of other machines. It says so in a header, and its requests do not count.
    """
    brought = b"x-forwarded-for" in headers or b"forwarded" in headers
    client = scope.get("client")
    return client is not None and is_here(client[0]) and not brought


def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not have. Else `?usr=ana` would answer for all users.

    Raises:
        Invalid: The route has no such query parameter.
    """
    asked = request.scope["route"].dependant
    known = {parameter.alias for parameter in asked.query_params}
    fields = {name for body in asked.body_params for name in getattr(body.field_info.annotation, "model_fields", ())}
    for name in request.query_params:
        if name not in known:
            raise Invalid(name, f"{name!r} goes into the body" if name in fields else f"there is no parameter {name!r} here")


Asking = Annotated[Caller, Depends(enter)]
"""The caller of the request, as a parameter of a route."""
