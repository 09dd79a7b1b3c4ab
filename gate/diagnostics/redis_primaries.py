"""Clients for the primaries of a Redis of any kind, found by redis-py alone. No code of the server is used for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from gate.model import redis_address, store_url
from gate.model.redis_address import RedisAddress, Topology

_redis: Any = redis
"""redis-py has no types for what it knows of clusters and Sentinels."""
Primary = tuple[redis.Redis, Callable[[str], bool]]
"""A client, and whether the primary has a key."""


@contextlib.contextmanager
def opened(url: str, answer_s: float) -> Iterator[list[Primary]]:
    """Connect to each primary.

    Args:
        url: Address of Redis.
        answer_s: Longest wait (s) for an answer.

    Yields:
        The primaries.

    Raises:
        RedisError: Redis does not answer, or no Sentinel names its primary.
    """
    limits: dict[str, Any] = {"socket_timeout": answer_s, "socket_connect_timeout": answer_s, "decode_responses": True}
    address = redis_address.several(url, store_url.OF_REDIS)
    with _as_redis_error(), contextlib.ExitStack() as closing:
        if address is None:
            client = redis.Redis.from_url(url, single_connection_client=True, **limits)
            closing.callback(client.close)
            facts = client.info("server")
            if "cluster" not in (facts.get("server_mode"), facts.get("redis_mode")):  # of Valkey, and of Redis
                yield [(client, lambda key: True)]
                return
            parts = _redis.connection.parse_url(url)
            yield _of_cluster([(parts["host"], parts.get("port", 6379))], url, limits, closing)
        elif address.topology is Topology.CLUSTER:
            yield _of_cluster(list(address.hosts), address.of_server(*address.hosts[0]), limits, closing)
        else:
            yield [(_of_sentinels(address, limits, closing), lambda key: True)]


def described(url: str, answer_s: float) -> str | None:
    """Say what kind of Redis this is and who takes writes there; None for a single one, or when it does not answer.

    Args:
        url: Address of Redis.
        answer_s: Longest wait (s) for an answer.
    """
    address = redis_address.several(url, store_url.OF_REDIS)
    try:
        with opened(url, answer_s) as primaries:
            if address is not None and address.topology is Topology.SENTINEL:
                primaries[0][0].ping()
                return f"Redis: the primary is {_place(primaries[0][0])}, as the Sentinels say"
            places = ", ".join(sorted(_place(client) for client, _ in primaries))
    except (redis.RedisError, OSError):
        return None
    return f"Redis: a cluster; the primaries are {places}" if address is not None or len(primaries) > 1 else None


def _place(client: redis.Redis) -> str:
    pool: Any = client.connection_pool
    host, port = getattr(pool, "master_address", None) or (pool.connection_kwargs["host"], pool.connection_kwargs["port"])
    return f"{host}:{port}"


@contextlib.contextmanager
def _as_redis_error() -> Iterator[None]:
    """Turn an error of redis-py about a cluster as a whole, which is no RedisError, into one."""
    try:
        yield
    except RedisClusterException as error:
        raise redis.RedisError(str(error)) from error


def _of_cluster(
    hosts: list[tuple[str, int]], url: str, limits: dict[str, Any], closing: contextlib.ExitStack
) -> list[Primary]:
    nodes = [_redis.cluster.ClusterNode(host, port) for host, port in hosts]
    cluster = _redis.RedisCluster.from_url(url, startup_nodes=nodes, require_full_coverage=False, **limits)
    closing.callback(cluster.close)

    def at(node: Any) -> Primary:
        return cluster.get_redis_connection(node), lambda key: cluster.get_node_from_key(key) == node

    return [at(node) for node in cluster.get_primaries()]


def _of_sentinels(address: RedisAddress, limits: dict[str, Any], closing: contextlib.ExitStack) -> redis.Redis:
    user, password = address.sentinel_login
    options = _redis.connection.parse_url(address.of_server("primary", 0))
    tls: dict[str, Any] = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if address.scheme == "rediss":
        tls, options = tls | {"ssl": True}, options | {"ssl": True}
    named = _redis.sentinel.Sentinel(
        list(address.hosts), sentinel_kwargs=limits | tls | {"username": user, "password": password}
    )
    for one in ("host", "port", "connection_class"):
        options.pop(one, None)
    client: redis.Redis = named.master_for(address.name, **options, **limits)
    closing.callback(client.close)
    for sentinel in named.sentinels:
        closing.callback(sentinel.close)
    return client
