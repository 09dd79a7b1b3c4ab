"""The Sentinels of a primary.

redis-py makes the connection to the primary. It takes the address from the first Sentinel that answers; one that was cut off from
the others would name a former primary for as long. So all Sentinels are asked, and the newest configuration counts.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from gate.model.redis_address import RedisAddress

ANSWER_S = 1.0
"""Longest wait (s) for the answer of a Sentinel. One that does not answer delays each new connection by as much."""


class Sentinels:
    """Names the primary to connections of redis-py, in place of redis-py's own pool of connections.

    Attributes:
        is_master: Connections are to the primary. redis-py reads it.
        check_connection: No PING comes with a new connection: its identity is read instead. redis-py reads it.
    """

    is_master = True
    check_connection = False

    def __init__(self, address: RedisAddress) -> None:
        """Prepare connections to the Sentinels; none is opened yet."""
        self._name, self._tls = address.name, address.scheme == "rediss"
        user, password = address.sentinel_login
        tls: dict[str, Any] = {name: value for name, value in address.options if name.startswith("ssl_")}
        self._clients = [
            redis.Redis(
                host=host, port=port, username=user, password=password, ssl=self._tls, socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0), **(tls if self._tls else {}),
            )
            for host, port in address.hosts
        ]  # fmt: skip

    def guide(self, pool: redis.ConnectionPool) -> None:
        """Let the connections of a pool go to the primary that the Sentinels name."""
        pool.connection_class = SentinelManagedSSLConnection if self._tls else SentinelManagedConnection
        pool.connection_kwargs["connection_pool"] = self

    async def get_master_address(self) -> tuple[str, int]:
        """Return host and port of the primary. redis-py calls it for each new connection.

        Raises:
            MasterNotFoundError: No Sentinel answers, or none knows the name.
        """
        states = [one for one in await self._ask("MASTER") if isinstance(one, dict)]
        if not states:
            raise MasterNotFoundError(f"no Sentinel names a primary {self._name!r}")
        newest = max(states, key=lambda state: int(state["config-epoch"]))
        return str(newest["ip"]), int(newest["port"])

    async def quorum(self) -> str | None:
        """Ask whether the Sentinels can agree on a failover. Return None when they can, else why not."""
        answers = await self._ask("CKQUORUM")
        if any(not isinstance(one, BaseException) for one in answers):
            return None
        refusals = [one for one in answers if isinstance(one, ResponseError)]
        return str((refusals or answers)[0]).splitlines()[0]

    async def _ask(self, verb: str) -> list[Any]:
        """Ask all Sentinels at once. An answer that did not come is its error."""
        clients: list[Any] = self._clients  # redis-py has no type for what comes back
        questions = (client.execute_command(f"SENTINEL {verb}", self._name) for client in clients)
        answers = await asyncio.gather(*questions, return_exceptions=True)
        for one in answers:
            if isinstance(one, BaseException) and not isinstance(one, (RedisError, OSError)):
                raise one
        return answers

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()
