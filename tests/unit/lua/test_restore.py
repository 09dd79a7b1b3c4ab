import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_a_lost_lease_is_put_back_as_it_was(line: LineOfPool) -> None:
    got = await line.acquire("a", user="ana")
    assert got.lease is not None
    before, entry = await line.dump(), await line.entry("a")
    await line.client.delete(*(line.key(role) for role in ("slots", "jobs", "users")))
    assert (await line.restore("a", entry)).result == "restored"
    after = await line.dump()
    assert after | {"jobs": {}} == before | {"jobs": {}} and await line.entry("a") == entry


async def test_what_is_there_is_left_alone(line: LineOfPool) -> None:
    await line.acquire("a")
    before = await line.dump()
    assert (await line.restore("a", await line.entry("a") | {"fence": "1"})).result == "known"
    assert await line.dump() == before


async def test_it_makes_no_fourth(line: LineOfPool) -> None:
    await line.acquire("a")
    entry = await line.entry("a")
    await line.client.zrem(line.key("slots"), "a")
    await line.client.hdel(line.key("jobs"), "a")
    for job in "bcd":
        await line.acquire(job)
    assert (await line.restore("a", entry)).result == "full"
    assert await line.holders() == {"b", "c", "d"}


async def test_what_the_outbox_is_about_to_end_stays_ended(line: LineOfPool) -> None:
    await line.acquire("a")
    entry = await line.entry("a")
    line.clock.turn(600_000)
    await line.tick()
    assert (await line.restore("a", entry | {"due": line.clock.now + 9})).result == "known"
    assert await line.holders() == set()


async def test_a_slot_without_an_entry_is_mended_though_the_pool_is_full(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a", user="ana")
    entry = await line.entry("a")
    await line.client.hdel(line.key("jobs"), "a")
    assert (await line.restore("a", entry)).result == "restored"
    assert await line.entry("a") == entry


async def test_a_job_that_holds_its_slot_again_waits_no_more(line: LineOfPool) -> None:
    await line.acquire("a")
    entry = await line.entry("a")
    await line.client.zrem(line.key("slots"), "a")
    await line.configure(paused=1)
    await line.client.rpush(line.key("queue"), "a")
    assert (await line.restore("a", entry)).result == "restored"
    assert (await line.holders(), await line.queue()) == ({"a"}, [])


async def test_it_reaps_like_every_call(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("a")
    entry = await line.entry("a")
    line.clock.turn(600_000)
    assert (await line.restore("b", entry | {"due": line.clock.now + 9})).result == "restored"
    assert await line.holders() == {"b"}
