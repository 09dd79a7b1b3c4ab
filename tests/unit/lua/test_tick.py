import pytest

from gate.slots.semaphore import ScriptReply
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_an_idle_pool_reaps_and_promotes(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job)
    line.clock.turn(599_999)
    await line.tick()
    assert await line.holders() == {"a", "b", "c"}, "a deadline is not over before it is"
    line.clock.turn(1)
    reply = await line.tick()
    assert reply.emitted == 6
    assert await line.holders() == {"d", "e", "f"}, "promoted before their own time in the queue was looked at"
    assert reply.next_ms == line.clock.now + 60_000


async def test_a_wait_that_is_too_long_ends(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job, lease_ms=3_000_000)
    await line.acquire("d")
    line.clock.turn(1)
    await line.acquire("e")
    line.clock.turn(599_999)
    await line.tick()
    assert await line.queue() == ["e"]
    assert await line.notes() == [("expired", "d", 0)]


async def test_one_script_ends_twenty_five_leases_and_says_that_there_is_more(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=100)
    for number in range(70):
        await line.acquire(f"j{number}")
    line.clock.turn(600_000)
    replies = [await line.tick() for _ in range(3)]
    assert [reply.emitted for reply in replies] == [25, 25, 20]
    assert [reply.more for reply in replies] == [True, True, False]


async def test_promotion_is_bounded_too(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    for number in range(150):
        await line.acquire(f"j{number}")
    await line.client.hset(line.key("meta"), "limit", 150)
    replies = [await line.tick() for _ in range(3)]
    assert [reply.more for reply in replies] == [True, False, False]
    assert sum(reply.emitted for reply in replies) == 150
    assert len({note[1] for note in await line.notes()}) == 150


async def test_a_queue_of_unknown_names_is_cleared_a_hundred_at_a_time(line: LineOfPool) -> None:
    await line.client.rpush(line.key("queue"), *(f"ghost{number}" for number in range(150)))
    replies = [await line.tick() for _ in range(2)]
    assert [reply.more for reply in replies] == [True, False]
    assert await line.queue() == []


async def test_it_says_when_to_come_again(line: LineOfPool) -> None:
    assert (await line.tick()).next_ms is None
    await line.acquire("a", lease_ms=5_000)
    assert (await line.tick()).next_ms == line.clock.now + 5_000
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    assert (await line.tick()).next_ms == line.clock.now + 5_000, "when the cool-down is over"


async def test_an_answer_carries_the_outbox_when_all_that_stands_there_is_its_own(line: LineOfPool) -> None:
    async def expired(job: str) -> ScriptReply:
        await line.acquire(job, lease_ms=5_000)
        line.clock.turn(5_000)
        return await line.tick()

    assert (await line.acquire("a")).outbox == ()
    first = await expired("b")
    assert [(note.kind, note.job_id) for note in first.outbox] == [("expired", "b")]
    assert (await line.tick()).outbox == (), "what another call put there is not carried twice"
    assert (await expired("c")).outbox == (), "older entries come first, so the recorder has to read them"


async def test_a_waiter_without_an_entry_is_no_waiter(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "d")
    await line.release("a", await line.lease_of("a"))
    assert await line.holders() == {"b", "c", "e"}
    assert await line.queue() == []


async def test_what_the_outbox_says_of_a_grant_is_what_stands_in_redis(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.release("a", await line.lease_of("a"))
    [note] = await line.semaphore.notes(line.pool)
    entry = await line.entry("d")
    assert note.lease is not None
    assert (note.lease.lease_id, str(note.fence), str(note.ticket)) == (entry["lease_id"], entry["fence"], entry["ticket"])
    assert (note.lease.due, note.lease.hard) == (line.clock.now + 60_000, line.clock.now + 3_600_000)
    assert (entry["claimed"], entry["granted_at"], entry["due"], entry["hard"]) == (
        False, line.clock.now, note.lease.due, note.lease.hard,
    )  # fmt: skip
    assert await line.client.zscore(line.key("slots"), "d") == note.lease.due


async def test_nothing_is_left_of_a_lease_that_ran_out_but_the_word_of_it(line: LineOfPool) -> None:
    got = await line.acquire("a", user="ana")
    line.clock.turn(600_000)
    await line.tick()
    left = await line.dump()
    assert not (left["slots"] or left["jobs"] or left["users"])
    [note] = await line.semaphore.notes(line.pool)
    assert got.lease is not None
    assert (note.kind, note.fence, note.ticket, note.at) == ("expired", got.lease.fence, got.ticket, line.clock.now)


async def test_nothing_is_left_of_a_wait_that_was_too_long_but_the_word_of_it(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    await line.acquire("a", user="ana")
    line.clock.turn(600_000)
    await line.tick()
    left = await line.dump()
    assert not (left["queue"] or left["jobs"] or left["users"])
    assert await line.notes() == [("expired", "a", 0)]


async def test_a_lease_that_runs_out_lifts_the_cool_down(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.acquire("b", lease_ms=1_000)
    await line.requeue("a", int((await line.entry("a"))["fence"]))
    line.clock.turn(1_000)
    await line.tick()
    assert await line.holders() == {"a"}


async def test_one_script_ends_twenty_five_waits_and_says_that_there_is_more(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    for number in range(45):
        await line.acquire(f"j{number}")
    line.clock.turn(600_000)
    replies = [await line.tick() for _ in range(2)]
    assert [(reply.emitted, reply.more) for reply in replies] == [(25, True), (20, False)]


async def test_two_that_are_granted_by_one_call_have_a_lease_each(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    for job in "ab":
        await line.acquire(job)
    await line.configure(limit=2)
    assert len({await line.lease_of("a"), await line.lease_of("b")}) == 2


async def test_a_waiter_whose_time_comes_first_says_when_to_come_again(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a", lease_ms=3_000_000)
    await line.acquire("b")
    assert (await line.tick()).next_ms == line.clock.now + 600_000
    await line.requeue("a", int((await line.entry("a"))["fence"]), "not_taken")
    assert (await line.tick()).next_ms == line.clock.now + 1_000


async def test_a_cool_down_that_is_over_makes_no_call(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2)
    for job in "abc":
        await line.acquire(job)
    await line.requeue("a", int((await line.entry("a"))["fence"]), "not_taken")
    await line.configure(limit=1)
    line.clock.turn(1_000)
    assert (await line.tick()).next_ms == line.clock.now + 599_000, "b holds the slot there is"


async def test_it_keeps_the_newest_event_that_a_caller_has_read(line: LineOfPool) -> None:
    async def recorded(newest: int | None) -> int:
        await line.semaphore.tick(line.pool, line.epoch, newest)
        return (await line.semaphore.marks([line.pool]))[line.pool].recorded

    assert [await recorded(newest) for newest in (None, 1, 7, 6, None, 7, 9)] == [0, 1, 7, 7, 7, 7, 9]
