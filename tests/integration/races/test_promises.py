"""What was told of a slot stays true: by the clock, by what SQL has, and when a call fails on its way back."""

from __future__ import annotations

import asyncio

import pytest

from gate.ledger import RecordReply
from gate.model.errors import AlreadyEnded, JobIdReused, LeaseLost, StoreDown
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_an_answer_of_an_earlier_epoch_is_not_recorded(house: House) -> None:
    """Between Redis's answer and SQL's commit the pool is rebuilt: the path starts again, under the new epoch."""
    admit, rebuilt = house.gate.ledger.admit, []

    async def admit_late(pool, request, **facts):
        if not rebuilt:
            rebuilt.append(facts["epoch"])
            await house.gate.registry.rebuild(pool, facts["epoch"])
        return await admit(pool, request, **facts)

    house.gate.ledger.admit = admit_late
    job = await house.acquire(credits=5)
    assert job.status == "running"
    assert job.fence >> 32 == rebuilt[0] + 1
    assert house.people.zrange(house.key("slots"), 0, -1) == [job.job_id]


async def test_a_grant_that_is_over_when_sql_hears_of_it_is_not_told(house: House) -> None:
    """The server stands still between Redis's answer and SQL's commit, for longer than the lease."""
    admit, leases = house.gate.ledger.admit, []

    async def admit_late(pool, request, **facts):
        if not leases:
            leases.append(facts["lease"])
            await until(lambda: house.people.zscore(house.key("slots"), request.job_id) is None, "the lease is reaped")
        return await admit(pool, request, **facts)

    house.gate.ledger.admit = admit_late
    try:
        told = (await house.acquire("late", lease_ms=500, credits=5)).lease
    except AlreadyEnded:
        told = None
    assert told is None or told.fence > leases[0].fence


async def test_a_grant_that_is_over_when_its_commit_is_heard_of_is_not_told(house: House) -> None:
    """SQL has the job and is slow to say so: its word is running when the lease is over in Redis."""
    admit, seen = house.gate.ledger.admit, []

    async def admit_long(pool, request, **facts):
        admitted = await admit(pool, request, **facts)
        if not seen:
            seen.append(admitted.job)
            await until(lambda: house.people.zscore(house.key("slots"), request.job_id) is None, "the lease is reaped")
        return admitted

    house.gate.ledger.admit = admit_long
    told = await house.acquire("slowly", lease_ms=500, credits=5)
    assert (seen[0].status, told.status, told.lease, told.replayed) == ("running", "expired", None, False)
    assert await house.refunds("slowly") == [5]


