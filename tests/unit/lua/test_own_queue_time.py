"""Waiters with a queue time of their own, among others in one line."""

from __future__ import annotations

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def full(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job, lease_ms=3_000_000)


async def test_a_shorter_queue_time_ends_behind_a_longer_one(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("patient")
    await line.acquire("hasty", queue_ms=1_000)
    line.clock.turn(1_000)
    await line.tick()
    assert await line.queue() == ["patient"]
    assert await line.notes() == [("expired", "hasty", 0)]


async def test_a_longer_queue_time_keeps_nothing_behind_it_alive(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("patient", queue_ms=900_000)
    await line.acquire("as the pool says")
    line.clock.turn(600_000)
    await line.tick()
    assert await line.queue() == ["patient"]
    line.clock.turn(300_000)
    await line.tick()
    assert await line.queue() == []


async def test_a_hundred_longer_queue_times_keep_nothing_behind_them_alive(line: LineOfPool) -> None:
    await full(line)
    for number in range(100):
        await line.acquire(f"patient{number}", queue_ms=900_000)
    await line.acquire("as the pool says")
    line.clock.turn(600_000)
    for _ in range(2):
        await line.tick()
    assert "as the pool says" not in await line.queue() and len(await line.queue()) == 100
    assert await line.notes() == [("expired", "as the pool says", 0)]


async def test_ticks_look_at_the_whole_line_a_hundred_waiters_at_a_time(line: LineOfPool) -> None:
    await full(line)
    for number in range(250):
        await line.acquire(f"w{number}")
    await line.acquire("hasty", queue_ms=1_000)
    line.clock.turn(1_000)
    for _ in range(3):
        await line.tick()
    assert "hasty" not in await line.queue() and len(await line.queue()) == 100
    assert (await line.status("w249")).position == 250


async def test_a_tick_ends_no_more_of_these_waits_than_a_call_may(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("patient")
    for number in range(60):
        await line.acquire(f"hasty{number}", queue_ms=1_000)
    line.clock.turn(1_000)
    left = []
    for _ in range(3):
        await line.tick()
        left.append(len(await line.queue()))
    assert left == [36, 11, 1]


async def test_it_is_kept_through_a_rebuild(line: LineOfPool) -> None:
    entry = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 600_000, "queue_ms": 120_000}
    await line.load(epoch=2, waiters=[("hasty", entry), ("patient", entry | {"ticket": "2", "queue_ms": 900_000})], limit=0)
    line.clock.turn(600_000)
    await line.tick()
    assert await line.queue() == ["patient"]


async def test_nothing_of_it_stays_when_nothing_waits(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("hasty", queue_ms=1_000)
    assert b"own_waits" in await line.client.hgetall(line.key("meta"))
    line.clock.turn(1_000)
    await line.tick()
    assert not {b"own_waits", b"wait_scan"} & (await line.client.hgetall(line.key("meta"))).keys()
