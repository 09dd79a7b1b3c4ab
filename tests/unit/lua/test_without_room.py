"""A Redis without room refuses new work, and nothing that is under way."""

from collections.abc import AsyncIterator

import pytest

from gate.model.errors import StoreDown
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


@pytest.fixture
async def full(line: LineOfPool) -> AsyncIterator[LineOfPool]:
    """Three hold a slot, d waits; then there is no room for more."""
    if line.fake:
        pytest.skip("fakeredis always has room")
    for job in "abcd":
        await line.acquire(job)
    room = (await line.client.config_get("maxmemory"))["maxmemory"]
    await line.client.config_set("maxmemory", 1)
    yield line
    await line.client.config_set("maxmemory", room)


async def test_new_work_is_refused_and_changes_nothing(full: LineOfPool) -> None:
    before = await full.dump()
    with pytest.raises(StoreDown, match="no room"):
        await full.acquire("new")
    assert await full.dump() == before


async def test_what_is_under_way_goes_on(full: LineOfPool) -> None:
    full.clock.turn(1_000)
    assert (await full.renew("b", await full.lease_of("b"))).due == full.clock.now + 600_000
    assert (await full.release("a", await full.lease_of("a"))).emitted == 1
    assert (await full.claim("d", await full.lease_of("d"))).result == "claimed"
    assert (await full.requeue("b", int((await full.entry("b"))["fence"]))).result == "requeued"
    assert (await full.cancel("b")).result == "left_queue"
    assert (await full.configure(paused=0)).result == "configured"
    full.clock.turn(600_000)
    assert (await full.tick()).emitted == 2


async def test_a_step_of_the_clock_is_met_all_the_same(full: LineOfPool) -> None:
    assert (await full.semaphore.shift(full.pool, full.epoch, 600_000, 0)).ahead_ms == 600_000
