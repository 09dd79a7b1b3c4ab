"""A primary and its replica behind one address, as a failover service keeps them."""

from __future__ import annotations

import asyncio

from tests.proof.chaos.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.wait import until


class Pair:
    """`front` is the address that all servers use. The replica follows the primary through `leash`, which can hold it back."""

    def __init__(self, primary: RedisServer) -> None:
        self.primary, self.replica = primary, primary
        self.front, self.leash = Proxy(primary.port), Proxy(primary.port)

    async def follow(self, replica: RedisServer) -> None:
        """Returns when it has all that the primary has."""
        self.replica = replica
        await asyncio.to_thread(replica.cli, "replicaof", "127.0.0.1", str(self.leash.port))

        async def has_all() -> bool:
            return "master_link_status:up" in await asyncio.to_thread(replica.cli, "info", "replication")

        await until(has_all, "the replica has all the primary has", 20)

    async def fail_over(self) -> RedisServer:
        """The primary is gone, the replica is promoted with what it has; it is the primary now."""
        await asyncio.to_thread(self.primary.kill)
        await asyncio.to_thread(self.replica.cli, "replicaof", "no", "one")
        self.leash.switch(self.replica.port)
        self.leash.let_flow()
        self.front.switch(self.replica.port)
        self.primary = self.replica
        return self.primary
