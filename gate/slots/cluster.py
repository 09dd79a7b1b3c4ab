"""All connections of this process to a Redis Cluster: a `RedisConnection` to each primary, and which pools are where.

All keys of a pool have one hash tag, so one primary has them. Another primary gets them by a failover, or when slots are moved. Both
look the same from here, and after a failover keys may be missing. So a pool that is found at another primary is loaded from SQL.

A node answers MOVED when it does not have a slot any more. While a slot is moved, some keys of a pool are at the old node and some at the
new one. A script is refused then (ASK, TRYAGAIN), and so it is while the cluster has no quorum (CLUSTERDOWN). Nothing has run in
these cases, so the call waits and is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterDownError, RedisError, TryAgainError

from gate.model import redis_address, store_url
from gate.model.errors import CannotStart, StoreDown
from gate.slots import cluster_map
from gate.slots.cluster_map import Address, View, slot_of
from gate.slots.connection import AnotherRedis, RedisConnection

log = structlog.get_logger("gate.cluster")

ANSWER_S = 1.0
"""Longest wait (s) for the view of a node. A node that stands still delays each look by as much."""
FRESH_S = 0.05
"""Age (s) up to which the result of a look counts as that of now."""
MOVING_S = 4.0
"""Longest wait (s) of a call for a slot that is being moved. The scripts would take 5 s for a step of the clock (STEP_MS)."""
AGAIN_S = 0.02
"""Pause (s) before a call is made again."""


class ClusterConnection(RedisConnection):
    """Connections to the primaries of a cluster."""

    counts_servers = False

    def __init__(self, url: str) -> None:
        """Prepare connections; none is opened before `look`.

        Args:
            url: Address with some nodes of the cluster.

        Raises:
            CannotStart: `url` is no address of a cluster.
        """
        address = redis_address.several(url, store_url.OF_REDIS)
        if address is None or address.topology is not redis_address.Topology.CLUSTER:
            raise CannotStart(store_url.OF_REDIS)
        self._address = address
        self._hosts: frozenset[Address] = frozenset(address.hosts)
        self._askers: dict[Address, Any] = {}  # redis-py has no type for their commands
        self._nodes: dict[Address, RedisConnection] = {}
        self._owners: list[RedisConnection | None] = []
        self._primaries: tuple[RedisConnection, ...] = ()
        self._speaker: RedisConnection | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        super().__init__(address.of_server(*address.hosts[0]))
        self.address = store_url.shown(url)

    @property
    def primaries(self) -> Sequence[RedisConnection]:
        """All primaries that have slots."""
        return self._primaries

    def of(self, pool: str) -> RedisConnection:
        """Return the connection to the primary that has a pool.

        Raises:
            StoreDown: No primary has its slot.
        """
        found = self._owners[slot_of(pool)] if self._owners else None
        if found is None:
            raise StoreDown("redis", f"no primary of the cluster has slot {slot_of(pool)}, where pool {pool!r} is")
        return found

    async def look(self) -> None:
        """Ask all nodes which primary has which slots. Calls at the same time share one look.

        If no node answers, what was known before stays.
        """
        if time.monotonic() - self._looked_at < FRESH_S:
            return
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._has_looked)
        await asyncio.shield(self._looking)

    def _has_looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        self._looked_at = time.monotonic()
        if not looking.cancelled():
            looking.exception()  # marks it as read: asyncio would log an error that no caller waits for any more

    async def _look(self) -> None:
        asked = list(self._hosts.union(self._address.hosts))
        answers = await asyncio.gather(*(self._view(one) for one in asked), return_exceptions=True)
        views = [one for one in answers if isinstance(one, View)]
        for one in answers:
            if isinstance(one, BaseException) and not isinstance(one, (RedisError, OSError)):
                raise one
        if not views:
            return
        self._hosts = frozenset().union(*(one.nodes for one in views))
        owners = cluster_map.owners(views)
        for address in {one for one in owners if one is not None}.difference(self._nodes):
            self._nodes[address] = RedisConnection(self._address.of_server(*address))
        self._owners = [None if one is None else self._nodes[one] for one in owners]
        primaries = tuple({one.address: one for one in self._owners if one is not None}.values())
        if primaries != self._primaries:
            log.info("cluster.primaries", primaries=sorted(one.address for one in primaries))
        self._primaries = primaries
        if self._speaker not in primaries:
            self._speaker = primaries[0] if primaries else None

    async def _view(self, address: Address) -> View:
        """Ask one node, on a connection of its own that carries nothing else."""
        if (asker := self._askers.get(address)) is None:
            asker = self._askers[address] = redis.Redis.from_url(
                self._address.of_server(*address), max_connections=1, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S,
                retry=Retry(NoBackoff(), 1),
            )  # fmt: skip
            asker.response_callbacks.clear()  # the replies as they are
        nodes = await asker.execute_command("CLUSTER NODES")
        slots = await asker.execute_command("CLUSTER SLOTS")
        return cluster_map.view(address, nodes.decode(), slots)

    async def first_look(self) -> None:
        """Look for the first time.

        Raises:
            CannotStart: No node answers, or the one that answers is in no cluster.
        """
        await self.look()
        if self._primaries:
            return
        try:
            await self._view(self._address.hosts[0])
        except (RedisError, OSError) as error:
            why = str(error).splitlines()[0]
            raise CannotStart(f"no node of a Redis Cluster answers at {self.address}: {why}") from error
        raise CannotStart(f"the Redis Cluster at {self.address} has no primary with slots yet")

    async def settle(self, pool: str, asked: RedisConnection, error: RedisError | OSError, since: float) -> None:
        """Return when a command about a pool can be sent again after an error. See `RedisConnection.settle`."""
        await self.look()
        if self.of(pool) is not asked:
            raise AnotherRedis("another primary of the cluster has the pool; it is being loaded")
        waits = isinstance(error, (AskError, TryAgainError, ClusterDownError))  # MOVED is an AskError
        if not waits or time.monotonic() > since + MOVING_S:
            raise error
        await asyncio.sleep(AGAIN_S)

    async def ask_all(self, pools: Sequence[str], commands: Sequence[Sequence[bytes | str | int | float]]) -> list[Any]:
        """Send commands about many pools, in one round trip to each primary. See `RedisConnection.ask_all`.

        A primary that does not answer has its error in the place of each of its replies.
        """
        each = len(commands) // len(pools) if pools else 0
        places: dict[RedisConnection, list[int]] = {}
        replies: list[Any] = [ClusterDownError("no primary has the slot")] * len(commands)
        for index, pool in enumerate(pools):
            with contextlib.suppress(StoreDown):
                places.setdefault(self.of(pool), []).extend(range(index * each, (index + 1) * each))
        asked = [link.pipe.ask_all([commands[one] for one in own]) for link, own in places.items()]
        found = await asyncio.gather(*asked, return_exceptions=True)
        for own, answer in zip(places.values(), found, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, (RedisError, OSError)):
                raise answer
            for index, place in enumerate(own):
                replies[place] = answer if isinstance(answer, BaseException) else answer[index]
        failed = [one for one in found if isinstance(one, BaseException)]
        if found and len(failed) == len(found):
            raise failed[0]
        return replies

    async def adopt(self) -> None:
        """Pin each primary to the Redis that answers there. Those that do not answer are pinned when a pool is loaded there.

        Raises:
            StoreDown: No primary answers.
        """
        found = await asyncio.gather(*(one.adopt() for one in self._primaries), return_exceptions=True)
        failed = [one for one in found if isinstance(one, BaseException)]
        if len(failed) == len(found) or not all(isinstance(one, StoreDown) for one in failed):
            raise failed[0]

    @property
    def speaker(self) -> RedisConnection:
        """The connection whose `listener` hears what all servers publish. Each message reaches every node of a cluster."""
        return self._speaker or self

    def note(self, primary: RedisConnection, error: str | None) -> None:
        """Note whether a primary answers, and log a change.

        Args:
            primary: The primary.
            error: Why it does not; None when it does.
        """
        before = self.away.pop(primary.address, None)
        if error is not None:
            self.away[primary.address] = error
            if before is None:
                log.error("cluster.primary_down", primary=primary.address, why=error)
        elif before is not None:
            log.warning("cluster.primary_up", primary=primary.address)

    async def meet(self) -> str:
        """Make sure that a primary answers. A cluster as a whole has no identity: each primary has one.

        Raises:
            StoreDown: No primary answers.
        """
        await self.adopt()
        return self.identity

    def pin(self, identity: str) -> None:
        """Do nothing: each primary is pinned alone."""

    async def part(self) -> None:
        """Close the idle connections to all primaries."""
        for one in self._nodes.values():
            await one.part()

    def listen_elsewhere(self) -> None:
        """Use another primary for subscriptions, because the present one fails."""
        if self._speaker is not None and self._speaker in self._primaries:
            place = self._primaries.index(self._speaker)
            self._speaker = self._primaries[(place + 1) % len(self._primaries)]

    async def aclose(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
        for node in self._nodes.values():
            await node.aclose()
        for asker in self._askers.values():
            await asker.aclose()
        await super().aclose()
