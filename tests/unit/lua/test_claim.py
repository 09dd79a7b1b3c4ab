import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def granted(line: LineOfPool) -> str:
    """Job d, promoted from the queue; its lease."""
    for job in "abcd":
        await line.acquire(job)
    await line.release("a", await line.lease_of("a"))
    return await line.lease_of("d")


async def test_a_claim_starts_a_full_lease(line: LineOfPool) -> None:
    lease = await granted(line)
    line.clock.turn(30_000)
    claimed = await line.claim("d", lease)
    assert (claimed.result, claimed.due) == ("claimed", line.clock.now + 600_000)
    assert (await line.entry("d"))["claimed"] is True
    status = await line.status()
    assert (status.running, status.granted) == (3, 0)


async def test_a_claim_is_told_its_own_deadline_and_not_that_of_the_grant(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job, lease_ms=5_000)
    await line.acquire("d", lease_ms=5_000)
    await line.release("a", (await line.entry("a"))["lease_id"])
    claimed = await line.claim("d", (await line.entry("d"))["lease_id"])
    assert claimed.due == line.clock.now + 5_000 == (await line.status()).next_ms


async def test_a_second_claim_changes_nothing(line: LineOfPool) -> None:
    lease = await granted(line)
    first = await line.claim("d", lease)
    line.clock.turn(1_000)
    before = await line.dump()
    assert (await line.claim("d", lease)).due == first.due
    assert await line.dump() == before


async def test_an_unclaimed_grant_runs_out_after_the_claim_time(line: LineOfPool) -> None:
    lease = await granted(line)
    line.clock.turn(60_000)
    assert (await line.claim("d", lease)).result == "lost"
    assert ("expired", "d") in [note[:2] for note in await line.notes()]


async def test_another_lease_claims_nothing(line: LineOfPool) -> None:
    await granted(line)
    before = await line.dump()
    for job, lease in (("d", "0" * 32), ("d", ""), ("nobody", "0" * 32)):
        assert (await line.claim(job, lease)).result == "lost"
    assert await line.dump() == before


async def test_a_waiter_has_no_lease_to_claim(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    assert (await line.claim("d", "")).result == "lost"
    assert await line.queue() == ["d"]


async def test_what_gate_starts_only_gate_claims(line: LineOfPool) -> None:
    await line.acquire("a", by_gate=True)
    lease = await line.lease_of("a")
    before = await line.dump()
    assert (await line.claim("a", lease)).result == "by_gate"
    assert await line.dump() == before
    assert (await line.claim("a", lease, by_gate=True)).result == "claimed"
    assert (await line.claim("a", lease)).result == "claimed", "it runs now, and the holder of its lease is told so"


async def test_a_claim_does_not_go_beyond_the_hard_limit(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0, max_hold_ms=90_000)
    await line.acquire("a")
    await line.configure(limit=1)
    lease = await line.lease_of("a")
    line.clock.turn(30_000)
    assert (await line.claim("a", lease)).due == line.clock.now + 60_000
    assert await line.client.zscore(line.key("slots"), "a") == line.clock.now + 60_000
