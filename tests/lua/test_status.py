import pytest

from tests.support import LineOfPool

pytestmark = pytest.mark.anyio


async def test_counts_holders_and_queue_are_of_one_moment(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job)
    line.clock.turn(1_000)
    await line.release("a", await line.lease_of("a"))
    status = await line.status("f", most=2)
    assert (status.limit, status.running, status.granted, status.queued, status.free) == (3, 2, 1, 2, 0)
    assert (status.holders, status.queue, status.position) == (("d", "b"), ("e", "f"), 2)
    assert status.oldest == line.clock.now - 1_000
    assert (status.paused, status.cooling_until, status.reason) == (False, None, "pool_full")


async def test_nobody_in_particular_has_no_position(line: LineOfPool) -> None:
    assert (await line.status()).position is None
    assert (await line.status("a")).position is None


async def test_it_reaps_first(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.status()).free == 3


async def test_nobody_is_named_who_was_not_asked_for(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    status = await line.status("d", most=0)
    assert (status.holders, status.queue, status.position) == ((), (), 1)
    assert (status.running, status.queued) == (3, 1)


async def test_the_oldest_is_the_one_that_was_granted_first(line: LineOfPool) -> None:
    await line.acquire("a", lease_ms=500_000)
    line.clock.turn(1_000)
    await line.acquire("b", lease_ms=100_000)
    assert (await line.status()).oldest == line.clock.now - 1_000
    await line.release("a", await line.lease_of("a"))
    assert (await line.status()).oldest == line.clock.now


async def test_a_slot_without_an_entry_is_counted_and_tells_nothing(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "a")
    await line.client.zadd(line.key("slots"), {"d": line.clock.now + 600_000})  # by hand: it has no grant
    status = await line.status()
    assert (status.running, status.granted, status.oldest) == (4, 0, line.clock.now)


async def test_an_empty_pool_has_no_oldest(line: LineOfPool) -> None:
    status = await line.status()
    assert (status.oldest, status.holders, status.queue, status.next_ms) == (None, (), (), None)
