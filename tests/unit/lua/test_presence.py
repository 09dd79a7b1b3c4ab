"""Waiters whose callers are absent keep their places, and are passed until they show themselves."""

from __future__ import annotations

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio
PRESENCE_MS = 10_000


async def behind_a_holder(line: LineOfPool, *jobs: str) -> str:
    """One slot, its holder, and waiters that asked for presence; the holder's lease."""
    await line.load(epoch=2, limit=1)
    lease_id = (await line.acquire("holder")).lease.lease_id
    for job in jobs:
        await line.acquire(job, presence_ms=PRESENCE_MS)
    return lease_id


async def test_an_absent_waiter_is_passed_and_keeps_its_place(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone")
    await line.acquire("there")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    assert await line.holders() == {"there"} and await line.queue() == ["gone"]
    fence = int((await line.entry("there"))["fence"])
    assert await line.notes() == [("passed", "gone", 0), ("granted", "there", fence)]
    status = await line.status("gone")
    assert (status.position, status.away, status.reason_of(None, "gone")) == (1, {"gone"}, "absent")


async def test_a_waiter_is_present_until_its_time_is_over(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "first", "second")
    line.clock.turn(PRESENCE_MS - 1)
    await line.release("holder", lease_id)
    assert await line.holders() == {"first"} and not (await line.status()).away


async def test_a_waiter_that_shows_itself_again_has_the_free_slot_at_once(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    assert await line.holders() == set()
    assert (await line.semaphore.status(line.pool, line.epoch, "gone", shows=True)).position is None
    assert await line.holders() == {"gone"}
    assert [kind for kind, *_ in await line.notes()] == ["passed", "granted"]


async def test_asked_again_for_its_slot_it_is_present(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone", "behind")
    line.clock.turn(PRESENCE_MS)
    await line.acquire("gone")
    await line.release("holder", lease_id)
    assert await line.holders() == {"gone"}


async def test_a_poll_keeps_it_present_for_its_whole_time_and_seldom_writes(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "polls")
    before, written = await line.dump(), 0
    for _ in range(20):
        line.clock.turn(1_000)
        await line.semaphore.status(line.pool, line.epoch, "polls", shows=True)
        after = await line.dump()
        written, before = written + (after["jobs"] != before["jobs"]), after
    assert written == 7, "every third of them: a quarter more than its time is noted"
    line.clock.turn(PRESENCE_MS - 1)
    await line.release("holder", lease_id)
    assert await line.holders() == {"polls"}


async def test_a_look_at_the_pool_is_no_sign_of_its_caller(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone")
    line.clock.turn(PRESENCE_MS)
    await line.status("gone")
    await line.release("holder", lease_id)
    assert await line.holders() == set()


async def test_its_queue_time_ends_its_wait_all_the_same(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    line.clock.turn(590_000)
    await line.tick()
    assert await line.queue() == []


async def test_a_load_counts_as_a_sign_of_every_caller(line: LineOfPool) -> None:
    entry = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 600_000, "presence_ms": PRESENCE_MS}
    line.clock.turn(60_000)
    await line.load(epoch=2, waiters=[("first", entry), ("second", entry | {"ticket": "2"})], limit=1)
    await line.tick()
    assert await line.holders() == {"first"}
    line.clock.turn(PRESENCE_MS)
    await line.release("first", await line.lease_of("first"))
    assert await line.holders() == set() and (await line.status()).away == {"second"}


async def test_a_grant_that_goes_back_counts_as_a_sign(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "refused")
    await line.release("holder", lease_id)
    line.clock.turn(50_000)
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    line.clock.turn(5_000)
    await line.tick()
    assert await line.holders() == {"refused"}


async def test_a_job_that_gate_starts_needs_no_presence(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    lease_id = (await line.acquire("holder")).lease.lease_id
    await line.acquire("by gate", None, "tool", by_gate=True, presence_ms=PRESENCE_MS)
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    assert await line.holders() == {"by gate"}


async def test_a_waiter_behind_more_absent_ones_than_one_call_looks_at_has_its_turn(line: LineOfPool) -> None:
    """Each call goes on where the last one met its bound, and one that shows itself is before those behind it."""
    lease_id = await behind_a_holder(line, *[f"gone{number}" for number in range(250)])
    await line.acquire("there")
    await line.acquire("behind")
    line.clock.turn(PRESENCE_MS)
    assert (await line.release("holder", lease_id)).more
    await line.semaphore.status(line.pool, line.epoch, "gone7", shows=True)
    assert await line.holders() == {"gone7"}
    await line.release("gone7", await line.lease_of("gone7"))
    for _ in range(2):
        await line.tick()
    assert await line.holders() == {"there"}
    await line.cancel("gone3")
    assert (await line.status("behind")).position == 249


async def test_one_that_leaves_from_before_the_place_of_the_scan_lets_none_be_missed(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, *[f"gone{number}" for number in range(250)])
    await line.acquire("there")
    await line.acquire("behind")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    for number in range(60):
        await line.cancel(f"gone{number}")
    for _ in range(3):
        await line.tick()
    assert await line.holders() == {"there"}


async def test_nothing_of_it_stays_when_nothing_waits(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "waits")
    await line.release("holder", lease_id)
    await line.tick()
    meta = await line.client.hgetall(line.key("meta"))
    assert not {b"presences", b"pass_scan"} & meta.keys()


async def test_a_waiter_that_needs_no_presence_any_longer_is_never_absent_again(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "answered", "behind")
    status = await line.semaphore.status(line.pool, line.epoch, "answered", for_good=True)
    assert (status.position, "presence_ms" in await line.entry("answered")) == (1, False)
    line.clock.turn(10 * PRESENCE_MS)
    await line.release("holder", lease_id)
    assert await line.holders() == {"answered"}


async def test_one_that_was_passed_and_needs_no_presence_any_longer_has_the_free_slot_at_once(line: LineOfPool) -> None:
    lease_id = await behind_a_holder(line, "gone")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    await line.semaphore.status(line.pool, line.epoch, "gone", for_good=True)
    assert await line.holders() == {"gone"}


async def test_a_grant_that_goes_back_has_the_presence_that_sql_knows(line: LineOfPool) -> None:
    """Its caller was answered with the grant. SQL knows that it needs no presence since then, and the entry does not."""
    lease_id = await behind_a_holder(line, "answered")
    await line.release("holder", lease_id)
    entry = await line.entry("answered")
    in_sql = {name: entry[name] for name in ("ticket", "queued_at", "lease_ms")}
    await line.requeue("answered", int(entry["fence"]), restore=in_sql)
    line.clock.turn(10 * PRESENCE_MS)
    await line.tick()
    assert await line.holders() == {"answered"}


async def test_one_that_leaves_between_two_looks_of_a_call_lets_none_be_missed(line: LineOfPool) -> None:
    """The first look ends just before `there`, which then moves up by a place."""
    lease_id = await behind_a_holder(line, *[f"gone{number}" for number in range(200)])
    await line.acquire("there")
    await line.acquire("behind")
    line.clock.turn(PRESENCE_MS)
    await line.release("holder", lease_id)
    await line.cancel("gone0")
    assert await line.holders() == {"there"}


async def test_a_poll_in_the_moment_of_its_arrival_writes_nothing(line: LineOfPool) -> None:
    await behind_a_holder(line, "polls")
    before = await line.dump()
    await line.semaphore.status(line.pool, line.epoch, "polls", shows=True)
    assert await line.dump() == before


async def test_an_absent_job_is_named_where_no_waiter_is(line: LineOfPool) -> None:
    await behind_a_holder(line, "gone")
    line.clock.turn(PRESENCE_MS)
    assert (await line.status("gone", most=0)).away == {"gone"}
