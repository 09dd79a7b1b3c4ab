"""Each thing that happens to a cluster, once. `python -m tests.proof.cluster` plays them many times, in a random order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gate.diagnostics.verify import verify
from gate.model.errors import StoreDown
from gate.runtime.wiring import open_gate
from gate.slots.cluster_map import slot_of
from tests.proof.cluster import plays
from tests.support.redis_cluster import Cluster
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


async def played(play: plays.Play, cluster: Cluster, sql_url: str) -> None:
    async with plays.opened(cluster, sql_url) as scene:
        await play(scene)
    assert verify(sql_url, cluster.url()).breaches == []


async def test_killed_primary_is_replaced_and_others_do_not_notice(cluster: Cluster, sql_url: str) -> None:
    await played(plays.kill_primary, cluster, sql_url)


async def test_failover_that_loses_writes_gives_no_slot_twice(cluster: Cluster, sql_url: str) -> None:
    await played(plays.lose_writes, cluster, sql_url)


async def test_planned_failover_fails_no_call(cluster: Cluster, sql_url: str) -> None:
    await played(plays.planned_failover, cluster, sql_url)


async def test_moved_slots_fail_no_call(cluster: Cluster, sql_url: str) -> None:
    await played(plays.move_slots, cluster, sql_url)


async def test_primary_that_is_cut_off_grants_nothing(cluster: Cluster, sql_url: str) -> None:
    await played(plays.cut_off_primary, cluster, sql_url)


async def test_pool_whose_primary_is_away_is_not_made(cluster: Cluster, sql_url: str) -> None:
    primary = cluster.primary_of("refused")
    served = next(name for name in (f"served{n}" for n in range(99)) if cluster.primary_of(name) is not primary)
    defaults = settings_of()
    async with open_gate(cluster.url(), sql_url, {}, made_live=defaults) as gate:
        primary.kill()
        try:
            with pytest.raises(StoreDown):
                await gate.services.pools.make("refused", {})
            await gate.services.queries.ready()
            assert await gate.services.pools.make(served, {}) is not None
            assert [one.name for one in await gate.services.ledger.pools()] == [served]
        finally:
            await asyncio.to_thread(primary.start)
            await asyncio.to_thread(plays.healed, cluster)
    assert slot_of("refused") != slot_of(served)
