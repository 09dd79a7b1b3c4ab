"""Connections to Redis that are pinned to one identity of the server, and the checks before gate trusts a Redis.

An epoch key survives a failover to a replica that lagged, and the restore of an old snapshot. The data of such a Redis looks
sound, but it is out of date. The run id and the replication id of Redis do not survive either event, so both together are its
identity. gate reads the identity on each new connection. Scripts run only on connections to the identity whose pools this
server has adopted or loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from gate.model import store_url
from gate.model.errors import CannotStart, StoreDown
from gate.slots.pipeline import CommandPipeline

REPLY_TIMEOUT_S = 5.0
"""Time (s) to wait for a connection or a reply, after which the Redis counts as down."""
MAX_CONNECTIONS = 64
"""Connections of `client` at most. Without a free one, a caller waits REPLY_TIMEOUT_S for it (BlockingConnectionPool)."""


REFUSALS = ("MISCONF", "READONLY", "You can't write against a read only", "NOREPLICAS", "Not enough good replicas")
"""Beginnings of the errors of a Redis that answers, and takes no writes. redis-py strips some of the codes."""


class AnotherRedis(RedisError):
    """The Redis on a new connection has another identity than the one that this server is pinned to."""


class RedisConnection:
    """All connections of this process to Redis.

    Attributes:
        identity: Identity of the Redis that `pipe` and `client` are pinned to; empty before the first `pin`.
        client: For rare commands.
        pipe: For frequent commands, mainly scripts.
        listener: For subscriptions. It waits for a reply without a timeout.
    """

    def __init__(self, url: str) -> None:
        """Prepare connections; none is opened yet.

        Args:
            url: Address of Redis, with its password if it needs one.

        Raises:
            CannotStart: `url` is no address of Redis.
        """
        self._url = store_url.redis_url(url)
        self.identity = ""
        self.client = self._connect()
        self.pipe = self._pipe()
        self.listener = self._connect(without_timeout=True)
        self._former: list[redis.Redis] = []
        self._meeting: asyncio.Task[str] | None = None

    @property
    def has_password(self) -> bool:
        """Whether the address has a password, before the host or as an option."""
        return self.client.connection_pool.connection_kwargs.get("password") is not None

    async def meet(self) -> str:
        """Read the identity of the Redis that answers now, on a connection of its own.

        Calls at the same time share one connection: a start with many pools would open as many. An identity that is a moment old does
        no harm, because every further connection is checked against it.

        Raises:
            StoreDown: Redis does not answer, or it is a replica.
        """
        if self._meeting is None:
            self._meeting = asyncio.create_task(self._meet())
            self._meeting.add_done_callback(self._met)
        return await asyncio.shield(self._meeting)

    def _met(self, meeting: asyncio.Task[str]) -> None:
        self._meeting = None
        if not meeting.cancelled():
            meeting.exception()  # marks it as read: asyncio would log an error that no caller waits for any more

    async def _meet(self) -> str:
        async with self._connect() as unpinned:
            with answering():
                facts = await unpinned.info("server", "replication")
        if facts.get("role") != "master":  # guard: no-replica
            raise StoreDown("redis", "the Redis that answers is a replica: nothing can be written there")
        return _identity(facts)

    def pin(self, identity: str) -> None:
        """Use only the Redis with this identity from now on.

        A call in flight to the former Redis ends on its old connection, or raises AnotherRedis.

        Args:
            identity: What `meet` returned.
        """
        if identity == self.identity:
            return
        self.identity = identity
        self._former += [self.client, self.listener]  # closed at the end only: calls in flight still use them
        self.pipe.part()
        self.client, self.listener = self._connect(only=identity), self._connect(without_timeout=True)
        self.pipe = self._pipe()

    async def part(self) -> None:
        """Close the idle connections. Each new one has its identity checked."""
        self.pipe.part()
        await self.client.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Close all connections."""
        self.pipe.part()
        for client in (*self._former, self.client, self.listener):
            await client.aclose()

    def _pipe(self) -> CommandPipeline:
        """Make a pipeline on a connection of its own, which is made and checked like those of `client`."""
        return CommandPipeline(self.client.connection_pool.make_connection, REPLY_TIMEOUT_S)

    def _connect(self, *, only: str = "", without_timeout: bool = False) -> redis.Redis:
        """Make a client that tries a command once more when its connection is dead.

        One more try is safe, because each script is idempotent by (job_id, lease_id). The library's default of ten tries
        would run a script again and again.

        Args:
            only: Identity that each connection must have; empty to accept any.
            without_timeout: True to wait for replies for ever, as a subscription must.
        """

        async def check_identity(connection: Any) -> None:
            try:
                await connection.on_connect()
                await connection.send_command("INFO", "server", "replication")
                found = _identity(_facts(await connection.read_response()))
            except (AttributeError, RuntimeError) as error:  # the peer closed, and redis-py dropped its writer
                raise ConnectionError(f"the connection was closed: {error}") from error
            if found != only:  # guard: only-the-known-redis
                raise AnotherRedis("another life of Redis answers than before; its pools are being loaded")

        options: dict[str, Any] = {"redis_connect_func": check_identity} if only else {}
        try:
            pool = redis.BlockingConnectionPool.from_url(
                self._url,
                max_connections=MAX_CONNECTIONS,
                timeout=REPLY_TIMEOUT_S,
                socket_timeout=None if without_timeout else REPLY_TIMEOUT_S,
                socket_connect_timeout=REPLY_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
                **options,
            )
            pool.connection_class(**pool.connection_kwargs)  # an option that the library does not know is an error here
        except (ValueError, TypeError) as error:
            found = re.search(r"Invalid value for '(\w+)'|unexpected keyword argument '(\w+)'", str(error))
            option = f": look at its option {found[1] or found[2]}" if found is not None else ""
            raise CannotStart(f"GATE_REDIS_URL is no Redis address{option}") from error
        return redis.Redis.from_pool(pool)


def _facts(reply: Any) -> dict[str, str]:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _identity(facts: dict[str, Any]) -> str:
    return f"{facts.get('run_id', '')}:{facts.get('master_replid', '')}"


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turn the errors of redis-py into StoreDown."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise store_down(error) from error


def store_down(error: RedisError | OSError) -> StoreDown:
    """Return the StoreDown for an error of redis-py."""
    if isinstance(error, OutOfMemoryError):
        return StoreDown("redis", "Redis has no room for more (maxmemory): new work waits until it has", refuses=True)
    if isinstance(error, ResponseError) and str(error).startswith(REFUSALS):
        return StoreDown("redis", f"Redis takes no writes: {str(error).splitlines()[0]}", refuses=True)
    return StoreDown("redis", f"Redis does not answer: {error}")


async def trust(link: RedisConnection, url: str) -> str:
    """Check that gate can work with this Redis.

    Args:
        link: Connection to it.
        url: Its address, for the messages.

    Returns:
        Name and version of the server, such as `Valkey 9.1.2`.

    Raises:
        CannotStart: Redis does not answer or refuses the password or INFO. Or it is older than 7.0, or may evict gate's keys.
            The message is one line.
    """
    shown = store_url.shown(url)
    try:
        info = await link.client.info()
    except AuthenticationError as error:
        if not link.has_password:
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
