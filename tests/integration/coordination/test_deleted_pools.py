"""Deletion of a pool: only of an empty one. The history stays, other servers notice, and a new pool of the name has higher fences."""

from __future__ import annotations

import pytest

from gate.model.errors import Invalid, PoolNotEmpty, PoolUnknown
from gate.model.job import Request
from gate.runtime.wiring import open_gate
from gate.telemetry import counters
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_a_pool_with_a_live_job_is_not_deleted(house: House) -> None:
    held = await house.acquire()
    with pytest.raises(PoolNotEmpty):
        await house.gate.services.pools.delete(house.pool)
    waiting = [await house.acquire() for _ in range(3)][-1]
    assert waiting.status == "queued"
    assert (await house.release(held)).status == "completed"
    assert (await house.granted(waiting)).status == "granted"


async def test_a_deleted_pool_is_unknown_and_its_history_stays(house: House) -> None:
    job = await house.acquire(credits=3, user="ana")
    await house.release(job, "failed")
    await house.gate.services.pools.delete(house.pool, "no longer sold")
    assert house.people.keys(house.key("*")) == []
    with pytest.raises(PoolUnknown):
        await house.acquire()
    with pytest.raises(PoolUnknown):
        await house.gate.services.pools.delete(house.pool)
    assert house.pool not in house.gate.registry.names
    assert (await house.gate.services.queries.job(house.pool, job.job_id)).status == "failed"
    assert [event.kind for event in await house.gate.services.ledger.history(job.job_id)] == ["running", "failed"]
    assert await house.refunds(job) == [3]
    changes = await house.gate.services.ledger.timelines.changes(house.pool, 1)
    assert [(one.kind, one.why) for one in changes] == [("deleted", "no longer sold")]


async def test_an_expired_lease_does_not_keep_a_pool(house: House) -> None:
    job = await house.acquire()
    house.expire(job)
    await house.gate.services.pools.delete(house.pool)
    assert (await house.gate.services.queries.job(house.pool, job.job_id)).status == "expired"


async def test_the_pool_that_always_exists_is_not_deleted(house: House) -> None:
    with pytest.raises(Invalid, match="always exists"):
        await house.gate.services.pools.delete("default")


async def test_another_server_forgets_a_deleted_pool(house: House, open_house: OpenHouse) -> None:
    async with open_house() as other:
        await until(lambda: other.gate.registry.is_idle(house.pool), "it has the pool")
        await house.gate.services.pools.delete(house.pool)
        with pytest.raises(PoolUnknown):
            await other.acquire()
        await until(lambda: house.pool not in other.gate.registry.names, "it is forgotten")
        assert house.people.keys(house.key("*")) == []


async def test_a_pool_that_is_made_again_has_fences_above_the_former(house: House) -> None:
    former = await house.acquire()
    await house.release(former)
    await house.gate.services.pools.delete(house.pool)
    assert await house.gate.ledger.make_pool(house.pool, settings_of(limit=1))
    again = await house.acquire()
    assert again.fence > former.fence and again.ticket > former.ticket
    assert (await house.acquire()).status == "queued", "the limit is that of the new pool"


async def test_a_server_that_did_not_notice_uses_the_pool_that_was_made_again(house: House) -> None:
    async with open_gate(house.redis_url, house.sql_url) as command:
        first = await command.services.admission.acquire(house.pool, Request("first"))
        await command.services.jobs.release(house.pool, "first", first.lease_id or "", "completed")
        await house.gate.services.pools.delete(house.pool)
        assert await house.gate.ledger.make_pool(house.pool, settings_of())
        await house.acquire()
        second = await command.services.admission.acquire(house.pool, Request("second"))
        assert second.status == "running" and second.fence > first.fence


async def test_a_job_that_redis_had_already_is_refused_when_the_pool_goes(house: House) -> None:
    """Its slot is in Redis and its row is not in SQL yet, so nothing counts it as live."""
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.semaphore.acquire(house.pool, epoch, "early", None, None, None)
    await house.gate.services.pools.delete(house.pool)
    with pytest.raises(PoolUnknown):
        await house.acquire("early")
    assert await house.gate.services.ledger.job("early") is None


async def test_nothing_of_a_deleted_pool_stays_in_memory(house: House) -> None:
    """With pools that come and go the process would grow for ever."""
    services = house.gate.services
    waiter = [await house.acquire() for _ in range(4)][3]
    assert (await services.queries.wait(house.pool, waiter.job_id, "", 0)).position == 1
    house.gate.registry.outdated(house.pool, await house.gate.registry.epoch(house.pool))
    counters.clock_steps[house.pool, "forward"] += 1
    await services.scraper.read()
    assert house.pool in services.scraper.tally.pools and house.pool in services.queries._pace._pools
    for job_id in await services.ledger.live(house.pool):
        await house.keeper.cancel(house.pool, job_id)
    await services.pools.delete(house.pool)
    await services.scraper.read()
    assert house.pool not in services.scraper.tally.pools and house.pool not in services.queries._pace._pools
    assert house.pool not in counters.stale
    assert not [key for key in (*counters.rebuilds, *counters.clock_steps) if key[0] == house.pool]
