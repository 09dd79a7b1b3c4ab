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
