"""The ledger's counters: each commit counts once, at every server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger.reports import counters
from gate.ledger.reports.counters import EventCounters, PoolCounters
from gate.ledger.sql.tables import events, jobs
from gate.model.errors import AlreadyEnded, LeaseLost
from tests.support.gate_in_process import House
from tests.support.names import fresh

pytestmark = pytest.mark.anyio


@pytest.fixture
async def counting(house: House) -> EventCounters:
    own = EventCounters(house.gate.ledger._database)
    await own.begin()
    return own


async def of(counting: EventCounters, house: House) -> PoolCounters:
    await counting.count()
    return counting.pools.get(house.pool) or PoolCounters()


async def test_endings_are_counted_by_outcome_and_cause(house: House, counting: EventCounters) -> None:
    done, failed, lost = [await house.acquire(user="ana", credits=3) for _ in range(3)]
    waiter = await house.acquire(credits=4)
    await house.release(done)
    await house.granted(waiter)
    await house.release(failed, "failed")
    await house.release(failed, "failed")  # the same once more
    await house.keeper.cancel(house.pool, waiter.job_id)
    await house.keeper.cancel(house.pool, waiter.job_id)
    with pytest.raises(AlreadyEnded):
        await house.release(done, "failed")
    house.expire(lost)
    await house.gate.services.queries.wait(house.pool, lost.job_id, "running", 10)
    with pytest.raises(LeaseLost):
        await house.release(lost)
    found = await of(counting, house)
    assert +found.ended == Counter(
        {("completed", "holder"): 1, ("failed", "holder"): 1, ("cancelled", "operator"): 1, ("expired", "lease_timeout"): 1}
    )
    assert (found.refunds, found.credits) == (3, 3 + 3 + 4)
    assert found.admitted == {"running": 3, "queued": 1} and found.grants == 4 and found.late == 1
    assert sum(found.holds.counts) == 4 and sum(found.waits.counts) == 4 and sum(found.reap_lag.counts) == 1
    assert found.waits.counts[0] == 3 + (found.waits.sum <= 0.1), "three at once"


async def test_each_event_counts_once_however_often_it_is_looked(house: House, counting: EventCounters) -> None:
    for number in range(1, 4):
        await house.release(await house.acquire())
        for _ in range(3):
            found = await of(counting, house)
            assert found.grants == number == found.ended["completed", "holder"]


async def test_every_server_has_the_same_account(open_house: Any) -> None:
    """Each server shows the totals of the ledger, so their sum is meaningless; docs/monitoring.md says so."""
    async with open_house() as one, open_house() as other:
        for house in (one, other, other):
            await house.release(await house.acquire(fresh()))
        for house in (one, other):
            own = house.gate.services.scraper.tally
            assert (await of(own, house)).ended["completed", "holder"] == 3


async def test_what_was_before_is_not_counted(house: House) -> None:
    await house.release(await house.acquire())
    late = EventCounters(house.gate.ledger._database)
    await late.begin()
    assert (await of(late, house)).grants == 0
    await house.release(await house.acquire())
    assert (await of(late, house)).grants == 1


async def test_a_refusal_is_no_ending_and_its_next_slot_no_second_wait(house: House, counting: EventCounters) -> None:
    job = await house.acquire()
    await house.release(job, "refused")
    await house.gate.registry.pool(house.pool).tick()
    found = await of(counting, house)
    assert found.refusals == 1 and not +found.ended
    house.people.hset(house.key("meta"), "cooling_until", 0)
    await house.gate.registry.pool(house.pool).tick()
    again = await house.granted(job)
    found = await of(counting, house)
    assert again.status == "granted" and found.grants == 2 and sum(found.waits.counts) == 1


def write(house: House, *rows: dict[str, Any]) -> None:
    """As another server's commit."""
    url = sa.make_url(house.sql_url)
    sqlite = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(url.set(drivername="sqlite+pysqlite" if sqlite else "postgresql+psycopg"))
    if sqlite:
        engine = engine.execution_options(schema_translate_map={"gate": None})
    with engine.begin() as connection:
        for row in rows:
            connection.execute(events.insert().values(at=0, by="caller", **row))
    engine.dispose()


async def test_a_refund_that_the_owner_pays_is_not_counted_by_its_ending_too(house: House, counting: EventCounters) -> None:
    """A refund may be paid before the first count. Then its row is there."""
    job = await house.acquire(credits=7)
    await house.release(job, "failed")
    settles = jobs.update().where(jobs.c.job_id == job.job_id)
    database = house.gate.ledger._database
    await database.write("", "", lambda batch: batch.connection.execute(settles.values(settles=True)).rowcount)
    await counting.begin()
    write(house, {"pool": house.pool, "job_id": job.job_id, "kind": "refunded", "why": "7"})
    found = await of(counting, house)
    assert (found.refunds, found.credits) == (1, 7) and found.ended["failed", "holder"] == 1


async def test_a_count_is_bounded_and_goes_on_the_next_time(
    house: House, counting: EventCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await house.release(await house.acquire())
    monkeypatch.setattr(counters, "STEP", 2)
    monkeypatch.setattr(counters, "STEPS", 2)
    assert (await of(counting, house)).grants == 2
    assert (await of(counting, house)).grants == 4
    assert (await of(counting, house)).ended["completed", "holder"] == 4


async def test_another_ledger_in_the_place_of_this_one_is_counted_from_where_it_stands(
    house: House, counting: EventCounters
) -> None:
    await house.release(await house.acquire())
    await counting.count()
    counting._counted = 10**9
    await counting.count()
    await house.release(await house.acquire())
    assert (await of(counting, house)).grants == 2
