import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def fence_of(line: LineOfPool, job: str) -> int:
    return int((await line.entry(job))["fence"])


async def test_it_goes_before_all_later_arrivals(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job)
    await line.requeue("b", await fence_of(line, "b"))
    assert await line.queue() == ["b", "d", "e", "f"]
    await line.requeue("a", await fence_of(line, "a"))
    assert await line.queue() == ["a", "b", "d", "e", "f"]


async def test_its_place_is_found_in_a_long_queue(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for number in range(250):
        await line.acquire(f"j{number}")
    await line.cancel("j200")
    restored = {"ticket": str((2 << 32) + 201), "queued_at": line.clock.now, "lease_ms": 1_000}
    await line.requeue("j200", 1, "not_taken", restored)
    assert (await line.status("j200")).position == 200


async def test_the_pool_cools_down_longer_and_longer(line: LineOfPool) -> None:
    await line.acquire("a")
    waits = []
    for _ in range(6):
        await line.requeue("a", await fence_of(line, "a"))
        cooling = (await line.status()).cooling_until
        assert cooling is not None
        waits.append(cooling - line.clock.now)
        assert await line.holders() == set(), "while it cools down no slot is granted"
        line.clock.turn(waits[-1])
        await line.tick()
        assert await line.holders() == {"a"}
    assert waits == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]


async def test_a_pause_that_the_tool_asks_for_makes_a_cool_down_longer_and_never_shorter(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.requeue("a", await fence_of(line, "a"), at_least_ms=90_000)
    assert (await line.status()).cooling_until == line.clock.now + 90_000
    line.clock.turn(90_000)
    await line.tick()
    await line.requeue("a", await fence_of(line, "a"), at_least_ms=1)
    assert (await line.status()).cooling_until == line.clock.now + 10_000


async def test_the_only_one_that_waits_is_counted_at_once(line: LineOfPool) -> None:
    await line.acquire("a", lease_ms=5_000)
    fence = await fence_of(line, "a")
    assert (await line.requeue("a", fence)).next_ms == line.clock.now + 5_000, "when the cool-down is over"
    line.clock.turn(5_000)
    await line.tick()
    await line.requeue("a", await fence_of(line, "a"), "lost")
    assert await line.holders() == {"a"}, "nothing cools down, and the call that seats it promotes it"


async def test_a_requeue_of_an_old_fence_does_not_move_the_newer_grant(line: LineOfPool) -> None:
    await line.acquire("a")
    old = await fence_of(line, "a")
    await line.requeue("a", old, "not_taken")
    line.clock.turn(1_000)
    await line.tick()
    before = await line.dump()
    assert (await line.requeue("a", old)).result == "newer"
    assert await line.dump() == before


async def test_a_second_requeue_changes_nothing(line: LineOfPool) -> None:
    await line.acquire("a")
    fence = await fence_of(line, "a")
    await line.requeue("a", fence)
    before = await line.dump()
    assert (await line.requeue("a", fence)).result == "requeued"
    assert await line.dump() == before


async def test_what_redis_does_not_know_stays_unknown_unless_it_is_to_be_restored(line: LineOfPool) -> None:
    assert (await line.requeue("a", 1)).result == "absent"
    assert await line.queue() == []
    restored = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 1_000, "user": "ana"}
    assert (await line.requeue("a", 1, "not_taken", restored)).result == "requeued"
    assert await line.queue() == ["a"]


async def test_its_lease_is_gone_and_its_queue_time_counts_from_the_first_admission(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    line.clock.turn(400_000)
    await line.requeue("a", got.lease.fence)
    assert (await line.renew("a", got.lease.lease_id)).result == "lost"
    entry = await line.entry("a")
    assert entry["queued_at"] == line.clock.now - 400_000
    assert not {"lease_id", "fence", "claimed"} & entry.keys()


async def test_a_grant_that_was_not_taken_waits_a_second_and_does_not_double(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.requeue("a", await fence_of(line, "a"), "not_taken")
    assert (await line.status()).cooling_until == line.clock.now + 1_000
    line.clock.turn(1_000)
    await line.tick()
    await line.requeue("a", await fence_of(line, "a"))
    assert (await line.status()).cooling_until == line.clock.now + 5_000, "the first refusal"


async def test_what_redis_lost_cools_nothing_down(line: LineOfPool) -> None:
    restored = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 1_000, "user": "ana"}
    assert (await line.requeue("a", 1, "lost", restored)).result == "requeued"
    assert await line.client.hget(line.key("meta"), "cooling_until") == b"0"
    assert await line.holders() == {"a"}
    assert await line.client.zrange(line.key("users"), 0, -1) == [b"ana\x1fa"]


async def test_what_stands_in_both_by_hand_stands_in_the_queue_once(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.client.rpush(line.key("queue"), "a")
    for job in "bc":
        await line.acquire(job)
    await line.configure(paused=1)
    await line.client.rpush(line.key("queue"), "b")
    await line.requeue("b", await fence_of(line, "b"))
    assert (await line.queue()).count("b") == 1


async def test_a_slot_without_an_entry_is_no_grant_that_could_go_back(line: LineOfPool) -> None:
    await line.acquire("a")
    fence = await fence_of(line, "a")
    await line.client.hdel(line.key("jobs"), "a")
    before = await line.dump()
    assert (await line.requeue("a", fence)).result == "absent"
    assert await line.dump() == before


async def test_a_slot_whose_entry_names_no_fence_is_that_of_fence_0(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.client.zadd(line.key("slots"), {"d": line.clock.now + 1_000})
    assert (await line.requeue("d", 1)).result == "newer"
    assert (await line.requeue("d", 0, "not_taken")).result == "requeued"
    assert (await line.holders(), await line.queue()) == ({"a", "b", "c"}, ["d"])


async def test_an_entry_without_a_place_has_to_be_restored(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    entry = await line.entry("d")
    await line.client.lrem(line.key("queue"), 1, "d")
    assert (await line.requeue("d", 1)).result == "absent"
    assert (await line.requeue("d", 1, "lost", entry)).result == "requeued"
    assert await line.queue() == ["d", "e"]


async def test_a_place_without_an_entry_is_not_kept_beside_the_restored_one(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job)
    entry = await line.entry("e")
    await line.client.hdel(line.key("jobs"), "e")
    assert (await line.requeue("e", 1, "lost", entry)).result == "requeued"
    assert await line.queue() == ["d", "e", "f"]


async def test_it_reaps_like_every_call(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.requeue("b", 1)).result == "absent"
    assert [note[:2] for note in await line.notes()] == [("expired", "a")]


async def test_of_a_job_that_held_a_slot_the_time_that_counts_against_no_wait_is_that_of_sql(line: LineOfPool) -> None:
    holder = await line.acquire("a")
    assert holder.lease is not None
    entry = await line.entry("a")
    restore = {"ticket": str(holder.ticket), "queued_at": entry["queued_at"], "lease_ms": 600_000, "stood": 7_000}
    await line.configure(limit=0)
    assert (await line.requeue("a", holder.lease.fence, "lost", restore)).result == "requeued"
    assert (await line.entry("a"))["stood"] == 7_000
