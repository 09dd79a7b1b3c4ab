import pytest

from tests.support import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_waiter_leaves_from_the_middle(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job, user="ana")
    assert (await line.cancel("e")).word == "left_queue"
    assert await line.queue() == ["d", "f"]
    assert (await line.status("f")).position == 2


async def test_a_holder_leaves_and_the_next_has_its_slot(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    assert (await line.cancel("a")).word == "left_slot"
    assert await line.holders() == {"b", "c", "d"}


async def test_nothing_is_left_of_it(line: LineOfPool) -> None:
    await line.acquire("a", user="ana")
    await line.cancel("a")
    left = await line.dump()
    assert not (left["slots"] or left["queue"] or left["jobs"] or left["users"])


async def test_who_is_not_there_is_absent(line: LineOfPool) -> None:
    before = await line.dump()
    assert (await line.cancel("a")).word == "absent"
    assert await line.dump() == before
