"""The pool's clock: what the scripts make of a step of the server's. A step is played by moving the pool's clock the other way."""

from typing import Any

import pytest

from gate.slots import NotDone, Semaphore, Stepped
from gate.slots.pool_clock import elapsed_s
from gate.slots.results import ShiftResult
from tests.support.script_lane import LineOfPool, Pinned

pytestmark = pytest.mark.anyio
STEP_MS = 600_000


async def meta(line: LineOfPool, name: str) -> int:
    return int(await line.client.hget(line.key("meta"), name) or 0)


async def step(line: LineOfPool, ms: int) -> None:
    """To the scripts it is the same whether their clock goes ahead, or the pool's goes back."""
    await line.client.hset(line.key("meta"), "ahead_ms", await meta(line, "ahead_ms") - ms)


async def by_the_servers_clock(line: LineOfPool, **settings: int) -> None:
    """The pool loaded anew, by a gate that turns no clock, and knows it by a first reply."""
    line.semaphore = newcomer(line)
    await line.load(epoch=2, **settings)
    await line.tick()


def newcomer(line: LineOfPool) -> Semaphore:
    return Semaphore(Pinned(line.client))


async def met(line: LineOfPool) -> Stepped:
    """What a script says of the step; nothing was changed by it."""
    before = await line.dump()
    with pytest.raises(NotDone) as undone:
        await line.tick()
    assert await line.dump() == before
    assert undone.value.stepped is not None
    return undone.value.stepped


async def shift(line: LineOfPool, ms: int, ahead_ms: int) -> Any:
    return await line.semaphore.shift(line.pool, line.epoch, ms, ahead_ms)


@pytest.mark.parametrize("ms", [STEP_MS, -STEP_MS])
async def test_no_verb_runs_by_a_clock_that_stepped(line: LineOfPool, ms: int) -> None:
    await by_the_servers_clock(line)
    await line.acquire("a")
    await step(line, ms)
    found = await met(line)
    expected = line.semaphore.clock_of(line.pool).step_ms(found)
    assert expected == pytest.approx(ms, abs=500)
    reply = await shift(line, ms, found.ahead_ms)
    assert (reply.result, reply.ahead_ms, await meta(line, "ahead_ms")) == (ShiftResult.SHIFTED, 0, 0)
    assert await line.holders() == {"a"}
    assert await line.notes() == []


async def test_a_step_counts_once(line: LineOfPool) -> None:
    await by_the_servers_clock(line)
    await step(line, STEP_MS)
    found = await met(line)
    assert (await shift(line, STEP_MS, found.ahead_ms)).result is ShiftResult.SHIFTED
    again = await shift(line, STEP_MS, found.ahead_ms)
    assert (again.result, again.ahead_ms) == (ShiftResult.MOVED, 0)
    assert await meta(line, "ahead_ms") == 0


async def test_a_shift_answers_by_the_clock_as_it_is_after_it(line: LineOfPool) -> None:
    await by_the_servers_clock(line)
    before = (await line.tick()).now_ms
    await step(line, STEP_MS)
    reply = await shift(line, STEP_MS, -STEP_MS)
    assert reply.now_ms == pytest.approx(before, abs=500)


@pytest.mark.parametrize("ms", [4_000, -4_000])
async def test_what_a_pause_or_a_slewed_clock_explains_is_no_step(line: LineOfPool, ms: int) -> None:
    await by_the_servers_clock(line)
    await line.acquire("a")
    await step(line, ms)
    assert (await line.tick()).now_ms > 0
    assert await meta(line, "ahead_ms") == pytest.approx(-ms, abs=50), "nothing but the slewing of a second"


async def test_an_absence_that_the_caller_expects_is_no_step(line: LineOfPool) -> None:
    await by_the_servers_clock(line)
    await line.client.hset(line.key("meta"), "seen_at", (await line.tick()).now_ms - 60_000)
    await line.tick()
    assert await meta(line, "loaded_at") == await meta(line, "seen_at"), "grace was given"


async def test_a_newcomer_does_nothing_in_a_gap(line: LineOfPool) -> None:
    """Its first call knows no time: it cannot say what the gap is."""
    await by_the_servers_clock(line)
    await line.acquire("a")
    await line.client.hset(line.key("meta"), "seen_at", (await line.tick()).now_ms - 60_000)
    line.semaphore = newcomer(line)
    await met(line)


async def test_in_an_empty_pool_a_newcomer_does_not_wait(line: LineOfPool) -> None:
    """It is ticked less than once a second, and no deadline is at stake."""
    await by_the_servers_clock(line)
    now = (await line.tick()).now_ms
    await line.client.hset(line.key("meta"), "seen_at", now - 60_000)
    line.semaphore = newcomer(line)
    assert (await line.tick()).now_ms >= now
    await line.client.hset(line.key("meta"), "seen_at", now + 60_000)
    line.semaphore = newcomer(line)
    await met(line)


