"""The way to Redis: connections that lead to one life of it, and what has to be true of it before gate trusts it.

An epoch key survives a failover to a replica that lagged, or an old snapshot put back: what such a Redis holds looks sound and
is of the past. Its run id and its replication id do not survive. So they are read on each new connection, and scripts run only
on connections to the life whose pools this server has taken or loaded.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
)

from gate.model.errors import CannotStart, StoreDown
from gate.slots.pipeline import CommandPipeline

REPLY_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 64
"""A caller waits for a free one (BlockingConnectionPool) and is never refused for the lack of it."""


class AnotherRedis(RedisError):
    """What answers on a new connection is not the life of Redis that this server works on."""


class RedisConnection:
    """`pipe` is for what is asked often, scripts above all; `client` for the rest. `listener` may wait for ever for a reply, as a
    subscription does. `identity` is the life of Redis that `pipe` and `client` are pinned to ('' before the first). Raises
    CannotStart when `url` is no address.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.identity = ""
        self.client = self._connect()
        self.pipe = self._pipe()
        self.listener = self._connect(patient=True)
        self._former: list[redis.Redis] = []

    async def meet(self) -> str:
        """The identity of who answers now, on a connection of its own. Raises StoreDown; of a replica too."""
        async with self._connect() as visitor:
            with answering():
                facts = await visitor.info("server", "replication")
        if facts.get("role") != "master":  # guard: no-replica
            raise StoreDown("redis", "the Redis that answers is a replica: nothing can be written there")
        return _identity(facts)

    def pin(self, identity: str) -> None:
        """From now on only that life is used. A call under way on the former one ends there, or meets AnotherRedis."""
        if identity == self.identity:
            return
        self.identity = identity
        self._former += [self.client, self.listener]  # calls under way end by themselves
        self.pipe.part()
        self.client, self.listener = self._connect(only=identity), self._connect(patient=True)
        self.pipe = self._pipe()

    async def part(self) -> None:
        """Drops the idle connections: each new one is looked at."""
        self.pipe.part()
        await self.client.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        self.pipe.part()
        for client in (*self._former, self.client, self.listener):
            await client.aclose()

    def _pipe(self) -> CommandPipeline:
        """On a connection of its own, made and looked at as those of `client` are."""
        return CommandPipeline(self.client.connection_pool.make_connection, REPLY_TIMEOUT_S)

    def _connect(self, *, only: str = "", patient: bool = False) -> redis.Redis:
        """A client that tries once more when a connection turns out to be dead, and no oftener: the library's own ten tries
        would run a script again and again. Once is safe, each script being idempotent by (job_id, lease_id).
        """

        async def look(connection: Any) -> None:
            try:
                await connection.on_connect()
                await connection.send_command("INFO", "server", "replication")
                found = _identity(_facts(await connection.read_response()))
            except (AttributeError, RuntimeError) as error:  # the peer went away within the handshake, and so did the writer
                raise ConnectionError(f"the connection was closed: {error}") from error
            if found != only:  # guard: only-the-known-redis
                raise AnotherRedis("another life of Redis answers than before; its pools are being loaded")

        options: dict[str, Any] = {"redis_connect_func": look} if only else {}
        try:
            pool = redis.BlockingConnectionPool.from_url(
                self._url,
                max_connections=MAX_CONNECTIONS,
                timeout=REPLY_TIMEOUT_S,
                socket_timeout=None if patient else REPLY_TIMEOUT_S,
                socket_connect_timeout=REPLY_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
                **options,
            )
        except ValueError as error:
            raise CannotStart(f"GATE_REDIS_URL is no Redis address: {error}") from error
        return redis.Redis.from_pool(pool)


def _facts(reply: Any) -> dict[str, str]:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _identity(facts: dict[str, Any]) -> str:
    return f"{facts.get('run_id', '')}:{facts.get('master_replid', '')}"


class answering:
    """Turns what the library raises into `StoreDown`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OutOfMemoryError):
            raise StoreDown("redis", "Redis has no room for more (maxmemory): new work waits until it has") from error
        if isinstance(error, (RedisError, OSError)):
            raise StoreDown("redis", f"Redis does not answer: {error}") from error


def without_password(url: str) -> str:
    """The address as it may be printed."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


async def trust(link: RedisConnection, url: str) -> str:
    """What answers there, such as `Valkey 9.1.2`.

    Raises CannotStart in one line when nothing answers, the password is wrong, it is older than 7.0 or it may evict
    gate's keys.
    """
    shown = without_password(url)
    try:
        info = await link.client.info()
    except AuthenticationError as error:
        if urlsplit(url).password is None:
            raise CannotStart(f"Redis at {shown} wants a password, and GATE_REDIS_URL has none") from error
        raise CannotStart(f"Redis at {shown} refuses the password: {error}") from error
    except NoPermissionError as error:
        raise CannotStart(f"Redis at {shown} does not let this user run INFO: {error}") from error
    except (ConnectionError, TimeoutError, OSError) as error:
        raise CannotStart(f"no Redis answers at {shown}: {error}") from error
    except RedisError as error:
        raise CannotStart(f"Redis at {shown} cannot be used: {error}") from error
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < 7:
        raise CannotStart(f"Redis at {shown} is {version}; gate needs 7.0 or newer, or Valkey")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        raise CannotStart(f"Redis at {shown} may evict gate's keys: set maxmemory-policy to noeviction, not {policy}")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {version}"