async def test_a_repeat_after_the_lease_is_over_is_not_told_that_it_runs(house: House) -> None:
    """Redis has reaped it, and SQL has not heard of that yet."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.registry.epoch(house.pool)
    house.expire(job)
    await house.gate.semaphore.tick(house.pool, epoch)
    with pytest.raises(AlreadyEnded) as refused:
        await house.acquire(job.job_id, credits=5)
    assert refused.value.job.status == "expired"


async def test_a_renewal_that_is_over_when_its_commit_is_there_is_not_told(house: House) -> None:
    job = await house.acquire(lease_ms=500)
    extend = house.gate.ledger.extend

    async def slowly(pool, job_id, lease_id, **facts):
        extended = await extend(pool, job_id, lease_id, **facts)
        await until(lambda: house.people.zscore(house.key("slots"), job_id) is None, "the lease is reaped")
        return extended

    house.gate.ledger.extend = slowly
    with pytest.raises(LeaseLost):
        await house.keeper.renew(house.pool, job.job_id, job.lease_id)


async def test_a_renewal_that_is_over_when_sql_hears_of_it_is_not_told(house: House) -> None:
    job = await house.acquire(lease_ms=500)
    extend, record = house.gate.ledger.extend, house.gate.ledger.record

    async def away(*_args):
        raise StoreDown("sql", "the expiry is not recorded yet")

    async def extend_late(pool, job_id, lease_id, **facts):
        house.gate.ledger.record = away
        await until(lambda: house.people.zscore(house.key("slots"), job_id) is None, "the lease is reaped")
        extended = await extend(pool, job_id, lease_id, **facts)
        house.gate.ledger.record = record
        words.append(extended.result)
        return extended

    words: list[str] = []
    house.gate.ledger.extend = extend_late
    with pytest.raises(LeaseLost):
        await house.keeper.renew(house.pool, job.job_id, job.lease_id)
    assert words == ["stale"], "nor recorded"


async def test_a_slot_goes_back_when_sql_cannot_write(house: House) -> None:
    database = house.gate.ledger._database
    write = database.write

    async def away(*_args):
        database._writer.writable = False
        raise StoreDown("sql", "away")

    for _ in range(5):
        database.write, database._writer.writable = away, True
        with pytest.raises(StoreDown):
            await house.acquire()
    database.write = write
    assert house.people.zrange(house.key("slots"), 0, -1) == []
    assert house.people.lrange(house.key("queue"), 0, -1) == []


async def test_a_refused_twin_does_not_take_the_slot_that_another_was_told(house: House) -> None:
    """Two calls of one job_id with different content: the first at Redis is the last at SQL, is refused, and takes nothing with it."""
    admit, twin_is_in = house.gate.ledger.admit, asyncio.Event()

    async def late(*args, **facts):
        house.gate.ledger.admit = admit
        await twin_is_in.wait()
        return await admit(*args, **facts)

    house.gate.ledger.admit = late
    first = asyncio.create_task(house.acquire("twin-" + house.pool, credits=1))
    await until(lambda: house.gate.ledger.admit is admit, "the first call is at SQL")
    told = await house.acquire("twin-" + house.pool, credits=2)
    twin_is_in.set()
    with pytest.raises(JobIdReused):
        await first
    assert told.status == "running"
    await house.keeper.renew(house.pool, told.job_id, told.lease_id or "")
    await house.release(told)


async def test_a_failed_call_does_not_take_back_what_its_retry_was_told(house: House) -> None:
    admit, failing = house.gate.ledger.admit, asyncio.Event()

    async def away_once(*_args, **_facts):
        house.gate.ledger.admit = admit
        await failing.wait()
        raise StoreDown("sql", "away")

    house.gate.ledger.admit = away_once
    first = asyncio.create_task(house.acquire("again-" + house.pool))
    await until(lambda: house.gate.ledger.admit is admit, "the first call is at SQL")
    retry = await house.acquire("again-" + house.pool)
    failing.set()
    with pytest.raises(StoreDown):
        await first
    assert retry.status == "running"
    await house.keeper.renew(house.pool, retry.job_id, retry.lease_id or "")


async def test_a_refusal_whose_lease_was_reaped_meanwhile_keeps_its_place(house: House) -> None:
    holders = [await house.acquire() for _ in range(3)]
    refuse = house.gate.ledger.refuse

    async def refuse_and_reap(*args):
        refused = await refuse(*args)
        house.expire(holders[0])
        await house.gate.semaphore.tick(house.pool, await house.gate.registry.epoch(house.pool))
        return refused

    house.gate.ledger.refuse = refuse_and_reap
    refused = await house.release(holders[0], "refused")
    assert (refused.status, refused.position) == ("queued", 1)
    assert house.people.lrange(house.key("queue"), 0, -1) == [refused.job_id]


async def test_a_grant_that_is_over_before_sql_heard_of_it_never_was(house: House) -> None:
    """SQL was away for longer than the claim time: the job is back at its place, no caller was told, nothing is refunded."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire(credits=5)
    record, held = house.gate.ledger.record, []

    async def later(pool, epoch, notes, good_until=None):
        held[:] = notes
        return RecordReply(done=[])

    house.gate.ledger.record = later
    await house.release(holders[0])
    await until(lambda: any(note.kind == "granted" for note in held), "the grant is in the outbox")
    house.expire(waiter)
    await until(lambda: any(note.kind == "expired" for note in held), "and so is its end")
    house.gate.ledger.record = record
    await house.settled()
    assert await house.refunds(waiter) == []
    again = await house.granted(waiter)
    assert again.status == "granted"
    assert (await house.keeper.claim(house.pool, again.job_id, again.lease_id or "")).status == "running"
