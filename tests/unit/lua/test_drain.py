"""The slot of a job that has ended is kept while its task still runs at the provider."""

from __future__ import annotations

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def draining(line: LineOfPool, drain_ms: int = 30_000) -> str:
    await line.load(epoch=2, limit=1, max_active_per_user=1)
    lease = (await line.acquire("a", "ana")).lease
    assert lease is not None
    assert (await line.drain("a", lease.lease_id, drain_ms)).result == "drains"
    return lease.lease_id


async def test_no_waiter_gets_the_slot_while_it_drains(line: LineOfPool) -> None:
    await draining(line)
    await line.acquire("b", "ben")
    line.clock.turn(29_999)
    await line.tick()
    pool = await line.status()
    assert (pool.draining, pool.running, pool.free, pool.queue) == (1, 0, 0, ("b",)) and "a" not in pool.holders


async def test_its_deadline_frees_the_slot_without_a_word_to_sql(line: LineOfPool) -> None:
    await draining(line)
    await line.acquire("b", "ben")
    line.clock.turn(30_000)
    await line.tick()
    assert await line.holders() == {"b"} and [kind for kind, job, _ in await line.notes() if job == "a"] == []


async def test_a_confirmed_stop_frees_the_slot_at_once(line: LineOfPool) -> None:
    lease_id = await draining(line)
    await line.acquire("b", "ben")
    assert (await line.release("a", f"drain:{lease_id}")).result == "released"
    assert await line.holders() == {"b"}


async def test_no_holder_can_renew_or_release_it(line: LineOfPool) -> None:
    lease_id = await draining(line)
    assert (await line.renew("a", lease_id)).result == "lost"
    assert (await line.release("a", lease_id)).result == "stale"
    assert (await line.drain("a", lease_id)).result == "stale"
    assert (await line.status()).draining == 1


async def test_its_user_may_have_another_job_at_once(line: LineOfPool) -> None:
    await draining(line)
    assert (await line.acquire("b", "ana")).result == "queued"


async def test_a_repeated_acquire_is_sent_to_sql_and_leaves_the_slot(line: LineOfPool) -> None:
    await draining(line)
    again = await line.acquire("a", "ana")
    assert again.result == "unrecorded"
    assert (await line.undo("a", again.ticket)).result == "kept"
    assert (await line.status()).draining == 1


async def test_it_drains_no_longer_than_its_lease_would_have_lasted(line: LineOfPool) -> None:
    await draining(line, 700_000)
    line.clock.turn(600_000)
    await line.tick()
    assert (await line.status()).draining == 0


async def test_a_load_keeps_the_slot_for_the_rest_of_the_time(line: LineOfPool) -> None:
    entry = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 600_000, "lease_id": "drain:x", "fence": "1",
             "granted_at": line.clock.now, "drains": True, "left_ms": 5_000}  # fmt: skip
    await line.load(epoch=2, limit=1, leases=[("a", entry)])
    await line.acquire("b")
    line.clock.turn(4_999)
    await line.tick()
    assert (await line.status()).draining == 1
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"b"}