async def test_a_newcomer_takes_the_clock_as_the_others_have_it(line: LineOfPool) -> None:
    await by_the_servers_clock(line)
    await line.acquire("a")
    line.semaphore = newcomer(line)
    assert (await line.tick()).next_ms is not None


async def test_a_process_whose_own_clock_is_wrong_moves_nothing(line: LineOfPool) -> None:
    """The machine of one server stood still. Others have called meanwhile, so the clock of Redis is right."""
    await by_the_servers_clock(line)
    own = line.semaphore.clock_of(line.pool)
    own.learn(0, 0, 1)
    reply = await line.tick()
    assert await meta(line, "ahead_ms") == 0
    assert own.expected_ms(elapsed_s()) == pytest.approx(reply.now_ms, abs=500), "it has learned the clock anew"


async def ahead(line: LineOfPool, ms: int, **settings: int) -> int:
    """The clock of the server is that far ahead of a pool that is empty, as after a step; the pool's time, in ms."""
    await by_the_servers_clock(line, **settings)
    now = await line.semaphore.now_ms() - ms
    await line.client.hset(line.key("meta"), mapping={"ahead_ms": ms, "seen_at": now, "loaded_at": now})
    line.semaphore = newcomer(line)
    return now


@pytest.mark.parametrize("ms", [STEP_MS, -STEP_MS])
async def test_the_clock_of_an_empty_pool_is_that_of_redis_again(line: LineOfPool, ms: int) -> None:
    await ahead(line, ms)
    await line.tick()
    assert await meta(line, "ahead_ms") == ms, "not before SQL has it so"
    reply = await line.tick(resets=True)
    assert await meta(line, "ahead_ms") == 0
    assert await meta(line, "seen_at") == reply.now_ms == pytest.approx(await line.semaphore.now_ms(), abs=500)
    assert await meta(line, "loaded_at") <= reply.now_ms


@pytest.mark.parametrize("ms", [STEP_MS, -STEP_MS])
async def test_after_a_reset_only_the_step_that_was_taken_back_is_known(line: LineOfPool, ms: int) -> None:
    await ahead(line, ms)
    await line.tick()
    await line.tick(resets=True)
    assert (await shift(line, ms - 4_000, 0)).result is ShiftResult.RESET
    assert await meta(line, "ahead_ms") == 0
    assert (await shift(line, -ms, 0)).result is ShiftResult.SHIFTED


@pytest.mark.parametrize("since_ms", [-1_000, 31_000])
async def test_a_further_step_as_long_as_the_one_before_the_reset_counts(line: LineOfPool, since_ms: int) -> None:
    await ahead(line, STEP_MS)
    await line.tick()
    reset_at = (await line.tick(resets=True)).now_ms
    await line.client.hset(line.key("meta"), "reset_at", reset_at - since_ms)
    assert (await shift(line, STEP_MS, 0)).result is ShiftResult.SHIFTED


@pytest.mark.parametrize("what", ["a lease", "a waiter", "an entry of the outbox", "a pause", "a cool-down"])
async def test_where_a_time_counts_the_clock_is_not_reset(line: LineOfPool, what: str) -> None:
    now = await ahead(line, -STEP_MS, limit=0 if what == "a waiter" else 3)
    if what in ("a lease", "a waiter"):
        await line.acquire("a")
    elif what == "an entry of the outbox":
        await line.client.xadd(line.key("outbox"), {"kind": "expired", "job": "a", "at": now, "ticket": 1, "fence": 1})
    elif what == "a pause":
        await line.client.hset(line.key("meta"), "paused", 1)
    else:
        await line.client.hset(line.key("meta"), "cooling_until", now - 1_000)  # over, and not by the clock of Redis
    await line.tick(resets=True)
    assert await meta(line, "ahead_ms") == -STEP_MS


@pytest.mark.parametrize("ms", [STEP_MS, -STEP_MS, 5])
async def test_after_a_step_the_clock_slews_back_by_a_hundredth(line: LineOfPool, ms: int) -> None:
    now = await ahead(line, ms)
    await line.acquire("a")
    await line.client.hset(line.key("meta"), "seen_at", now - 2_000)
    await line.tick()
    slewed = abs(ms) - abs(await meta(line, "ahead_ms"))
    assert slewed == 5 if ms == 5 else 20 <= slewed <= 22
    await line.tick()
    assert abs(ms) - abs(await meta(line, "ahead_ms")) == slewed, "once a second"


async def test_a_load_is_by_the_clock_of_the_pool(line: LineOfPool) -> None:
    await by_the_servers_clock(line)
    now = await line.semaphore.now_ms() - STEP_MS
    entry = {"ticket": "1", "queued_at": now, "lease_ms": 60_000, "lease_id": "0" * 32, "fence": "1", "claimed": True,
             "granted_at": now, "due": now + 1_000, "hard": now + 60_000}  # fmt: skip
    loaded = await line.load(epoch=3, leases=[("a", entry)], ahead_ms=STEP_MS)
    assert loaded.graced == {}
    assert await meta(line, "seen_at") == pytest.approx(now, abs=500)
    assert (await line.status()).now_ms == pytest.approx(now, abs=500)
