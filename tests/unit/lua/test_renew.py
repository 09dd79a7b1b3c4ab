import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_renewal_extends_from_now(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(500_000)
    renewed = await line.renew("a", await line.lease_of("a"))
    assert (renewed.result, renewed.due) == ("renewed", line.clock.now + 600_000)


async def test_no_renewal_goes_beyond_the_hard_limit(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    for _ in range(10):
        line.clock.turn(500_000)
        renewed = await line.renew("a", got.lease.lease_id)
        if renewed.result == "lost":
            break
        assert renewed.due <= got.lease.hard
    assert line.clock.now >= got.lease.hard
    assert renewed.result == "lost"


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
    assert (await line.renew("a", lease)).result == "lost"
    assert await line.holders() == set()


async def test_a_member_taken_out_by_hand_is_not_put_back(line: LineOfPool) -> None:
    await line.acquire("a")
    lease = await line.lease_of("a")
    await line.client.zrem(line.key("slots"), "a")
    assert (await line.renew("a", lease)).result == "lost"
    assert await line.holders() == set()


async def test_what_gate_starts_is_not_renewed_before_gate_has_claimed_it(line: LineOfPool) -> None:
    await line.acquire("a", by_gate=True)
    lease = await line.lease_of("a")
    before = await line.dump()
    assert (await line.renew("a", lease)).result == "by_gate"
    assert await line.dump() == before
    await line.claim("a", lease, by_gate=True)
    assert (await line.renew("a", lease)).result == "renewed"


async def test_what_it_says_is_what_stands_there(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    line.clock.turn(1_000)
    renewed = await line.renew("a", got.lease.lease_id, lease_ms=700_000)
    assert (renewed.fence, renewed.due) == (got.lease.fence, line.clock.now + 700_000)
    assert (await line.entry("a"))["due"] == renewed.due
    assert await line.client.zscore(line.key("slots"), "a") == renewed.due


async def test_it_reaps_like_every_call(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.renew("b", "0" * 32)).result == "lost"
    assert [note[:2] for note in await line.notes()] == [("expired", "a")]
