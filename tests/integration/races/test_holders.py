"""Holders that renew: up to the longest hold, beyond it when it is made longer, and after an absence of gate."""

from __future__ import annotations

import pytest

from gate.model.errors import LeaseLost
from gate.model.job import Job
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio


async def renewed(house: House, job: Job) -> Job:
    return await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")


async def test_a_job_that_was_renewed_up_to_the_longest_hold_says_so(open_house: OpenHouse) -> None:
    async with open_house(lease_ms=500, max_hold_ms=600) as house:
        job = await house.acquire(user="ana", credits=3)
        with pytest.raises(LeaseLost) as lost:
            while True:
                await renewed(house, job)
        assert lost.value.job is not None
        assert (lost.value.job.status, lost.value.job.end_reason) == ("expired", "hold_limit")
        assert await house.refunds(job) == [3]


async def test_a_longer_hold_reaches_a_running_job_in_both_stores(open_house: OpenHouse) -> None:
    async with open_house(lease_ms=60_000, max_hold_ms=60_000) as house:
        job = await house.acquire()
        assert (job.expires_at, job.granted_at) == (job.hard_expires_at, (job.hard_expires_at or 0) - 60_000)
        await house.gate.services.pools.change(house.pool, {"max_hold_ms": 200_000})
        longer = await house.look(job)
        assert (longer.expires_at, longer.hard_expires_at) == (job.expires_at, (job.granted_at or 0) + 200_000)
        assert (await renewed(house, job)).expires_at > (job.expires_at or 0)
        await house.gate.services.pools.change(house.pool, {"max_hold_ms": 1_000})
        assert (await house.look(job)).hard_expires_at == longer.hard_expires_at, "what a holder was told is never shortened"
        house.people.delete(*[house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")])
        assert (await renewed(house, job)).hard_expires_at == longer.hard_expires_at


async def test_a_grant_on_its_way_during_a_change_of_the_longest_hold_has_the_longer_one(open_house: OpenHouse) -> None:
    """SQL hears of the grant after the change, with the limit that it had before, and learns the right one at the claim."""
    async with open_house(limit=1, lease_ms=60_000, max_hold_ms=60_000) as house:
        holder, waiter = await house.acquire(), await house.acquire()
        apply, pages = house.gate.recorder.apply, []

        async def late(*page: object) -> set[str]:
            pages.append(page)
            return set()

        house.gate.recorder.apply = late
        await house.release(holder)
        await house.gate.recorder.run(house.pool)
        await house.gate.services.pools.change(house.pool, {"max_hold_ms": 200_000})
        house.gate.recorder.apply = apply
        await house.gate.recorder.run(house.pool)
        granted = await house.granted(waiter)
        claimed = await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")
        assert claimed.hard_expires_at == (claimed.granted_at or 0) + 200_000
