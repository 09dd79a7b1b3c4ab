"""Very many waiters are cancelled together: few commits, one round trip for each, and nothing is left in either store."""

from __future__ import annotations

import asyncio

import pytest

from gate.coordination.pools import CANCELS_AT_ONCE
from gate.model.errors import StoreDown
from gate.telemetry import counters
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio
MANY = CANCELS_AT_ONCE + 50


async def queue_of_ana(house: House) -> None:
    await asyncio.gather(*(house.acquire(f"{house.pool}-w{number}", user="ana", credits=2) for number in range(MANY)))


async def test_the_waiters_of_a_user_are_cancelled_in_few_commits(open_house: OpenHouse) -> None:
    async with open_house(limit=0, queue_max=MANY, max_active_per_user=0) as house:
        await queue_of_ana(house)
        before, scripts = sum(counters.commits.counts), sum(counters.scripts["cancel"].counts)
        cancelled = await house.gate.services.pools.cancel_waiting(house.pool, user="ana", reason="enough")
        assert sum(counters.commits.counts) - before <= 4, "a commit for each job"
        assert sum(counters.scripts["cancel"].counts) - scripts == 2, "a script for each job"
        assert len(cancelled) == MANY and {job.status for job in cancelled} == {"cancelled"}
        assert house.people.llen(house.key("queue")) == house.people.hlen(house.key("jobs")) == 0
        rows, _ = await house.gate.services.ledger.entries(user="ana", kind="refund", most=2 * MANY)
        assert sorted(row.job_id for row in rows) == sorted(job.job_id for job in cancelled), "one refund each"


async def test_what_was_cancelled_before_sql_failed_is_told(open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(limit=0, queue_max=MANY, max_active_per_user=0) as house:
        await queue_of_ana(house)
        cancel, told = house.gate.ledger.cancel_waiting, []
        monkeypatch.setattr(house.gate.services.pools._news, "tell", lambda pool, job_ids: told.extend(job_ids))

        async def failing(pool: str, job_ids: list[str], **more: object) -> object:
            if f"{pool}-w0" in job_ids:
                raise StoreDown("sql", "gone")
            return await cancel(pool, job_ids, **more)

        monkeypatch.setattr(house.gate.ledger, "cancel_waiting", failing)
        with pytest.raises(StoreDown):
            await house.gate.services.pools.cancel_waiting(house.pool, user="ana")
        assert len(told) == CANCELS_AT_ONCE
        assert house.people.llen(house.key("queue")) == MANY - CANCELS_AT_ONCE
