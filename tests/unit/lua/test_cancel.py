import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_waiter_leaves_from_the_middle(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job, user="ana")
    assert (await line.cancel("e")).result == "left_queue"
    assert await line.queue() == ["d", "f"]
    assert (await line.status("f")).position == 2


async def test_a_holder_leaves_and_the_next_has_its_slot(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    assert (await line.cancel("a")).result == "left_slot"
    assert await line.holders() == {"b", "c", "d"}


async def test_nothing_is_left_of_it(line: LineOfPool) -> None:
    await line.acquire("a", user="ana")
    await line.cancel("a")
    left = await line.dump()
    assert not (left["slots"] or left["queue"] or left["jobs"] or left["users"])


async def test_several_leave_by_one_script_and_others_get_their_slots(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job, user="ana")
    assert (await line.cancel("d", "a", "f", "nobody")).result == "left_queue", "the word is about the first"
    assert await line.holders() == {"b", "c", "e"} and await line.queue() == []
    assert sorted((await line.dump())["jobs"]) == [b"b", b"c", b"e"]


async def test_an_unknown_job_is_absent(line: LineOfPool) -> None:
    before = await line.dump()
    assert (await line.cancel("a")).result == "absent"
    assert await line.dump() == before


async def test_an_end_by_cancel_lifts_the_cool_down(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.acquire("b")
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    await line.cancel("b")
    assert await line.holders() == {"a"}


async def test_by_its_ticket_only_that_place_is_left(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    holder, waiter = await line.acquire("a"), await line.acquire("b", user="ana")
    before = await line.dump()
    assert (await line.cancel("a", ticket=holder.ticket)).result == "absent", "a slot is never meant"
    assert (await line.cancel("b", ticket=waiter.ticket - 1)).result == "absent", "it has come again since"
    assert await line.dump() == before
    assert (await line.cancel("b", ticket=waiter.ticket)).result == "left_queue"
    assert (await line.cancel("b", ticket=waiter.ticket)).result == "absent"


async def test_by_its_ticket_a_place_without_an_entry_is_left_too(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "e")
    assert (await line.cancel("e", ticket=1)).result == "left_queue"
    assert await line.queue() == ["d"]


async def test_it_reaps_like_every_call(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.cancel("a")).result == "absent"
    assert [note[:2] for note in await line.notes()] == [("expired", "a")]
