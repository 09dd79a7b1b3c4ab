import re

import pytest

from gate.slots import scripts
from tests.support import LineOfPool

pytestmark = pytest.mark.anyio


async def story(line: LineOfPool) -> str:
    lines = await line.client.eval(scripts.source("inspect"), 1, f"{{{line.pool}}}")
    return "\n".join(text.decode() for text in lines)


async def test_it_tells_the_story_in_words(line: LineOfPool) -> None:
    line.clock.now = int((await line.client.time())[0]) * 1000 - 65_000
    for job in "abcd":
        await line.acquire(job, user=f"user-{job}", tool="upscaler")
    told = await story(line)
    assert f"pool {{{line.pool}}}: 3 of 3 slots held, 1 waiting" in told
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
