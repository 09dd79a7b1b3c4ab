import itertools
import json
from random import Random

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_counts_holders_and_queue_are_of_one_moment(line: LineOfPool) -> None:
    for job in "abcdef":
        await line.acquire(job)
    line.clock.turn(1_000)
    await line.release("a", await line.lease_of("a"))
    status = await line.status("f", most=2)
    assert (status.limit, status.running, status.granted, status.queued, status.free) == (3, 2, 1, 2, 0)
    assert (status.holders, status.queue, status.position) == (("d", "b"), ("e", "f"), 2)
    assert status.oldest == line.clock.now - 1_000
    assert (status.paused, status.cooling_until, status.reason) == (False, None, "pool_full")


async def test_without_a_job_there_is_no_position(line: LineOfPool) -> None:
    assert (await line.status()).position is None
    assert (await line.status("a")).position is None


async def test_it_reaps_first(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    assert (await line.status()).free == 3


async def test_only_requested_jobs_are_named(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    status = await line.status("d", most=0)
    assert (status.holders, status.queue, status.position) == ((), (), 1)
    assert (status.running, status.queued) == (3, 1)


async def test_the_oldest_is_the_one_that_was_granted_first(line: LineOfPool) -> None:
    await line.acquire("a", lease_ms=500_000)
    line.clock.turn(1_000)
    await line.acquire("b", lease_ms=100_000)
    assert (await line.status()).oldest == line.clock.now - 1_000
    await line.release("a", await line.lease_of("a"))
    assert (await line.status()).oldest == line.clock.now


async def test_a_slot_without_an_entry_is_counted_and_tells_nothing(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "a")
    await line.client.zadd(line.key("slots"), {"d": line.clock.now + 600_000})  # by hand: it has no grant
    status = await line.status()
    assert (status.running, status.granted, status.oldest) == (4, 0, line.clock.now)


async def test_an_empty_pool_has_no_oldest(line: LineOfPool) -> None:
    status = await line.status()
    assert (status.oldest, status.holders, status.queue, status.next_ms) == (None, (), (), None)


async def long_line(line: LineOfPool, count: int) -> None:
    waiters = [
        (f"j{number}", {"ticket": str((1 << 32) + number), "queued_at": line.clock.now, "lease_ms": 1_000})
        for number in range(1, count + 1)
    ]
    await line.load(epoch=2, waiters=waiters, limit=0)


async def stands_as_listed(line: LineOfPool) -> bool:
    """Each waiter has its place in the list, and a job that is not in it has none."""
    listed = [job.decode() for job in await line.client.lrange(line.key("queue"), 0, -1)]
    told = {job: (await line.status(job, most=0)).position for job in [*listed, "nobody"]}
    return told == {job: number for number, job in enumerate(listed, 1)} | {"nobody": None}


@pytest.mark.parametrize("gone", [0, 3, 60, 140])
async def test_in_a_long_line_each_waiter_has_its_place_however_many_have_left(line: LineOfPool, gone: int) -> None:
    """A place is looked for where the ticket says that it may be: among few, among all when more than a hundred have left."""
    await long_line(line, 260)
    for number in Random(gone).sample(range(1, 261), gone):
        assert (await line.cancel(f"j{number}")).result == "left_queue"
    assert (await line.status()).queued == 260 - gone
    assert await stands_as_listed(line)


async def test_in_a_long_line_a_search_through_all_is_the_last_resort(line: LineOfPool) -> None:
    if line.fake:
        pytest.skip("fakeredis keeps no account of its commands")

    async def searches(*jobs: str) -> int:
        await line.client.config_resetstat()
        for job in jobs:
            assert (await line.status(job, most=0)).position is not None
        return (await line.client.info("commandstats")).get("cmdstat_lpos", {}).get("calls", 0)

    async def leave(*spans: range) -> None:
        for number in itertools.chain(*spans):
            assert (await line.cancel(f"j{number}")).result == "left_queue"

    await long_line(line, 800)
    await line.acquire("new")  # of this life of the pool: its ticket lies far above theirs
    assert await searches("j1", "j2", "j150", "j799", "j800", "new") == 0
    await leave(range(101, 151), range(221, 261))
    assert await searches("j1", "j100", "j151", "j220", "j261", "j800", "new") == 0, "ninety have left"
    await line.cancel("new")
    await leave(range(2, 101))
    assert await searches("j1") == 0, "no waiter before it has left"
    assert await searches("j151", "j220", "j350", "j800") == 0, "fewer than a hundred behind them have"
    await leave(range(600, 710))
    assert await searches("j1", "j800") == 0
    assert await searches("j350") == 1, "more than a hundred on either side"


async def test_in_a_long_line_reversed_by_hand_each_waiter_has_its_place(line: LineOfPool) -> None:
    await long_line(line, 150)
    queue, jobs = line.key("queue"), line.key("jobs")
    for head, tail in ((0, -1), (20, 130), (2, 149)):
        one, other = await line.client.lindex(queue, head), await line.client.lindex(queue, tail)
        await line.client.lset(queue, head, other)
        await line.client.lset(queue, tail, one)
    assert await stands_as_listed(line)
    await line.client.hset(jobs, "j50", "{}")
    for ticket in ("1.5", "1e300", "-1e300", "inf", "nan", str(1 << 52)):
        for job in ("j150", "j60", "j1"):  # at the head, within, at the tail
            entry = {"ticket": ticket, "queued_at": line.clock.now, "lease_ms": 1_000}
            await line.client.hset(jobs, job, json.dumps(entry))
        assert await stands_as_listed(line), ticket


@pytest.mark.parametrize("job", ["j1", "j70", "j130", "j199", "j200"])
async def test_from_a_long_line_the_named_job_leaves(line: LineOfPool, job: str) -> None:
    await long_line(line, 200)
    assert (await line.cancel(job)).result == "left_queue"
    assert await line.queue() == [f"j{number}" for number in range(1, 201) if f"j{number}" != job][:100]
    status = await line.status("j150", most=0)
    assert (status.queued, status.position) == (199, 149 if int(job[1:]) < 150 else 150)
