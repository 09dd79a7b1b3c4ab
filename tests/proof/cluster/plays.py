"""What is done to a cluster while it is used, and what has to be true of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from gate.model.job import Request
from gate.runtime.wiring import RunningGate, open_gate
from gate.slots.cluster_map import slot_of
from tests.proof.cluster.load import LIMIT, Load
from tests.support.redis_cluster import SLOTS, Cluster, Node, pools_of
from tests.support.script_lane import settings_of
from tests.support.servers import wait_for

AGAIN_S = 5.0
"""Longest time (s) until the pools of a primary that was killed are served again, with a node timeout of one second."""
MOVED = 3_000
"""Slots that are moved forth and back as a range."""
BY_ONE = 50
"""Slots that are moved forth and back as redis-cli does."""


@dataclass
class Scene:
    """Two gates on a cluster, with pools on each primary.

    Attributes:
        pools: The pools of each node that was a primary at the start.
        took_s: How long it took until pools were served again (s).
    """

    cluster: Cluster
    sql_url: str
    gates: list[RunningGate]
    pools: dict[Node, list[str]]
    load: Load
    seed: random.Random
    took_s: list[float] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [name for pools in self.pools.values() for name in pools]

    def a_primary(self) -> tuple[Node, list[str], list[str]]:
        """One of the primaries, its pools, and those of all others."""
        primary = self.seed.choice(list(self.pools))
        own = self.pools[primary]
        return primary, own, [name for name in self.names if name not in own]


Play = Callable[[Scene], Awaitable[None]]


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, sql_url: str, seed: int = 1, each: int = 2) -> AsyncIterator[Scene]:
    pools = await asyncio.to_thread(pools_of, cluster, each, f"c-{secrets.token_hex(4)}-")
    settings = {name: settings_of(limit=LIMIT, queue_max=1000) for names in pools.values() for name in names}
    async with open_gate(cluster.url(), sql_url, settings) as one, open_gate(cluster.url(), sql_url, settings) as two:
        yield Scene(cluster, sql_url, [one, two], pools, Load([one, two]), random.Random(seed))
        await asyncio.to_thread(healed, cluster)
        for gate in (one, two):
            for name in settings:
                await gate.recorder.run(name)


def healed(cluster: Cluster) -> None:
    wait_for(cluster.is_well, "the cluster is well again")


async def kill_primary(scene: Scene) -> None:
    """The process of a primary dies. Its replica takes over; callers of other primaries never notice."""
    primary, own, others = scene.a_primary()
    async with scene.load.on(scene.names):
        await scene.load.served(scene.names, 20)
        primary.kill()
        scene.took_s.append(await scene.load.served(own, AGAIN_S))
        await scene.load.served(others, 5)
    assert scene.load.failures(others) == []
    await asyncio.to_thread(primary.start)


async def lose_writes(scene: Scene) -> None:
    """The replica that takes over lacks the newest writes. SQL has them, so no slot is given a second time."""
    primary, own, _ = scene.a_primary()
    one, two = scene.gates
    pool = own[0]
    replica = await asyncio.to_thread(scene.cluster.replica_of, primary)
    replica.freeze()
    primary.ask("CLIENT", "KILL", "TYPE", "replica")  # what is written from now on does not wait in a socket either
    held = [await one.services.admission.acquire(pool, Request(f"{pool}-held-{n}"), 0) for n in range(LIMIT)]
    primary.kill()
    replica.thaw()
    await asyncio.to_thread(wait_for, lambda: replica.is_primary, "the replica is the primary")
    assert replica.client.zcard(f"gate:{{{pool}}}:slots") == 0, "it has the writes"
    late = await two.services.admission.acquire(pool, Request(f"{pool}-late"), 0)
    assert late.status == "queued" and running(scene.sql_url, pool) == LIMIT
    for job in held:
        await one.services.jobs.release(pool, job.job_id, job.lease_id or "", "completed")
    late = await two.services.queries.wait(pool, late.job_id, "queued", 10)
    await two.services.jobs.release(pool, late.job_id, late.lease_id or "", "completed")
    await asyncio.to_thread(primary.start)


async def planned_failover(scene: Scene) -> None:
    """An operator makes a replica the primary. No call fails."""
    primary, own, _ = scene.a_primary()
    async with scene.load.on(scene.names):
        await scene.load.served(scene.names, 20)
        await asyncio.to_thread(scene.cluster.fail_over, primary)
        scene.took_s.append(await scene.load.served(own, 20))
    assert scene.load.failed == []


async def move_slots(scene: Scene) -> None:
    """Slots are moved to another primary and back, one by one and at once. No call fails."""
    source, own, _ = scene.a_primary()
    to = scene.seed.choice([node for node in scene.pools if node is not source])
    owners = await asyncio.to_thread(scene.cluster.map)
    one_by_one = [slot_of(own[0]), *(slot for slot in range(SLOTS) if owners[slot] is source)][:BY_ONE]
    first = min(max(slot_of(own[1]) - MOVED // 2, owners.index(source)), owners.index(source) + owners.count(source) - MOVED)
    async with scene.load.on(scene.names):
        await scene.load.served(scene.names, 20)
        for there, back in ((source, to), (to, source)):
            await asyncio.to_thread(scene.cluster.move, one_by_one, there, back)
            await scene.load.served(own, 20)
        for there, back in ((source, to), (to, source)):
            await asyncio.to_thread(scene.cluster.move_at_once, first, first + MOVED - 1, there, back)
            scene.took_s.append(await scene.load.served(own, 20))
    assert scene.load.failed == []


async def cut_off_primary(scene: Scene) -> None:
    """A primary hears nothing of the others, and goes on. Another has its slots meanwhile; it grants nothing that counts."""
    primary, own, _ = scene.a_primary()
    one, two = scene.gates
    pool = own[0]
    for number in range(LIMIT):  # the first gate has its connections to the primary, and uses them until it is told otherwise
        await one.services.admission.acquire(pool, Request(f"{pool}-held-{number}"), 0)
    await asyncio.to_thread(scene.cluster.cut_off, primary)
    assert primary.client.zrem(f"gate:{{{pool}}}:slots", f"{pool}-held-0") == 1  # a slot that it alone takes for free
    await two.semaphore.link.look()
    await two.registry.reload(pool)  # as any call of the second gate would, as soon as it hears of the failover
    stale = await one.services.admission.acquire(pool, Request(f"{pool}-stale"), 0)
    assert stale.status == "queued", "the former primary has granted it a slot"
    assert primary.client.zscore(f"gate:{{{pool}}}:slots", f"{pool}-held-1") is not None, "it goes on by itself"
    assert running(scene.sql_url, pool) == LIMIT
    for number in range(LIMIT):
        held = await two.services.queries.wait(pool, f"{pool}-held-{number}", "", 0)
        await one.services.jobs.release(pool, held.job_id, held.lease_id or "", "completed")
    granted = await one.services.queries.wait(pool, f"{pool}-stale", "queued", 10)
    await two.services.jobs.release(pool, granted.job_id, granted.lease_id or "", "completed")
    await asyncio.to_thread(scene.cluster.rejoin, primary)


def running(sql_url: str, pool: str) -> int:
    """Jobs that hold slots, by SQL."""
    engine = sa.create_engine(
        sa.make_url(sql_url).set(drivername="sqlite+pysqlite" if sql_url.startswith("sqlite") else "postgresql+psycopg")
    )
    at = "" if sql_url.startswith("sqlite") else "gate."
    with engine.connect() as connection:
        query = sa.text(f"select count(*) from {at}jobs where pool = :pool and status in ('granted', 'running')")
        found = int(connection.execute(query, {"pool": pool}).scalar_one())
    engine.dispose()
    return found


OF_A_CLUSTER: tuple[Play, ...] = (kill_primary, lose_writes, planned_failover, move_slots, cut_off_primary)
