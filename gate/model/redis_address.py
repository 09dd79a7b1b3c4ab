"""The address of a Redis, taken apart: one server, a cluster, or a primary that Sentinels name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode

from gate.model.errors import CannotStart

OF_SENTINEL = frozenset({"sentinel_username", "sentinel_password"})
"""Options that only an address with Sentinels has."""
PORTS = {"cluster": 6379, "sentinel": 26379}
"""Ports of the hosts that name none."""
_SCHEME = re.compile(r"(rediss?)\+(cluster|sentinel)")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@\s,/]+)(?::(?P<port>\d{1,5}))?")


class Topology(StrEnum):
    """How many servers are behind an address, and who says which of them takes writes."""

    SINGLE = "single"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """An address with several hosts.

    Attributes:
        topology: `CLUSTER` or `SENTINEL`.
        scheme: `redis`, or `rediss` for TLS.
        userinfo: User and password as they are in the address, with the @ behind them; empty for none.
        hosts: Name and port of each host.
        name: Name of the primary at the Sentinels; empty in a cluster.
        options: The other options of the address.
        sentinel_login: User and password at the Sentinels; None for each that is not needed.
    """

    topology: Topology
    scheme: str
    userinfo: str
    hosts: tuple[tuple[str, int], ...]
    name: str
    options: tuple[tuple[str, str], ...]
    sentinel_login: tuple[str | None, str | None]

    def of_server(self, host: str, port: int) -> str:
        """Return the address of one server, to which the same user, password and options belong."""
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.userinfo}{shown}:{port}/?{urlencode(self.options)}".rstrip("?")


def several(text: str, refusal: str) -> RedisAddress | None:
    """Take an address of several hosts apart; None when it is of one server.

    Args:
        text: The address.
        refusal: What is said of an address that cannot be read.

    Raises:
        CannotStart: It cannot be read, or it names what gate does not support.
    """
    scheme, _, rest = text.strip().partition("://")
    found = _SCHEME.fullmatch(scheme)
    if found is None:
        return None
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    userinfo, at, named = authority.rpartition("@")
    hosts = [_HOST.fullmatch(host) for host in named.split(",")]
    if "@" in userinfo + path or "#" in rest or not all(hosts):
        raise CannotStart(refusal)
    topology, options = Topology(found[2]), dict(parse_qsl(query, keep_blank_values=True))
    login = (options.pop("sentinel_username", None), options.pop("sentinel_password", None))
    if topology is Topology.CLUSTER:
        if path not in ("", "0") or options.get("db", "0") != "0" or login != (None, None):
            raise CannotStart(
                "a Redis Cluster has the database 0 alone, and no Sentinels: write redis+cluster://HOST:PORT,HOST:PORT"
            )
    elif not path or "/" in path:
        raise CannotStart("GATE_REDIS_URL names no primary: write redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    port = PORTS[topology]
    return RedisAddress(
        topology,
        found[1],
        userinfo + at,
        tuple([(host["name"].strip("[]"), int(host["port"] or port)) for host in hosts if host is not None]),
        unquote(path) if topology is Topology.SENTINEL else "",
        tuple(options.items()),
        login,
    )
