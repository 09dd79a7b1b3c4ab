"""What others put into Redis, or took out: it is no entry, no waiter, no holder, and never an error."""

import json

import pytest

from gate.model.errors import StoreDown
from gate.slots import NotDone
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio
ENTRY = {"ticket": "9", "queued_at": 1_700_000_000_000, "lease_ms": 5_000}
NO_ENTRIES = [
    "no json", "7", "[]",
    *(json.dumps({name: value for name, value in ENTRY.items() if name != lacking}) for lacking in ENTRY),
    *(json.dumps(ENTRY | {name: "x"}) for name in (*ENTRY, "fence")),
]  # fmt: skip


@pytest.mark.parametrize("raw", NO_ENTRIES)
async def test_what_is_no_entry_of_gates_is_nobodys(line: LineOfPool, raw: str) -> None:
    for job in "abcde":
        await line.acquire(job)
    await line.client.hset(line.key("jobs"), "d", raw)
    await line.release("a", await line.lease_of("a"))
    assert await line.holders() == {"b", "c", "e"}
    assert await line.queue() == []


@pytest.mark.parametrize("name", ["epoch", "cooldown_ms", "seen_at", "fence", "life"])
async def test_a_pool_that_lacks_a_number_is_cold(line: LineOfPool, name: str) -> None:
    await line.acquire("a")
    await line.client.hdel(line.key("meta"), name)
    before = await line.dump()
    with pytest.raises(NotDone, match="cold"):
        await line.tick()
    assert await line.dump() == before


async def test_a_dead_slot_without_an_entry_is_freed_and_nothing_is_said_of_it(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.client.hdel(line.key("jobs"), "a")
    line.clock.turn(600_000)
    await line.tick()
    assert await line.holders() == set()
    assert await line.notes() == []


async def test_a_waiter_that_was_put_into_a_slot_by_hand_has_no_fence_to_speak_of(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a")
    await line.acquire("b")
    await line.client.zadd(line.key("slots"), {"b": line.clock.now + 1})
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"a"}
    assert await line.notes() == []


async def test_a_holder_that_was_put_into_the_queue_by_hand_is_not_granted_again(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2)
    for job in "abc":
        await line.acquire(job)
    lease = await line.lease_of("a")
    await line.client.lpush(line.key("queue"), "a")
    await line.release("b", await line.lease_of("b"))
    assert await line.holders() == {"a", "c"}
    assert await line.lease_of("a") == lease
    assert await line.queue() == []


async def test_a_holder_in_the_queue_does_not_end_because_its_wait_is_over(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a", lease_ms=3_000_000)
    await line.client.rpush(line.key("queue"), "a")
    line.clock.turn(600_000)
    await line.tick()
    assert (await line.holders(), await line.queue(), await line.notes()) == ({"a"}, [], [])
    assert (await line.renew("a", await line.lease_of("a"))).result == "renewed"


async def test_a_waiter_without_an_entry_leaves_though_no_slot_comes_free(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    await line.acquire("a")
    await line.acquire("b")
    await line.client.hdel(line.key("jobs"), "a")
    await line.tick()
    assert await line.queue() == ["b"]
    assert await line.notes() == []


async def test_a_head_without_an_entry_wants_a_tick_at_once(line: LineOfPool) -> None:
    """Undo reaps and promotes nothing, so it sees what is there."""
    await line.load(epoch=2, limit=1)
    await line.acquire("a")
    await line.acquire("b")
    await line.client.hdel(line.key("jobs"), "b")
    assert (await line.undo("nobody", 1)).next_ms == line.clock.now


async def test_behind_a_tail_without_an_entry_there_is_room(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for job in "abcd":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "d")
    last = {"ticket": str((2 << 32) + 9), "queued_at": line.clock.now, "lease_ms": 1_000}
    await line.requeue("z", 1, "lost", last)
    assert await line.queue() == ["b", "c", "d", "z"]


async def test_a_waiter_without_an_entry_blocks_no_place(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for job in "abcde":
        await line.acquire(job)
    third = await line.entry("c")
    await line.cancel("c")
    await line.client.hdel(line.key("jobs"), "d")
    await line.requeue("c", 1, "lost", third)
    assert await line.queue() == ["b", "d", "c", "e"]


async def test_what_may_not_be_asked_is_no_damage(line: LineOfPool) -> None:
    """Else the pool would be rebuilt, and be no better for it."""
    await line.acquire("a")
    if line.fake:
        pytest.skip("fakeredis has no ACL")
    await line.client.execute_command("ACL", "SETUSER", "default", "-xlen")
    try:
        with pytest.raises(StoreDown):
            await line.tick()
    finally:
        await line.client.execute_command("ACL", "SETUSER", "default", "+@all")
