"""What a script makes of a time without calls, by the server's own clock."""

import json

import pytest

from gate.slots import Semaphore
from tests.support.script_lane import LineOfPool, Pinned

pytestmark = pytest.mark.anyio
AWAY_MS = 60_000


async def by_the_servers_clock(line: LineOfPool, **settings: int) -> int:
    """The pool loaded anew, by a gate that turns no clock; the time, in ms."""
    line.semaphore = Semaphore(Pinned(line.client))
    await line.load(epoch=2, **settings)
    await line.tick()  # by its reply the gate knows the clock
    return await line.semaphore.now_ms()


async def seen_at(line: LineOfPool, ms: int | None = None) -> int:
    """Time of the last call, as written to the pool if `ms` is given."""
    if ms is not None:
        await line.client.hset(line.key("meta"), "seen_at", ms)
    return int(await line.client.hget(line.key("meta"), "seen_at"))


async def test_a_script_reads_the_servers_clock(line: LineOfPool) -> None:
    now = await by_the_servers_clock(line)
    reply = await line.tick()
    assert now <= reply.now_ms <= await line.semaphore.now_ms()


async def test_a_load_is_of_its_time(line: LineOfPool) -> None:
    line.semaphore = Semaphore(Pinned(line.client))
    before = await line.semaphore.now_ms()
    await line.load(epoch=2)
    after = await line.semaphore.now_ms()
    for name in ("loaded_at", "seen_at"):
        assert before <= int(await line.client.hget(line.key("meta"), name)) <= after


async def test_deadlines_that_passed_without_a_call_have_the_claim_time_of_grace(line: LineOfPool) -> None:
    now = await by_the_servers_clock(line)
    for job in "abc":
        await line.acquire(job)
    later = await line.client.zscore(line.key("slots"), "b")
    await line.client.zadd(line.key("slots"), {"a": now - 1_000, "c": now - AWAY_MS + 5_000})
    await seen_at(line, now - AWAY_MS)
    reply = await line.tick()
    assert await line.holders() == {"a", "b", "c"}
    for job in "ac":
        assert await line.client.zscore(line.key("slots"), job) == reply.now_ms + 60_000
    assert await line.client.zscore(line.key("slots"), "b") == later, "who had time left has no more than that"


async def test_many_leases_get_grace_in_several_calls_and_none_is_reaped_between(line: LineOfPool) -> None:
    """A call is bounded, however many there are: Redis does nothing else meanwhile."""
    now = await by_the_servers_clock(line)
    jobs = {f"j{number}": now - 1_000 for number in range(250)}
    await line.client.zadd(line.key("slots"), jobs)
    await seen_at(line, now - AWAY_MS)
    replies = [await line.tick() for _ in range(3)]
    held = dict(await line.client.zrange(line.key("slots"), 0, -1, withscores=True))
    assert len(held) == 250 and set(held.values()) <= {reply.now_ms + 60_000 for reply in replies}
    assert [reply.more for reply in replies] == [True, True, False]
    assert not await line.client.hexists(line.key("meta"), "grace_to")


async def test_waiters_whose_time_passed_without_a_call_have_grace_too(line: LineOfPool) -> None:
    now = await by_the_servers_clock(line, limit=0)
    await line.acquire("a")
    entry = await line.entry("a") | {"queued_at": now - 700_000}
    await line.client.hset(line.key("jobs"), "a", json.dumps(entry))
    await seen_at(line, now - AWAY_MS)
    reply = await line.tick()
    assert await line.queue() == ["a"]
    assert reply.next_ms == reply.now_ms + 60_000
    assert (await line.tick()).next_ms == reply.next_ms, "once: a call came meanwhile"


async def test_while_calls_come_a_deadline_has_no_grace(line: LineOfPool) -> None:
    now = await by_the_servers_clock(line)
    await line.acquire("a")
    await line.client.zadd(line.key("slots"), {"a": now - 1})
    await line.tick()
    assert await line.holders() == set()


async def test_the_time_of_the_last_call_is_written_once_a_second(line: LineOfPool) -> None:
    now = await by_the_servers_clock(line)
    await seen_at(line, now + AWAY_MS)
    await line.tick()
    assert await seen_at(line) == now + AWAY_MS, "no write for each call"
    await seen_at(line, now - 1_500)
    reply = await line.tick()
    assert await seen_at(line) == reply.now_ms


@pytest.mark.parametrize("call", ["renew", "claim", "hold", "claim again", "acquire again"])
async def test_a_holder_that_calls_after_an_absence_has_the_grace_of_a_silent_one(line: LineOfPool, call: str) -> None:
    """Its hard limit has passed meanwhile too, so the call alone would give it no time at all."""
    now = await by_the_servers_clock(line, limit=1)
    claimed = call in ("renew", "claim again", "acquire again")
    await line.acquire("a", by_gate=not claimed)
    over = now - 1_000
    entry = await line.entry("a") | {"due": over, "hard": over, "claimed": claimed}
    await line.client.hset(line.key("jobs"), "a", json.dumps(entry))
    await line.client.zadd(line.key("slots"), {"a": over})
    await seen_at(line, now - AWAY_MS)
    graced = (await line.tick()).now_ms + 60_000
    if call == "acquire again":
        again = await line.acquire("a")
        assert again.lease is not None and again.lease.due == graced
    elif call == "renew":
        assert (await line.renew("a", entry["lease_id"])).due == graced
    elif call == "hold":
        assert (await line.hold("a", entry["lease_id"])).due == graced
    else:
        assert (await line.claim("a", entry["lease_id"], by_gate=True)).due == graced
    assert await line.client.zscore(line.key("slots"), "a") == graced
