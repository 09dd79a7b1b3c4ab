import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_higher_limit_counts_at_once(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    assert (await line.configure(limit=5)).result == "configured"
    assert (await line.status()).free == 0 and await line.queue() == []


async def test_a_lower_limit_drains_and_ends_no_job(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.configure(limit=1)
    assert await line.holders() == {"a", "b", "c"}
    for job in "ab":
        await line.release(job, await line.lease_of(job))
    assert await line.queue() == ["d"]
    await line.release("c", await line.lease_of("c"))
    assert await line.holders() == {"d"}


async def test_pause_and_resume(line: LineOfPool) -> None:
    await line.configure(paused=1)
    await line.acquire("a")
    assert (await line.status()).reason == "paused"
    await line.configure(paused=0)
    assert await line.holders() == {"a"}


async def test_what_the_new_settings_allow_happens_before_it_returns(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    assert (await line.configure(limit=5)).emitted == 2
    assert await line.client.hget(line.key("meta"), "limit") == b"5"


async def test_it_reaps_like_every_call(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.configure(limit=5)).emitted == 1


async def test_a_longer_hold_reaches_who_holds_a_slot(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    hard = (await line.entry("a"))["hard"]
    await line.configure(max_hold_ms=7_200_000)
    assert [(await line.entry(job))["hard"] for job in "abc"] == [hard + 3_600_000] * 3
    assert "hard" not in await line.entry("d")
    line.clock.turn(300_000)
    renewed = await line.renew("a", await line.lease_of("a"), lease_ms=7_000_000)
    assert (renewed.due, renewed.hard) == (hard + 3_600_000, hard + 3_600_000)


async def test_a_shorter_hold_takes_nothing_from_who_holds_a_slot(line: LineOfPool) -> None:
    await line.acquire("a")
    before = await line.entry("a")
    await line.configure(max_hold_ms=1_000)
    assert await line.entry("a") == before
    await line.configure(max_hold_ms=2_000)
    assert await line.entry("a") == before, "longer than it was, and shorter than it was told"


async def refused(line: LineOfPool, times: int = 1, at_least_ms: int = 0) -> None:
    """One job that its provider has refused so often. The pool cools down since the last time."""
    await line.acquire("refused")
    for n in range(times):
        if n:
            line.clock.turn(60_000)
            await line.tick()
        await line.requeue("refused", int((await line.entry("refused"))["fence"]), at_least_ms=at_least_ms)


async def test_a_shorter_cool_down_reaches_the_one_under_way(line: LineOfPool) -> None:
    await line.load(epoch=2, cooldown_ms=50_000, queue_ms=100_000)
    await refused(line)
    line.clock.turn(20_000)
    assert (await line.configure(cooldown_ms=1_000)).next_ms == line.clock.now + 1_000
    line.clock.turn(999)
    await line.tick()
    assert await line.queue() == ["refused"]
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"refused"}
    assert (await line.status()).stood_ms == 21_000, "so long it has stood still, and no longer"


async def test_a_shorter_cool_down_doubles_as_the_one_under_way_did(line: LineOfPool) -> None:
    await line.load(epoch=2, cooldown_ms=20_000)
    await refused(line, times=3)
    assert (await line.status()).cooling_until == line.clock.now + 60_000
    await line.configure(cooldown_ms=2_000)
    assert (await line.status()).cooling_until == line.clock.now + 8_000


async def test_a_longer_cool_down_counts_from_the_next_refusal(line: LineOfPool) -> None:
    await refused(line)
    until = (await line.status()).cooling_until
    line.clock.turn(1_000)
    await line.configure(cooldown_ms=50_000)
    await line.configure(cooldown_ms=40_000)
    assert (await line.status()).cooling_until == until


async def test_no_setting_cuts_the_pause_that_a_tool_asked_for(line: LineOfPool) -> None:
    await line.load(epoch=2, cooldown_ms=50_000)
    await refused(line, at_least_ms=30_000)
    asked = line.clock.now + 30_000
    await line.configure(cooldown_ms=10)
    assert (await line.status()).cooling_until == asked
    line.clock.turn(30_000)
    await line.configure(cooldown_ms=50_000)
    await line.requeue("refused", int((await line.entry("refused"))["fence"]))
    await line.configure(cooldown_ms=10)
    assert (await line.status()).cooling_until == line.clock.now + 20, "that pause is over"


async def test_a_grant_that_sql_did_not_take_waits_its_second_whatever_the_settings(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.requeue("a", int((await line.entry("a"))["fence"]), "not_taken")
    await line.configure(cooldown_ms=10)
    assert (await line.status()).cooling_until == line.clock.now + 1_000
