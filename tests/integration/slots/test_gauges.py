"""A pool in figures: as it is, and as it stays."""

from __future__ import annotations

from typing import Any

import pytest

from gate.slots import RedisConnection, gauges
from gate.slots.gauges import RedisGauges
from tests.support.gate_in_process import House
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def read(link: RedisConnection, pool: str) -> RedisGauges:
    return (await gauges.read(link, [pool]))[pool]


async def look(house: House) -> RedisGauges:
    return await read(house.gate.semaphore.link, house.pool)


async def test_a_pool_in_figures(open_house: Any) -> None:
    async with open_house(limit=2) as house:
        empty = await look(house)
        assert (empty.limit, empty.free, empty.running, empty.queued, empty.oldest_lease_s) == (2, 2, 0, 0, 0)
        first, _, waiter, _ = [await house.acquire() for _ in range(4)]
        await house.release(first)
        await house.granted(waiter)
        found = await look(house)
        assert (found.running, found.granted, found.free, found.queued, found.overdue) == (1, 1, 0, 1, 0)
        assert found.oldest_lease_s > 0 and found.epoch >= 1 and not found.paused
        await house.gate.services.pools.change(house.pool, {"paused": True})
        assert (await look(house)).paused


async def test_a_read_reaps_nothing_and_grants_nothing(line: LineOfPool) -> None:
    """A scrape must not reap. Otherwise the alarm about an overdue slot could never fire."""
    for job in "abcd":
        await line.acquire(job)
    await line.client.zadd(line.key("slots"), {"a": 1, "c": 2**50})
    await line.client.zrem(line.key("slots"), "b")
    before = await line.dump()
    for _ in range(3):
        found = await read(line.semaphore.link, line.pool)
        assert (found.overdue, found.free, found.queued) == (1, 1, 1)
    assert await line.dump() == before
    await line.tick()
    found = await read(line.semaphore.link, line.pool)
    assert "a" not in await line.holders() and (found.queued, found.granted) == (0, 1)
    assert found.outbox == 2 and found.oldest_entry_s >= 0


async def test_values_written_by_hand_break_nothing(house: House) -> None:
    job = await house.acquire()
    house.people.zadd(house.key("slots"), {"by hand": "inf", "stranger": 5})
    house.people.hset(house.key("jobs"), "stranger", "[1]")
    house.people.hset(house.key("meta"), "cooling_until", "nan")
    found = await look(house)
    assert (found.running, found.cooling_s) == (1, 0) and found.overdue <= 1
    house.people.zrem(house.key("slots"), "by hand", "stranger")
    house.people.hdel(house.key("jobs"), "stranger")
    house.people.hset(house.key("meta"), "cooling_until", 0)
    assert (await look(house)).running == 1 and job.status == "running"


async def test_no_number_is_too_large(line: LineOfPool) -> None:
    await line.client.hset(line.key("meta"), mapping={"limit": "inf", "epoch": "-5", "cooling_until": "1e300"})
    found = await read(line.semaphore.link, line.pool)
    assert found.limit == 2**53 and found.epoch == 0 and found.cooling_s > 0


async def test_a_pool_that_redis_does_not_know_is_nothing(house: House) -> None:
    nothing = await read(house.gate.semaphore.link, "nowhere")
    assert (nothing.epoch, nothing.limit, nothing.free, nothing.queued) == (0, 0, 0, 0)
