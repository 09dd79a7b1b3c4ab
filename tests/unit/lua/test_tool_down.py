"""A tool whose start address fails cools down by itself; jobs of other tools pass those that gate would start at it."""

from __future__ import annotations

import pytest

from gate.slots.semaphore import AcquireReply
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def down(line: LineOfPool, job: str) -> None:
    """The start call of its grant was answered 404."""
    await line.requeue(job, int((await line.entry(job))["fence"]), "tool_down")


async def enqueue(line: LineOfPool, job: str, tool: str = "broken") -> AcquireReply:
    return await line.acquire(job, None, tool, by_gate=True)


async def test_its_jobs_keep_their_places_and_others_pass(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await enqueue(line, "first")
    await down(line, "first")
    await enqueue(line, "second")
    assert await line.queue() == ["first", "second"] and await line.holders() == set()
    await enqueue(line, "other", "well")
    assert await line.holders() == {"other"} and await line.queue() == ["first", "second"]
    assert (await line.status()).cooling_tools == {"broken"} and (await line.status()).cooling_until is None


async def test_a_job_that_its_caller_starts_passes_too(line: LineOfPool) -> None:
    await enqueue(line, "first")
    await down(line, "first")
    assert (await line.acquire("mine", None, "broken")).result == "running"
    assert (await line.acquire("now", None, "well", or_wait=False)).result == "running"
    assert await line.queue() == ["first"]


async def test_a_pause_that_the_tool_asks_for_makes_its_cool_down_longer(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await enqueue(line, "first")
    await line.requeue("first", int((await line.entry("first"))["fence"]), "tool_down", at_least_ms=90_000)
    line.clock.turn(89_999)
    await line.tick()
    assert await line.holders() == set()
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"first"}


async def test_it_is_tried_again_after_the_cool_down_which_doubles(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await enqueue(line, "first")
    for wait_ms in (5_000, 10_000, 20_000, 40_000, 60_000, 60_000):
        await down(line, "first")
        line.clock.turn(wait_ms - 1)
        await line.tick()
        assert await line.holders() == set(), wait_ms
        line.clock.turn(1)
        await line.tick()
        assert await line.holders() == {"first"}, wait_ms


async def test_failures_of_one_moment_count_once(line: LineOfPool) -> None:
    for job in "abc":
        await enqueue(line, job)
    for job in "abc":
        await down(line, job)
    line.clock.turn(5_000)
    await line.tick()
    assert await line.holders() == {"a", "b", "c"}


async def test_a_start_that_works_lifts_it(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await enqueue(line, "first")
    await enqueue(line, "second")
    await down(line, "first")
    line.clock.turn(5_000)
    await line.tick()
    lease_id = (await line.entry("first"))["lease_id"]
    assert (await line.claim("first", lease_id, by_gate=True)).result == "claimed"
    await line.release("first", lease_id)
    assert await line.holders() == {"second"} and not (await line.status()).cooling_tools


async def test_it_is_down_until_a_start_works_or_its_failure_is_old(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await enqueue(line, "first")
    await down(line, "first")
    await line.acquire("other")
    line.clock.turn(5_000)
    await line.tick()
    status = await line.status()
    assert not status.cooling_tools and status.down_tools == {"broken"}, "no slot was free for another try"
    assert (status.reason_of("broken"), status.reason_of("well"), status.reason_of(None)) == (
        "tool_down",
        "pool_full",
        "pool_full",
    )
    line.clock.turn(600_000)
    await line.tick()
    assert not (await line.status()).down_tools


async def test_a_newcomer_waits_behind_more_of_them_than_one_call_looks_at(line: LineOfPool) -> None:
    """Behind them others may wait that came before it. The next look goes on behind those that were passed."""
    await line.load(epoch=2, limit=1)
    for number in range(101):
        await enqueue(line, f"j{number}")
    await down(line, "j0")
    reply = await line.acquire("mine")
    assert (reply.result, reply.lease) == ("queued", None)
    assert await line.holders() == {"mine"}


async def test_it_is_over_with_its_life_in_redis(line: LineOfPool) -> None:
    await enqueue(line, "first")
    await down(line, "first")
    entry = await line.entry("first")
    await line.load(epoch=2, waiters=[("first", entry)])
    await line.tick()
    assert await line.holders() == {"first"}


async def test_a_start_that_works_ends_the_count_of_failures(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2)
    for job in ("works", "fails"):
        await enqueue(line, job)
    for job in ("works", "fails"):
        await down(line, job)
    line.clock.turn(5_000)
    await line.tick()
    assert (await line.status()).down_tools == {"broken"}
    await line.claim("works", await line.lease_of("works"), by_gate=True)
    assert not (await line.status()).down_tools
    await down(line, "fails")
    line.clock.turn(5_000)
    await line.tick()
    assert await line.holders() == {"works", "fails"}, "the first failure since, so the shortest cool-down"


async def test_each_tool_is_tried_again_at_the_end_of_its_own_cool_down(line: LineOfPool) -> None:
    await enqueue(line, "first", "one")
    await enqueue(line, "second", "other")
    await down(line, "first")
    line.clock.turn(1_000)
    await down(line, "second")
    line.clock.turn(3_999)
    await line.tick()
    assert await line.holders() == set()
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"first"}


async def test_after_a_look_at_all_of_a_long_line_the_next_begins_at_its_head(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for number in range(101):
        await enqueue(line, f"j{number}")
    await down(line, "j0")
    await line.acquire("mine", lease_ms=6_000)
    assert await line.holders() == {"mine"}
    await line.claim("mine", await line.lease_of("mine"))
    line.clock.turn(6_000)
    await line.tick()
    assert await line.holders() == {"j0"}
