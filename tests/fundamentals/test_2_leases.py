"""The tutorial, second part: a slot is a lease. A holder that does not call back loses it."""

import pytest

from gate.model.errors import AlreadyEnded, LeaseLost
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_a_lost_callback_gives_the_slot_back_by_itself(open_house) -> None:
    async with open_house(limit=1) as house:
        lost = await house.acquire(lease_ms=500)
        waiter = await house.acquire()
        assert (await house.granted(waiter)).status == "granted"
        assert (await house.look(lost)).end_reason == "lease_timeout"


async def test_a_heartbeat_keeps_it(house: House) -> None:
    job = await house.acquire(lease_ms=5_000)
    renewed = await house.keeper.renew(house.pool, job.job_id, job.lease_id or "", lease_ms=60_000)
    assert renewed.lease and job.lease and renewed.lease.due > job.lease.due


async def test_an_unclaimed_grant_goes_to_the_next_waiter(open_house) -> None:
    async with open_house(limit=1, claim_ms=500) as house:
        holder, sleeper, waiter = [await house.acquire() for _ in range(3)]
        await house.release(holder)
        assert (await house.granted(waiter)).status == "granted"
        assert (await house.look(sleeper)).end_reason == "claim_timeout"


async def test_every_wait_ends(open_house) -> None:
    async with open_house(limit=1, queue_ms=500) as house:
        await house.acquire()
        waiter = await house.acquire(credits=5)
        ended = await house.gate.services.queries.wait(house.pool, waiter.job_id, "queued", 10)
        assert (ended.status, ended.end_reason) == ("expired", "queue_timeout")
        assert await house.refunds(waiter) == [5]


async def test_a_lease_that_is_not_yours_opens_nothing(house: House) -> None:
    job = await house.acquire()
    for call in (house.keeper.claim, house.keeper.renew):
        with pytest.raises(LeaseLost):
            await call(house.pool, job.job_id, "0" * 32)
    with pytest.raises(LeaseLost):
        await house.keeper.release(house.pool, job.job_id, "0" * 32, "failed")
    assert await house.status(job) == "running"


async def test_what_has_ended_stays_ended(house: House) -> None:
    job = await house.acquire()
    await house.release(job, "completed")
    with pytest.raises(AlreadyEnded):
        await house.keeper.cancel(house.pool, job.job_id)
    with pytest.raises(AlreadyEnded):
        await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")


async def test_an_idle_gate_does_it_without_a_call(house: House) -> None:
    job = await house.acquire(lease_ms=500, credits=5)
    assert await until(lambda: house.refunds(job), "the tick has reaped and refunded") == [5]
