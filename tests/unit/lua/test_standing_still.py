"""Time in which a pool stands still counts against no wait: paused, cooling down, or without gate or a store."""

from __future__ import annotations

import pytest

from gate.slots import Semaphore
from tests.support.script_lane import LineOfPool, Pinned

pytestmark = pytest.mark.anyio
QUEUE_MS = 600_000


async def full(line: LineOfPool, **settings: int) -> None:
    await line.load(epoch=2, limit=1, lease_ms=3_000_000, **settings)
    await line.acquire("runs")


async def left_ms(line: LineOfPool, job: str) -> int:
    """How much of its wait is left, found by turning the clock."""
    state = await line.status()
    entry = await line.entry(job)
    due = state.queue_expires_at(entry["queued_at"], entry.get("queue_ms"), entry.get("stood", 0))
    assert due is not None
    return due - line.clock.now


async def ends_after(line: LineOfPool, job: str, ms: int) -> None:
    line.clock.turn(ms - 1)
    await line.tick()
    assert job in await line.queue()
    line.clock.turn(1)
    await line.tick()
    assert job not in await line.queue()


async def test_no_wait_ends_while_the_pool_is_paused_and_the_rest_of_it_counts_afterwards(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("waits")
    line.clock.turn(100_000)
    await line.configure(paused=1)
    line.clock.turn(10 * QUEUE_MS)
    assert (await line.tick()).next_ms is None or (await line.tick()).next_ms > line.clock.now
    assert await line.queue() == ["waits"]
    await line.configure(paused=0, limit=0)
    assert await left_ms(line, "waits") == QUEUE_MS - 100_000
    await ends_after(line, "waits", QUEUE_MS - 100_000)


async def test_who_comes_during_a_pause_has_its_whole_time_from_its_end(line: LineOfPool) -> None:
    await full(line)
    await line.configure(paused=1)
    line.clock.turn(50_000)
    await line.acquire("waits")
    line.clock.turn(70_000)
    await line.configure(paused=0)
    await ends_after(line, "waits", QUEUE_MS)


async def test_a_pause_is_counted_for_a_queue_time_of_its_own_too(line: LineOfPool) -> None:
    await full(line)
    await line.acquire("patient")
    await line.acquire("hasty", queue_ms=2_000)
    line.clock.turn(1_000)
    await line.configure(paused=1)
    line.clock.turn(30_000)
    await line.tick()
    assert await line.queue() == ["patient", "hasty"]
    await line.configure(paused=0)
    await ends_after(line, "hasty", 1_000)
    assert await line.queue() == ["patient"]


async def test_a_cool_down_does_not_count_and_ends_early_when_a_lease_ends(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2)
    for job in ("runs", "refused", "waits"):
        await line.acquire(job)
    refused = int((await line.entry("refused"))["fence"])
    await line.requeue("refused", refused)
    assert await left_ms(line, "waits") == QUEUE_MS + 5_000, "the end of the cool-down is known, so it is told"
    line.clock.turn(2_000)
    await line.configure(limit=0)
    await line.release("runs", await line.lease_of("runs"))
    assert await left_ms(line, "waits") == QUEUE_MS
    line.clock.turn(10_000)
    assert await left_ms(line, "waits") == QUEUE_MS - 10_000


async def test_a_cool_down_that_is_over_counts_for_its_length_and_no_longer(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("refused")
    await line.acquire("waits")
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    line.clock.turn(8_000)
    await line.tick()
    assert await left_ms(line, "waits") == QUEUE_MS - 3_000
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    line.clock.turn(20_000)
    await line.tick()
    assert await left_ms(line, "waits") == QUEUE_MS - 3_000 - 10_000


async def test_a_pause_within_a_cool_down_counts_once(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("refused")
    await line.acquire("waits")
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    line.clock.turn(2_000)
    await line.configure(paused=1)
    line.clock.turn(1_000)
    await line.configure(paused=0)
    line.clock.turn(2_000)
    await line.configure(limit=0)
    assert await left_ms(line, "waits") == QUEUE_MS


async def test_an_absence_does_not_count(line: LineOfPool) -> None:
    line.semaphore = Semaphore(Pinned(line.client))
    await full(line)
    await line.acquire("waits")
    before = await line.status()
    await line.client.hset(line.key("meta"), "seen_at", before.now_ms - 500_000)
    after = await line.status()
    assert 500_000 <= after.stood_ms - before.stood_ms < 503_000
    assert after.loaded_at == after.now_ms


async def test_an_absence_within_a_pause_counts_once(line: LineOfPool) -> None:
    line.semaphore = Semaphore(Pinned(line.client))
    await full(line)
    await line.configure(paused=1)
    now = (await line.status()).now_ms
    await line.client.hset(line.key("meta"), mapping={"seen_at": now - 500_000, "still_from": now - 600_000})
    assert 600_000 <= (await line.status()).stood_ms < 603_000
    assert 600_000 <= (await line.status()).stood_ms < 603_000


@pytest.mark.parametrize("paused", [True, False])
async def test_an_absence_counts_once_where_the_first_call_after_it_ends_or_begins_a_pause(
    line: LineOfPool, paused: bool
) -> None:
    line.semaphore = Semaphore(Pinned(line.client))
    await full(line)
    if paused:
        await line.configure(paused=1)
    now = (await line.status()).now_ms
    since = {"still_from": now - 500_000} if paused else {}
    await line.client.hset(line.key("meta"), mapping={"seen_at": now - 500_000, **since})
    await line.configure(paused=int(not paused))
    assert 500_000 <= (await line.status()).stood_ms < 503_000


async def test_a_rebuild_goes_on_from_what_sql_knows(line: LineOfPool) -> None:
    waits = {"ticket": "1", "queued_at": line.clock.now - 500_000, "lease_ms": 600_000, "stood": 100_000}
    newer = waits | {"ticket": "2", "queued_at": line.clock.now - 200_000, "stood": 300_000}
    await line.load(
        epoch=2, limit=0, waiters=[("waits", waits), ("newer", newer)], stood_ms=400_000, claim_ms=1_000, paused=1
    )
    line.clock.turn(1_000_000)
    await line.configure(paused=0)
    assert await left_ms(line, "waits") == QUEUE_MS - 500_000 + 300_000
    assert await left_ms(line, "newer") == QUEUE_MS - 200_000 + 100_000


async def test_the_reply_to_an_admission_says_how_long_the_pool_had_stood_still(line: LineOfPool) -> None:
    await full(line)
    assert (await line.acquire("first")).stood_ms == 0
    await line.configure(paused=1)
    line.clock.turn(7_000)
    assert (await line.acquire("during")).stood_ms == 7_000
    await line.configure(paused=0)
    line.clock.turn(7_000)
    assert (await line.acquire("after")).stood_ms == 7_000
    assert (await line.acquire("during")).stood_ms == 7_000


async def test_a_pause_after_a_cool_down_that_is_over_counts_for_its_length(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("refused")
    await line.acquire("waits")
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    line.clock.turn(5_000)
    await line.tick()
    await line.configure(paused=1)
    line.clock.turn(7_000)
    await line.configure(paused=0)
    assert await left_ms(line, "waits") == QUEUE_MS
    line.clock.turn(10_000)
    assert await left_ms(line, "waits") == QUEUE_MS - 10_000
