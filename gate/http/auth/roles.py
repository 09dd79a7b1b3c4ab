"""Roles of the routes: one table, and the check that runs before every route.

A key comes in `Authorization: Bearer KEY`, or in `apikey` as supabase-js sends it. The panel and the HTTP reference also
accept the session that a key has opened (`gate.http.auth.session`). No other route accepts a session.

While no key exists, a caller on this machine is an admin, and every other caller is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.types import Scope

from gate.http.auth.key_cache import KeyCache
from gate.model.errors import Forbidden, Invalid, Unauthorized


class _Text(PathConvertor):
    """Match any text, with slashes and line breaks. The route then names the wrong value, where no match would be a 404."""

    regex = "(?s:.*)"


register_url_convertor("text", _Text())

SHOWN_MAX_BYTES = 256
"""Length of both key headers (bytes) up to which the parsed result is cached. No key of gate is longer."""
ANYONE = frozenset({"tool", "admin", "read", ""})
ANY_KEY = frozenset({"tool", "admin", "read"})
TOOL = frozenset({"tool", "admin"})
ADMIN = frozenset({"admin"})
LOOK = frozenset({"admin", "read"})
"""Roles that may use the panel and the other operators' pages. A tool's key must never be in a browser."""

TABLE: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/pools/{pool}/acquire"): TOOL,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}"): ANY_KEY,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}/events"): ANY_KEY,
    ("GET", "/v1/pools/{pool}/jobs/{job_id}/history"): ANY_KEY,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/claim"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/renew"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/release"): TOOL,
    ("POST", "/v1/pools/{pool}/jobs/{job_id}/cancel"): TOOL,
    ("PUT", "/v1/pools/{pool}/jobs/{job_id}/task"): TOOL,
    ("POST", "/v1/pools/{pool}/cancel"): TOOL,
    ("GET", "/v1/pools"): ANY_KEY,
    ("GET", "/v1/pools/{pool}"): ANY_KEY,
    ("PUT", "/v1/pools/{pool}"): ADMIN,
    ("POST", "/v1/pools/{pool}/pause"): ADMIN,
    ("POST", "/v1/pools/{pool}/resume"): ADMIN,
    ("GET", "/v1/users/{user:text}/active"): ANY_KEY,
    ("GET", "/v1/ledger"): ANY_KEY,
    ("GET", "/v1/ledger/balances/{user:text}"): ANY_KEY,
    ("POST", "/functions/v1/runninghub-queue-manager/{path:text}"): TOOL,
    ("OPTIONS", "/functions/v1/runninghub-queue-manager/{path:text}"): ANYONE,
    ("POST", "/functions/v1/runninghub-queue-manager"): TOOL,
    ("OPTIONS", "/functions/v1/runninghub-queue-manager"): ANYONE,
    ("POST", "/rest/v1/rpc/{name}"): TOOL,
    ("POST", "/rest/v1/rpc/cleanup_all_stale_ai_jobs"): TOOL,
    ("POST", "/rest/v1/rpc/user_cancel_ai_job"): TOOL,
    ("OPTIONS", "/rest/v1/rpc/{name}"): ANYONE,
    ("POST", "/v1/webhooks/{provider}/{pool}"): ANYONE,
    ("POST", "/functions/v1/runninghub-webhook"): ANYONE,
    ("GET", "/v1/callbacks/unread"): LOOK,
    ("POST", "/v1/callbacks/unread/{callback_id}/apply"): ADMIN,
    ("POST", "/v1/callbacks/unread/{callback_id}/dismiss"): ADMIN,
    ("GET", "/docs"): ANY_KEY,
    ("GET", "/openapi.json"): ANY_KEY,
    ("GET", "/metrics"): ANY_KEY,
    ("GET", "/"): LOOK,
    ("GET", "/live"): LOOK,
    ("GET", "/find"): LOOK,
    ("GET", "/users/{user:text}"): LOOK,
    ("GET", "/pools/{pool}"): LOOK,
    ("GET", "/pools/{pool}/live"): LOOK,
    ("GET", "/pools/{pool}/trends"): LOOK,
    ("GET", "/pools/{pool}/do/{verb}"): ADMIN,
    ("POST", "/pools/{pool}/do/{verb}"): ADMIN,
    ("GET", "/pools/{pool}/callbacks/{callback_id}/do/apply"): ADMIN,
    ("POST", "/pools/{pool}/callbacks/{callback_id}/do/apply"): ADMIN,
    ("GET", "/pools/{pool}/jobs/{job_id}"): LOOK,
    ("GET", "/pools/{pool}/jobs/{job_id}/live"): LOOK,
    ("GET", "/pools/{pool}/jobs/{job_id}/do/{verb}"): ADMIN,
    ("POST", "/pools/{pool}/jobs/{job_id}/do/{verb}"): ADMIN,
    ("GET", "/session"): ANYONE,
    ("POST", "/session"): ANYONE,
    ("POST", "/session/end"): ANYONE,
    ("GET", "/static/{version}/{name}"): ANYONE,
    ("GET", "/healthz"): ANYONE,
    ("GET", "/readyz"): ANYONE,
    ("HEAD", "/healthz"): ANYONE,
    ("HEAD", "/readyz"): ANYONE,
}
"""Roles that may call each route, by method and path. A route that is missing here fails on its first request."""


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
    return caller(request.scope, headers, request.scope["route"].path, request.app.state.keyring)


def caller(scope: Scope, headers: Mapping[bytes, bytes], path: str, ring: KeyCache) -> Caller:
    """Check that the caller may use a route, and note the caller's name in the scope for the access log.

    Args:
        scope: The request's ASGI scope.
        headers: Its headers, with lower-case names.
        path: Path of the route as `TABLE` has it.
        ring: The keys that are valid.

    Returns:
        The caller.

    Raises:
        Unauthorized: The route needs a key, and the request shows no valid one.
        Forbidden: The role of the key may not use the route. While no key exists: the request comes from a page of another
            origin, or asks for another host than this machine.
    """
    may = TABLE[scope["method"], path]
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
        raise Unauthorized("show a living key: Authorization: Bearer KEY, or apikey: KEY")
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
