import pytest

from gate.slots import NotDone
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio
WAITER = {"ticket": "7", "queued_at": 1_700_000_000_000, "lease_ms": 5_000, "user": "ana"}


def holder(line: LineOfPool, due: int) -> dict[str, object]:
    now = line.clock.now
    return WAITER | {"lease_id": "x" * 32, "fence": "9", "claimed": True, "granted_at": now, "due": due, "hard": due}


async def test_leases_deadlines_and_order_come_back(line: LineOfPool) -> None:
    due = line.clock.now + 1_000
    there = await line.load(epoch=2, leases=[("a", holder(line, due))], waiters=[("b", WAITER), ("c", WAITER)], limit=1)
    assert (there.result, there.epoch) == ("loaded", 2)
    assert (await line.tick()).next_ms == due
    assert await line.queue() == ["b", "c"]
    assert (await line.renew("a", "x" * 32)).result == "renewed"


async def test_it_refuses_unless_its_epoch_is_above(line: LineOfPool) -> None:
    await line.load(epoch=3)
    await line.acquire("a")
    before = await line.dump()
    for epoch in (1, 2):
        refused = await line.load(epoch=epoch)
        assert (refused.result, refused.epoch) == ("refused", 3)
    assert await line.dump() == before


async def test_a_load_whose_reply_was_lost_changes_nothing_when_it_comes_again(line: LineOfPool) -> None:
    await line.acquire("a")
    before = await line.dump()
    assert (await line.load(epoch=1)).result == "loaded"
    assert await line.dump() == before


async def test_a_living_gate_with_another_ledger_keeps_its_pool(line: LineOfPool) -> None:
    await line.acquire("a")
    before = await line.dump()
    line.semaphore.belongs(line.pool, "another")
    with pytest.raises(NotDone, match="cold"):
        await line.acquire("b")
    assert (await line.load(epoch=2)).result == "foreign"
    assert await line.dump() == before
    line.clock.turn(11_000)
    assert (await line.load(epoch=2)).result == "loaded"
    assert await line.holders() == set()


async def test_fences_and_tickets_start_above_those_of_every_earlier_life(line: LineOfPool) -> None:
    first = await line.acquire("a")
    await line.load(epoch=2)
    second = await line.acquire("b")
    assert first.lease is not None and second.lease is not None
    assert first.lease.fence >> 32 == 1 and second.lease.fence >> 32 == 2
    assert second.ticket > first.ticket


async def test_tickets_of_a_late_epoch_lose_no_digit(line: LineOfPool) -> None:
    epoch = 1_000_000
    await line.load(epoch=epoch, limit=1)
    got = [await line.acquire(job) for job in "abc"]
    assert [one.ticket - (epoch << 32) for one in got] == [1, 2, 3]
    assert got[0].lease is not None and got[0].lease.fence == (epoch << 32) + 1


async def test_deadlines_that_passed_meanwhile_have_the_claim_time_of_grace(line: LineOfPool) -> None:
    await line.load(epoch=2, leases=[("a", holder(line, line.clock.now - 1))], waiters=[("b", WAITER)], limit=1)
    line.clock.turn(59_999)
    await line.tick()
    assert await line.holders() == {"a"}
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"b"}


async def test_waiters_of_before_the_absence_have_grace_and_newcomers_do_not(line: LineOfPool) -> None:
    waited = WAITER | {"queued_at": line.clock.now - 700_000}
    await line.load(epoch=2, waiters=[("old", waited)], limit=0, queue_ms=5_000, claim_ms=4_000)
    await line.configure(queue_ms=1_000)
    await line.acquire("new")
    assert await line.queue() == ["old", "new"]
    line.clock.turn(1_000)
    await line.tick()
    assert await line.queue() == ["old"], "a newcomer does not inherit the grace of the head"
    line.clock.turn(2_999)
    await line.tick()
    assert await line.queue() == ["old"]
    line.clock.turn(1)
    await line.tick()
    assert await line.queue() == []


async def test_what_stood_there_before_is_gone(line: LineOfPool) -> None:
    await line.acquire("a", user="ana")
    line.clock.turn(600_000)
    await line.tick()
    await line.client.delete(line.key("queue"))
    await line.client.set(line.key("queue"), "of another type")
    await line.load(epoch=2)
    left = await line.dump()
    assert not (left["slots"] or left["queue"] or left["jobs"] or left["outbox"] or left["users"])


async def test_a_waiter_that_came_when_the_pool_was_there_has_no_grace(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0, queue_ms=1_000, claim_ms=60_000)
    await line.acquire("a")
    line.clock.turn(1_000)
    await line.tick()
    assert await line.queue() == []


async def test_one_script_looks_at_a_hundred_waiters_with_grace(line: LineOfPool) -> None:
    old = [(f"old{number}", WAITER | {"queued_at": line.clock.now - 700_000}) for number in range(100)]
    await line.load(epoch=2, waiters=old, limit=0, queue_ms=1_000, claim_ms=60_000)
    await line.acquire("new")
    line.clock.turn(1_000)
    await line.tick()
    assert (await line.status("new")).position == 101
    await line.cancel("old0")
    assert (await line.status("new")).position is None, "no grace of its own"


async def test_of_two_ledgers_that_call_alike_the_one_that_is_there_keeps_its_epoch(line: LineOfPool) -> None:
    await line.acquire("a")
    line.semaphore.belongs(line.pool, "another")
    line.clock.turn(9_999)
    assert (await line.load(epoch=2)).result == "foreign"
    line.clock.turn(1)
    before = await line.dump()
    assert (await line.load(epoch=1)).result == "refused"
    assert await line.dump() == before


async def test_the_caller_is_told_whose_deadline_is_a_new_one(line: LineOfPool) -> None:
    now = line.clock.now
    leases = [(job, holder(line, due)) for job, due in (("a", now - 9), ("b", now), ("c", now + 1))]
    assert (await line.load(epoch=2, leases=leases)).graced == {"a": now + 60_000, "b": now + 60_000}
    assert [int(await line.client.zscore(line.key("slots"), job)) for job in "abc"] == [now + 60_000, now + 60_000, now + 1]
    assert (await line.entry("a"))["due"] == now + 60_000


async def test_the_cap_counts_loaded_jobs(line: LineOfPool) -> None:
    lease = ("a", holder(line, line.clock.now + 1_000))
    await line.load(epoch=2, leases=[lease], waiters=[("b", WAITER)], limit=1, max_active_per_user=2)
    assert (await line.acquire("c", user="ana")).active == ("a", "b")


async def test_whatever_stands_there_instead_of_the_pool_it_is_loaded(line: LineOfPool) -> None:
    await line.sweep_up()
    await line.client.set(line.key("meta"), "of another type")
    assert (await line.load(epoch=2)).result == "loaded"
    await line.sweep_up()
    await line.client.hset(line.key("meta"), mapping={"ledger": "of nobody who ever called", "limit": "9"})
    assert (await line.load(epoch=2)).result == "loaded"
    assert (await line.status()).limit == 3


async def test_the_cool_down_of_an_earlier_life_is_over(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    await line.load(epoch=2)
    assert (await line.status()).cooling_until is None
