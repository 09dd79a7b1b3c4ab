"""How long a job may wait, when that ends, and what counts: on real stores."""

from __future__ import annotations

from typing import Any

import pytest

from gate.explain.facts import by_both
from gate.explain.sentences import sections
from gate.ledger.sql import tables
from gate.model.errors import TooLong
from gate.model.job import Request
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio
QUEUE_MS = 600_000


async def told(house: House, job_id: str) -> str:
    services = house.gate.services
    said = sections(await by_both(services.queries, services.ledger, await house.look(job_id)))
    return "\n".join(one.words for one in said["Where it is"])


async def pause(house: House, paused: bool) -> None:
    await house.gate.services.pools.change(house.pool, {"paused": paused})


async def a_run_took(house: House, seconds: int) -> None:
    """One job has completed, and took so long."""
    done = await house.acquire()
    await house.release(done)
    took = tables.jobs.c.ended_at - seconds * 1000
    change = tables.jobs.update().where(tables.jobs.c.job_id == done.job_id).values(granted_at=took)
    await house.gate.services.ledger._database.write(house.pool, "", lambda batch: batch.connection.execute(change))


async def end_all(house: House) -> None:
    view = await house.gate.services.queries.pool(house.pool)
    for job in [*view.queue, *view.holders]:
        await house.keeper.cancel(house.pool, job.job_id)


async def test_a_waiter_says_when_its_wait_ends_and_a_pause_stops_that_time(open_house: OpenHouse) -> None:
    async with open_house(limit=1) as house:
        await house.acquire()
        waits = await house.acquire()
        hasty = await house.acquire(queue_ms=90_000)
        assert waits.queue_expires_at == waits.enqueued_at + QUEUE_MS
        assert hasty.queue_expires_at == hasty.enqueued_at + 90_000
        assert " count against its 10 min in the queue. It may wait until " in await told(house, waits.job_id)
        await pause(house, True)
        assert (await house.look(waits)).queue_expires_at is None
        assert "While the pool is paused its time stands still." in await told(house, waits.job_id)
        house.people.hincrby(house.key("meta"), "still_from", -300_000)  # the pause was five minutes ago
        await pause(house, False)
        resumed = await house.look(waits)
        assert resumed.queue_expires_at is not None
        assert 300_000 <= resumed.queue_expires_at - waits.enqueued_at - QUEUE_MS < 305_000
        await end_all(house)


async def test_a_rebuild_keeps_the_time_of_a_pause(open_house: OpenHouse) -> None:
    async with open_house(limit=1) as house:
        await house.acquire()
        waits = await house.acquire()
        await pause(house, True)
        await pause(house, False)
        events = tables.events.update().where(tables.events.c.pool == house.pool, tables.events.c.kind == "resumed")
        later = events.values(at=tables.events.c.at + 120_000)
        await house.gate.services.ledger._database.write(house.pool, "", lambda batch: batch.connection.execute(later))
        await house.gate.services.pools.rebuild(house.pool)
        after = await house.look(waits)
        assert after.queue_expires_at is not None
        assert 115_000 <= after.queue_expires_at - waits.enqueued_at - QUEUE_MS < 140_000
        await end_all(house)


async def test_an_estimate_beyond_the_end_of_the_wait_says_that_it_is_likely_to_expire(open_house: OpenHouse) -> None:
    async with open_house(limit=1) as house:
        await a_run_took(house, 100)
        await house.acquire()
        in_time = await house.acquire()
        hasty = await house.acquire(queue_ms=60_000)
        assert (in_time.likely, hasty.likely) == (None, "expires")
        assert in_time.eta_seconds == pytest.approx(100, abs=3) and hasty.eta_seconds == pytest.approx(200, abs=3)
        assert "it is likely to expire" in await told(house, hasty.job_id)
        assert "likely" not in await told(house, in_time.job_id)
        await end_all(house)


async def test_a_caller_names_the_longest_wait_that_it_accepts(open_house: OpenHouse) -> None:
    async def ask(house: House, job_id: str, most_s: float) -> Any:
        request = Request(job_id, user="ana", credits=5)
        return await house.gate.services.admission.acquire(house.pool, request, max_eta_s=most_s)

    async with open_house(limit=1) as house:
        await a_run_took(house, 100)
        assert (await ask(house, "now", 0)).status == "running"
        with pytest.raises(TooLong, match="max_eta_seconds is 50") as refused:
            await ask(house, "late", 50)
        assert refused.value.eta_s == pytest.approx(100, abs=3)
        entries, _ = await house.gate.services.ledger.entries(job_id="late")
        assert entries == [], "nothing was charged"
        assert (await house.gate.services.queries.pool(house.pool)).queue == []
        admitted = await ask(house, "patient", 150)
        assert (admitted.status, admitted.position) == ("queued", 1)
        assert (await ask(house, "patient", 1)).status == "queued", "a repeat is answered as the job stands"
        with pytest.raises(TooLong):
            await ask(house, "later", 150)
        await end_all(house)


async def test_a_free_slot_beside_an_absent_waiter_is_no_wait(open_house: OpenHouse) -> None:
    async with open_house(limit=1) as house:
        await a_run_took(house, 100)
        holder, gone = await house.acquire(), await house.acquire(presence_ms=200)

        async def away() -> bool:
            return gone.job_id in (await house.gate.services.queries.line(house.pool, 10)).away

        await until(away, "its caller is absent")
        await house.release(holder)
        request = Request("now", user="ana", credits=5)
        job = await house.gate.services.admission.acquire(house.pool, request, max_eta_s=0)
        assert job.status == "running"
        await end_all(house)
