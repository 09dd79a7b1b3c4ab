import re

import pytest

from gate.slots import scripts
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def story(line: LineOfPool, *tags: str) -> str:
    asked = tags or (f"{{{line.pool}}}",)
    lines = await line.client.eval(scripts.source("inspect"), len(asked), *asked)
    return "\n".join(text.decode() for text in lines)


async def by_the_servers_clock(line: LineOfPool) -> None:
    line.clock.now = await line.semaphore.now_ms()


async def test_it_tells_the_story_in_words(line: LineOfPool) -> None:
    line.clock.now = int((await line.client.time())[0]) * 1000 - 65_000
    for job in "abcd":
        await line.acquire(job, user=f"user-{job}", tool="upscaler")
    told = await story(line)
    assert f"pool {{{line.pool}}}: 3 of 3 slots held, 1 waiting" in told
    assert "draining" not in told
    assert re.search(r"1\. a  tool upscaler, user user-a, running, held for 1m 0\ds, 8m 5\ds left", told)
    assert re.search(r"1\. d  tool upscaler, user user-d, waits for 1m 0\ds", told)


async def test_an_overdue_slot_is_marked_and_left_alone(line: LineOfPool) -> None:
    await line.acquire("a")  # long ago, by the server's own clock
    before = await line.dump()
    assert "OVERDUE by" in await story(line)
    assert await line.dump() == before


async def test_it_survives_what_others_put_there(line: LineOfPool) -> None:
    await line.client.zadd(line.key("slots"), {"x": 1})
    await line.client.hset(line.key("jobs"), "x", "no json")
    assert "NO ENTRY" in await story(line)


async def test_an_unknown_pool(line: LineOfPool) -> None:
    await line.sweep_up()
    assert "nothing is here" in await story(line)


async def test_an_empty_pool_has_four_lines(line: LineOfPool) -> None:
    assert (await story(line)).splitlines() == [
        f"pool {{{line.pool}}}: 0 of 3 slots held, 0 waiting", "slots", "  none held", "queue", "  no job waits", "outbox: 0 not in SQL yet",
    ]  # fmt: skip


async def test_the_whole_of_a_busy_pool(line: LineOfPool) -> None:
    """A minute's room in each number: it is told in hours."""
    await by_the_servers_clock(line)
    line.clock.turn(-2 * 3_600_000 - 30_000)
    await line.load(epoch=2, limit=2, queue_ms=36_000_000, claim_ms=36_000_000, max_hold_ms=36_000_000)
    await line.acquire("a", "ana", "Upscaler", 3_600_000)
    await line.acquire("b", lease_ms=14_400_000)
    await line.client.hdel(line.key("jobs"), "b")
    await line.acquire("c", "carla")
    await line.acquire("d")
    await line.client.hset(line.key("meta"), "limit", 3)
    await line.tick()
    await line.client.hset(line.key("meta"), mapping={"limit": 1, "paused": 1, "cooling_until": line.clock.now + 14_400_000})
    assert (await story(line)).splitlines() == [
        f"pool {{{line.pool}}}: 3 of 1 slots held, 1 waiting",
        "  draining: the limit was lowered below what runs",
        "  PAUSED: no slot is granted",
        "  cooling down for 1h 59m: the provider refused",
        "slots",
        "  1. a  tool Upscaler, user ana, running, held for 2h 00m, OVERDUE by 1h 00m",
        "  2. b  (NO ENTRY in jobs), granted, not claimed, held, 1h 59m left",
        "  3. c  tool -, user carla, granted, not claimed, held for 2h 00m, 7h 59m left",
        "queue",
        "  1. d  tool -, user -, waits for 2h 00m",
        "outbox: 1 not in SQL yet",
    ]


async def test_of_a_long_queue_the_first_hundred_are_named(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    for number in range(100):
        await line.acquire(f"j{number}")
    told = await story(line)
    assert "  100. j99  " in told and "more" not in told and "no job waits" not in told
    await line.acquire("j100")
    assert (await story(line)).splitlines()[-2:] == ["  and 1 more", "outbox: 0 not in SQL yet"]


@pytest.mark.parametrize(
    "ms, told",
    [(0, "0s"), (59_000, "59s"), (60_000, "1m 00s"), (61_000, "1m 01s"), (3_599_000, "59m 59s"), (3_600_000, "1h 00m"), (7_320_000, "2h 02m")],
)  # fmt: skip
async def test_times_are_told_for_people(line: LineOfPool, ms: int, told: str) -> None:
    await line.load(epoch=2, limit=0)
    for _ in range(50):  # until the two looks at the clock fall into one second
        await by_the_servers_clock(line)
        line.clock.turn(-ms)
        await line.acquire("a")
        lines = await story(line)
        if await line.semaphore.now_ms() < line.clock.now + ms + 900:
            break
        await line.cancel("a")
    assert f"waits for {told}" in lines


async def test_a_name_without_braces_is_a_pool_too_and_none_is_asked_for(line: LineOfPool) -> None:
    assert await story(line, line.pool) == await story(line)
    [asked] = await line.client.eval(scripts.source("inspect"), 0)
    assert b"say which pool" in asked


async def test_what_is_no_number_is_told_as_such(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.client.hset(line.key("jobs"), "a", '{"claimed": true, "granted_at": "x"}')
    await line.client.rpush(line.key("queue"), "b", "c", "d")
    await line.client.hset(line.key("jobs"), mapping={"b": "7", "c": '{"queued_at": "x"}'})
    await line.client.hset(line.key("meta"), mapping={"limit": "x", "cooling_until": "x"})
    told = (await story(line)).splitlines()
    assert told[:2] == [
        f"pool {{{line.pool}}}: 1 of x slots held, 3 waiting",
        "  draining: the limit was lowered below what runs",
    ]
    assert told[3].startswith("  1. a  tool -, user -, running, held, OVERDUE by ")
    assert told[5:8] == [
        "  1. b  (NO ENTRY in jobs), waits for ?", "  2. c  tool -, user -, waits for ?", "  3. d  (NO ENTRY in jobs), waits for ?",
    ]  # fmt: skip


@pytest.mark.parametrize(("ahead_ms", "says"), [(600_000, "10m 00s ahead of the pool"), (-5_000, "5s behind the pool")])
async def test_after_a_step_of_the_clock_it_tells_the_time_of_the_pool(line: LineOfPool, ahead_ms: int, says: str) -> None:
    await by_the_servers_clock(line)
    line.clock.turn(-ahead_ms)
    await line.load(epoch=2, ahead_ms=ahead_ms)
    await line.acquire("a")
    told = await story(line)
    assert f"  the clock of Redis stepped: it is {says}" in told
    assert re.search(r"held for \ds, (9m 5\ds|10m 00s) left", told)
