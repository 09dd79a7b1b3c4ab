import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_nothing_is_left_of_an_admission(line: LineOfPool) -> None:
    got = await line.acquire("a", user="ana")
    assert (await line.undo("a", got.ticket)).result == "undone"
    left = await line.dump()
    assert not (left["slots"] or left["queue"] or left["jobs"] or left["users"])


async def test_a_waiter_that_was_granted_meanwhile_leaves_no_word_in_the_outbox(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job)
    waiter = await line.acquire("d")
    await line.release("a", await line.lease_of("a"))
    assert [note[:2] for note in await line.notes()] == [("granted", "d")]
    assert (await line.undo("d", waiter.ticket)).result == "undone"
    assert await line.notes() == []
    assert (await line.acquire("d")).result == "running", "a fresh decision"


async def test_what_another_call_was_told_is_kept(line: LineOfPool) -> None:
    got = await line.acquire("a")
    await line.acquire("a")
    before = await line.dump()
    assert (await line.undo("a", got.ticket)).result == "kept"
    assert await line.dump() == before


async def test_a_later_admission_of_the_same_job_is_kept(line: LineOfPool) -> None:
    first = await line.acquire("a")
    await line.cancel("a")
    await line.acquire("a")
    assert (await line.undo("a", first.ticket)).result == "kept"
    assert await line.holders() == {"a"}


async def test_a_waiter_leaves_the_queue(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    got = await line.acquire("e", user="ana")
    assert (await line.undo("e", got.ticket)).result == "undone"
    assert await line.queue() == ["d"]
    assert await line.client.lpos(line.key("queue"), "e") is None


async def test_what_the_outbox_says_of_others_stays(line: LineOfPool) -> None:
    got = [await line.acquire(job) for job in "abcde"]
    await line.release("a", await line.lease_of("a"))
    await line.release("b", await line.lease_of("b"))
    assert (await line.undo("d", got[3].ticket)).result == "undone"
    assert [note[:2] for note in await line.notes()] == [("granted", "e")]


async def test_it_reaps_and_promotes_nothing(line: LineOfPool) -> None:
    """SQL is away when it runs, and could not hear of it."""
    for job in "abcd":
        await line.acquire(job)
    got = await line.acquire("e")
    line.clock.turn(600_000)
    await line.undo("e", got.ticket)
    assert await line.client.zrange(line.key("slots"), 0, -1) == [b"a", b"b", b"c"]
    assert await line.notes() == []
