"""Addresses of the two stores: what gate accepts, and how an address is printed without its secrets.

A refusal never quotes a part of the address. When it is mistyped, any part of it may be a piece of the password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit

from gate.model import redis_address
from gate.model.errors import CannotStart

NAMED = frozenset({
    "application_name", "client_name", "db", "dbname", "host", "hostaddr", "port", "protocol", "sslmode", "target_session_attrs",
    "user", "username",
})  # fmt: skip
"""Options whose values are printed. The value of any other may be a secret."""
REDIS_OPTIONS = frozenset({
    "client_name", "db", "health_check_interval", "max_connections", "password", "path", "protocol", "retry_on_timeout",
    "socket_connect_timeout", "socket_keepalive", "socket_timeout", "timeout", "username",
})  # fmt: skip
"""Options of a Redis address, beside those of TLS, which begin with `ssl_`."""
ESCAPED = "in a password, write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25"
OF_SQL = f"GATE_DATABASE_URL is no database address: gate knows sqlite:///FILE and postgresql://USER:PASSWORD@HOST:PORT/NAME; {ESCAPED}"
OF_REDIS = (
    "GATE_REDIS_URL is no Redis address: gate knows redis://USER:PASSWORD@HOST:PORT/0, rediss:// and unix://FILE,"
    f" redis+cluster://HOST:PORT,HOST:PORT and redis+sentinel://HOST:PORT,HOST:PORT/NAME; {ESCAPED}"
)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@\s]*)(?::(?P<port>\d*))?")


def sql_url(text: str) -> str:
    """Return the address of a database in the form that SQLAlchemy reads.

    Args:
        text: The address. It may begin with `postgres://`, and name several hosts as libpq does: `a:5432,b:5432`.

    Raises:
        CannotStart: It is no address of SQLite or Postgres.
    """
    scheme, found, rest = text.strip().partition("://")
    kind = {"postgres": "postgresql"}.get(scheme.partition("+")[0], scheme.partition("+")[0])
    if not found or kind not in ("sqlite", "postgresql"):
        raise CannotStart(OF_SQL)
    if kind == "sqlite":
        if "?" in rest:
            raise CannotStart("GATE_DATABASE_URL is no database address: an address of SQLite has no options")
        return f"{kind}://{rest}"
    user, rest = _userinfo(rest)
    before, asks, query = rest.partition("?")
    hosts, slash, database = before.partition("/")
    if "@" in hosts + database or (not user and _may_be_a_password(query)):
        raise CannotStart(OF_SQL)
    several = [_host(host) for host in hosts.split(",")]
    if len(several) > 1 and ":" in re.sub(r"\[.*?\]", "", hosts):
        hosts = ""
        query = "&".join([*(f"host={quote(host, safe='[]:')}" for host in several), *filter(None, [query])])
    return f"{kind}://{user}{hosts}{slash or '/' * bool(query)}{database}{'?' * bool(asks or query)}{query}"


def replica_url(text: str) -> str:
    """Return the address of a replica of the ledger in the form that SQLAlchemy reads.

    Args:
        text: The address.

    Raises:
        CannotStart: It is no address of Postgres.
    """
    try:
        url = sql_url(text)
    except CannotStart as error:
        raise CannotStart(error.detail.replace("GATE_DATABASE_URL", "GATE_DATABASE_READ_URL")) from None
    if not url.startswith("postgresql:"):
        raise CannotStart("GATE_DATABASE_READ_URL names a replica on Postgres, and this is another address")
    return url


def primary_of_several(url: str) -> dict[str, str]:
    """Return the options by which libpq chooses, of several hosts, the one that takes writes.

    Without them it takes the first host that answers, and that may be a standby.

    Args:
        url: An address of Postgres, as `sql_url` returns it.

    Returns:
        No options for one host, and where the address itself says which host is wanted.
    """
    options = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    several = names_several(url) and "target_session_attrs" not in options
    return {"target_session_attrs": "read-write"} if several else {}


def names_several(url: str) -> bool:
    """Return whether an address of Postgres names several hosts, so that gate goes on at another one after a failover."""
    parts = urlsplit(url)
    hosts = [value for name, value in parse_qsl(parts.query, keep_blank_values=True) if name == "host"]
    return "," in ",".join(filter(None, [parts.netloc.rpartition("@")[2], *hosts]))


def _userinfo(rest: str) -> tuple[str, str]:
    """Split off user and password, with its @ behind it. The password comes back percent-encoded."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and ("@" not in rest or all(_HOST.fullmatch(host) for host in authority.split(","))):
        return "", rest
    user, colon, password = rest.partition("@")[0].partition(":")
    if re.search("[/?#]", user):
        raise CannotStart(OF_SQL)
    encoded = re.sub("[/?#:]", lambda one: quote(one[0], safe=""), password)
    return f"{user}{colon}{encoded}@", rest.partition("@")[2]


def _may_be_a_password(query: str) -> bool:
    """Return whether the query may be the end of a password with a question mark, in an address without an @ before it."""
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    return "@" in query and not names <= NAMED | {"password", "passfile", "sslpassword"}


def _host(text: str) -> str:
    found = _HOST.fullmatch(text)
    if found is None or (found["port"] and int(found["port"]) > 65_535):
        raise CannotStart(OF_SQL)
    return text


def redis_url(text: str) -> str:
    """Return the address of a Redis, checked.

    Raises:
        CannotStart: It is no address of Redis, or has an option that gate does not know.
    """
    if (address := redis_address.several(text, OF_REDIS)) is not None:
        _check_options(dict(address.options), address.scheme == "rediss")
        return text.strip()
    try:
        parts = urlsplit(text.strip())
        sound = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is no number, or a bracket is missing
        raise CannotStart(OF_REDIS) from None
    without_user = parts.netloc and "@" not in parts.netloc
    if not sound or parts.fragment or (without_user and ("@" in parts.path or _may_be_a_password(parts.query))):
        raise CannotStart(OF_REDIS)
    _check_options(dict(parse_qsl(parts.query, keep_blank_values=True)), parts.scheme == "rediss")
    return text.strip()


def _check_options(names: Iterable[str], of_tls: bool) -> None:
    for name in names:
        if name not in REDIS_OPTIONS and not (of_tls and name.startswith("ssl_")):
            raise CannotStart(unknown_option(name))


def unknown_option(name: str) -> str:
    """Return the refusal of an option of a Redis address."""
    shown_name = name if re.fullmatch(r"\w{1,40}", name) else "of an odd name"
    return f"GATE_REDIS_URL has an option that gate does not know: {shown_name}; gate knows {', '.join(sorted(REDIS_OPTIONS))}, and ssl_… with rediss://"


def shown(text: str, instead: str = "an address that cannot be read") -> str:
    """Return an address without its password, so that it may be printed. Options that may be secrets are hidden too.

    Args:
        text: The address.
        instead: Returned when the text is no address. It may be a password then.
    """
    try:
        parts = urlsplit(text)
        _ = (
            parts.scheme.startswith("redis") and "+" in parts.scheme
        ) or parts.port  # an address of several hosts has no port of its own
    except ValueError:
        return instead
    userinfo, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if not parts.scheme or "@" in user or (parts.netloc and "@" in parts.path):
        return instead
    user = "***" if at and not colon and parts.scheme.startswith("redis") else user  # a password without its colon
    query = "&".join(
        f"{name}={value if name in NAMED else '***'}" for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return f"{parts.scheme}://{user}{':***' if colon else ''}{at}{hosts}{parts.path}{'?' * bool(query)}{query}"
