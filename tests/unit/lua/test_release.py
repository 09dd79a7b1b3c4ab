import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_the_next_waiter_has_the_slot_before_it_returns(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    reply = await line.release("b", await line.lease_of("b"))
    assert (reply.result, reply.emitted) == ("released", 1)
    assert await line.holders() == {"a", "c", "d"}
    assert await line.queue() == ["e"]
    [(kind, job, fence)] = await line.notes()
    assert (kind, job, str(fence)) == ("granted", "d", (await line.entry("d"))["fence"])


async def test_a_stale_release_does_not_free_the_next_holder(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a")
    old = await line.lease_of("a")
    fence = int((await line.entry("a"))["fence"])
    await line.requeue("a", fence, "not_taken")
    line.clock.turn(1_000)
    await line.tick()
    assert await line.holders() == {"a"}, "the same job, under a newer lease"
    before = await line.dump()
    assert (await line.release("a", old)).result == "stale"
    assert await line.dump() == before


async def test_a_second_release_is_stale(line: LineOfPool) -> None:
    await line.acquire("a")
    lease = await line.lease_of("a")
    assert (await line.release("a", lease)).result == "released"
    assert (await line.release("a", lease)).result == "stale"


async def test_nothing_is_left_of_a_released_job(line: LineOfPool) -> None:
    await line.acquire("a", user="ana")
    await line.release("a", await line.lease_of("a"))
    left = await line.dump()
    assert not (left["slots"] or left["jobs"] or left["users"] or left["outbox"])


async def test_an_end_lifts_the_cool_down(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job)
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    assert (await line.status()).cooling_until == line.clock.now + 5_000
    await line.release("b", await line.lease_of("b"))
    status = await line.status()
    assert status.cooling_until is None
    assert "a" in status.holders


async def test_an_end_lifts_the_wait_after_a_grant_that_was_not_taken(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.acquire("b")
    await line.requeue("a", int((await line.entry("a"))["fence"]), "not_taken")
    await line.release("b", await line.lease_of("b"))
    assert await line.holders() == {"a"}


async def test_after_an_end_the_cool_down_begins_anew(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.acquire("b")
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    await line.release("b", await line.lease_of("b"))
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    assert (await line.status()).cooling_until == line.clock.now + 5_000, "not ten seconds"


async def test_a_stale_release_reaps_and_promotes_like_every_call(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    line.clock.turn(600_000)
    assert (await line.release("a", "0" * 32)).result == "stale"
    assert await line.client.zrange(line.key("slots"), 0, -1) == [b"d"]


async def test_no_slot_is_granted_without_a_lease_id_of_its_own(line: LineOfPool) -> None:
    """A call carries the names of eight leases; there is room for twenty."""
    await line.load(epoch=2, limit=0)
    for number in range(20):
        await line.acquire(f"j{number}")
    await line.client.hset(line.key("meta"), "limit", 20)
    reply = await line.release("nobody", "")
    assert (reply.emitted, reply.more) == (8, True)
    leases = [note.lease for note in await line.semaphore.notes(line.pool)]
    assert [len(lease.lease_id) for lease in leases if lease] == [32] * 8
    assert len({lease.lease_id for lease in leases if lease}) == 8
