"""Connections to Redis that are pinned to one identity of the server, and the checks before gate trusts a Redis.

An epoch key survives a failover to a replica that lagged, and the restore of an old snapshot. The data of such a Redis looks
sound, but it is out of date. The run id and the replication id of Redis do not survive either event, so both together are its
identity. gate reads the identity on each new connection. Scripts run only on connections to the identity whose pools this
server has adopted or loaded.

`RedisConnection` is of one primary: the only one, the one that Sentinels name, or one of a cluster (`gate.slots.cluster`). What is
asked about a pool goes to `of(pool)`, the primary that has its keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gate.model import redis_address, redis_identity, store_url
from gate.model.errors import CannotStart, StoreDown
from gate.slots.pipeline import CommandPipeline
from gate.slots.sentinels import Sentinels

REPLY_TIMEOUT_S = 5.0
"""Time (s) to wait for a connection or a reply, after which the Redis counts as down."""
MAX_CONNECTIONS = 64
"""Connections of `client` at most. Without a free one, a caller waits REPLY_TIMEOUT_S for it (BlockingConnectionPool)."""

NOT_PINNED = "?"
"""Identity that no Redis has."""

REFUSALS = ("MISCONF", "READONLY", "You can't write against a read only", "NOREPLICAS", "Not enough good replicas")
"""Beginnings of the errors of a Redis that answers, and takes no writes. redis-py strips some of the codes."""


class AnotherRedis(RedisError):
    """The Redis on a new connection has another identity than the one that this server is pinned to."""


class RedisConnection:
    """All connections of this process to one primary.

    Attributes:
        identity: Identity of the Redis that `pipe` and `client` are pinned to, without its epoch in a cluster; NOT_PINNED before the
            first `pin`.
        client: For rare commands.
        pipe: For frequent commands, mainly scripts.
        listener: For subscriptions. It waits for a reply without a timeout.
        address: The address without its password.
        away: In a cluster, the primaries that did not answer when they were asked last, with the error.
        counts_servers: Whether the reply of PUBLISH counts the servers that listen. In a cluster it counts those of one node.
    """

    counts_servers = True

    def __init__(self, url: str) -> None:
        """Prepare connections; none is opened yet.

        Args:
            url: Address of Redis, with its password if it needs one.

        Raises:
            CannotStart: `url` is no address of Redis.
        """
        self._url = store_url.redis_url(url)
        self._sentinels: Sentinels | None = None
        if (address := redis_address.several(self._url, store_url.OF_REDIS)) is not None:
            self._url, self._sentinels = address.of_server("sentinel", 0), Sentinels(address)
        self.address = store_url.shown(url)
        self.identity = NOT_PINNED
        self.away: dict[str, str] = {}
        self.client = self._connect()
        self.pipe = self._pipe()
        self.listener = self._connect(without_timeout=True)
        self._former: list[redis.Redis] = []
        self._meeting: asyncio.Task[str] | None = None

    @property
    def has_password(self) -> bool:
        """Whether the address has a password, before the host or as an option."""
        return self.client.connection_pool.connection_kwargs.get("password") is not None

    @property
    def primaries(self) -> Sequence[RedisConnection]:
        """All primaries."""
        return (self,)

    @property
    def has_sentinels(self) -> bool:
        """Whether Sentinels say where the primary is."""
        return self._sentinels is not None

    async def lacks_quorum(self) -> str | None:
        """Say why the Sentinels cannot agree on a failover; None when they can, or when there are none."""
        return None if self._sentinels is None else await self._sentinels.quorum()

    def of(self, pool: str) -> RedisConnection:
        """Return the connection to the primary that has a pool."""
        return self

    async def look(self) -> None:
        """Find out which primary has which pools. There is nothing to find out about a single one."""

    async def settle(self, pool: str, asked: RedisConnection, error: RedisError | OSError, since: float) -> None:
        """Return when a command about a pool can be sent again after an error.

        Args:
            pool: Name of the pool.
            asked: The primary that was asked.
            error: The error.
            since: When the command was sent first, by `time.monotonic()` (s).

        Raises:
            AnotherRedis: Another primary has the pool now.
            RedisError: It is of no use to send the command again. It is `error`.
            OSError: Likewise.
        """
        raise error

    async def ask_all(self, pools: Sequence[str], commands: Sequence[Sequence[bytes | str | int | float]]) -> list[Any]:
        """Send as many commands about each pool as about the others, in one round trip to each primary.

        Args:
            pools: Names of the pools.
            commands: The commands, those of the first pool first.

        Returns:
            The replies in order. A command that was refused has its error there.

        Raises:
            RedisError: No primary answered.
        """
        return await self.pipe.ask_all(commands)

    async def adopt(self) -> None:
        """Pin to the Redis that answers now.

        Raises:
            StoreDown: Redis does not answer, or it is a replica.
        """
        self.pin(await self.meet())

    @property
    def speaker(self) -> RedisConnection:
        """The connection whose `listener` hears what all servers publish."""
        return self

    def note(self, primary: RedisConnection, error: str | None) -> None:
        """Note whether a primary answers. The health of the store says it of a single one."""

    def listen_elsewhere(self) -> None:
        """Use another node for subscriptions, if there is one, because the present one fails."""

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
                in_cluster = mode(facts) == "cluster"
                client: Any = unpinned  # redis-py has no type for this command
                own = await client.execute_command("CLUSTER", "INFO") if in_cluster else {}
        if facts.get("role") != "master":  # guard: no-replica
            raise StoreDown("redis", "the Redis that answers is a replica: nothing can be written there")
        return _identity(facts) + (f"@{_facts(own)['cluster_my_epoch']}" if in_cluster else "")

    def pin(self, identity: str) -> None:
        """Use only the Redis with this identity from now on.

        A call in flight to the former Redis ends on its old connection, or raises AnotherRedis.

        Args:
            identity: What `meet` returned.
        """
        if (identity := redis_identity.life(identity)) == self.identity:
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
        if self._sentinels is not None:
            await self._sentinels.aclose()

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
        if self._sentinels is not None:
            self._sentinels.guide(pool)
        return redis.Redis.from_pool(pool)


def _facts(reply: Any) -> dict[str, str]:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _identity(facts: dict[str, Any]) -> str:
    return f"{facts.get('run_id', '')}:{facts.get('master_replid', '')}"


def mode(facts: dict[str, Any]) -> str:
    """Return `standalone`, `cluster` or `sentinel`, by the section `server` of INFO. Valkey and Redis name the field differently."""
    return str(facts.get("server_mode") or facts.get("redis_mode") or "standalone")


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
    if isinstance(error, (AskError, TryAgainError, ClusterDownError)):  # MOVED is an AskError
        return StoreDown("redis", f"the Redis Cluster does not serve this pool now: {error}")
    return StoreDown("redis", f"Redis does not answer: {error}")
