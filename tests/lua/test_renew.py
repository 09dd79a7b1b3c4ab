import pytest

from tests.support import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_renewal_extends_from_now(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(500_000)
    renewed = await line.renew("a", await line.lease_of("a"))
    assert (renewed.word, renewed.due) == ("renewed", line.clock.now + 600_000)


async def test_no_renewal_goes_beyond_the_hard_limit(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    for _ in range(10):
        line.clock.turn(500_000)
        renewed = await line.renew("a", got.lease.lease_id)
        if renewed.word == "lost":
            break
        assert renewed.due <= got.lease.hard
    assert line.clock.now >= got.lease.hard
    assert renewed.word == "lost"


async def test_a_renewal_never_shortens(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    assert (await line.renew("a", got.lease.lease_id, lease_ms=500)).due == got.lease.due


async def test_a_renewal_claims_too(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.release("a", await line.lease_of("a"))
    assert (await line.renew("d", await line.lease_of("d"), lease_ms=1_000)).due == line.clock.now + 1_000
    assert (await line.status()).granted == 0


async def test_nothing_revives_the_dead(line: LineOfPool) -> None:
    await line.acquire("a")
    lease = await line.lease_of("a")
    line.clock.turn(600_000)
    assert (await line.renew("a", lease)).word == "lost"
    assert await line.holders() == set()


async def test_a_member_taken_out_by_hand_is_not_put_back(line: LineOfPool) -> None:
    await line.acquire("a")
    lease = await line.lease_of("a")
    await line.client.zrem(line.key("slots"), "a")
    assert (await line.renew("a", lease)).word == "lost"
    assert await line.holders() == set()
