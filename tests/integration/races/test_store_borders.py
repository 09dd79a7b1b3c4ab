"""The borders between the two stores: what stands still there, or was seen in an earlier life, and goes on later.

tests/proof/model finds these stories; here they are played on the real stores.
"""

from __future__ import annotations

import asyncio

import pytest

from gate.diagnostics.verify import verify
from gate.model.errors import LeaseLost, StoreDown
from gate.model.messages import EntryKind, OutboxEntry
from gate.runtime.wiring import open_gate
from gate.slots import ScriptReply
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def away(*_args, **_facts):
    raise StoreDown("sql", "away")


async def granted_anew(house: House):
    """A job as it was under the lease that it gave back, and as it is now, granted once more."""
    holders = [await house.acquire(credits=5) for _ in range(3)]
    await house.release(holders[0], "refused")
    await house.release(holders[1])  # lifts the cool-down
    return holders[0], await house.granted(holders[0])


async def test_a_renewal_of_an_earlier_epoch_is_not_told(house: House) -> None:
    """Between Redis's answer and SQL's commit the pool is rebuilt, with the deadline that SQL has."""
    job = await house.acquire(lease_ms=60_000)
    extend, epochs = house.gate.ledger.extend, []

    async def extend_late(*args, **facts):
        epochs.append(facts["epoch"])
        if len(epochs) == 1:
            await house.gate.registry.reload(house.pool)
        return await extend(*args, **facts)

    house.gate.ledger.extend = extend_late
    renewed = await house.keeper.renew(house.pool, job.job_id, job.lease_id or "", 500_000)
    assert renewed.lease is not None
    assert renewed.lease.due == house.people.zscore(house.key("slots"), job.job_id), "what was told is what Redis holds"


async def test_an_expiry_of_an_earlier_epoch_is_not_recorded(house: House) -> None:
    """A slow recorder: since it read the outbox Redis was lost, and loaded with the lease as its holder knows it."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.registry.reload(house.pool)
    note = OutboxEntry("0-1", EntryKind.EXPIRED, job.job_id, job.fence, job.expires_at or 0)
    assert (await house.gate.ledger.record(house.pool, epoch, [note])).stale
    assert await house.status(job) == "running"


async def test_a_sweep_of_an_earlier_epoch_ends_no_job(house: House) -> None:
    """Overdue, and its lease not in Redis; since then the pool was loaded, with the claim time of grace."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.registry.reload(house.pool)
    late = (job.expires_at or 0) + 1
    assert not await house.gate.ledger.expire_overdue(house.pool, epoch, job.job_id, job.fence, late)
    assert await house.refunds(job) == []


async def test_a_lease_renewed_since_the_sweep_looked_is_not_overdue(house: House) -> None:
    job = await house.acquire(credits=5, lease_ms=60_000)
    looked_at = (job.expires_at or 0) + 1
    await house.keeper.renew(house.pool, job.job_id, job.lease_id or "", 500_000)
    epoch = await house.gate.registry.epoch(house.pool)
    assert not await house.gate.ledger.expire_overdue(house.pool, epoch, job.job_id, job.fence, looked_at)
    assert await house.status(job) == "running"


async def test_the_end_of_a_wait_does_not_end_a_running_job(house: House) -> None:
    job = await house.acquire(credits=5)
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.ledger.record(house.pool, epoch, [OutboxEntry("0-1", EntryKind.EXPIRED, job.job_id, 0, 1)])
    assert await house.status(job) == "running"


async def test_a_stale_refusal_does_not_take_the_newer_lease(house: House) -> None:
    before, now = await granted_anew(house)
    with pytest.raises(LeaseLost):
        await house.release(before, "refused")
    assert await house.status(now) == "granted"


async def test_a_stale_renewal_is_not_recorded_for_the_newer_lease(house: House) -> None:
    before, now = await granted_anew(house)
    epoch = await house.gate.registry.epoch(house.pool)
    late = await house.gate.ledger.extend(house.pool, now.job_id, before.lease_id or "", epoch=epoch, due=2**50, at=1)
    assert late.result == "lost"
    assert (await house.look(now)).expires_at == now.expires_at


async def test_a_release_that_sql_cannot_write_frees_nothing(house: House) -> None:
    job = await house.acquire(credits=5)
    end, house.gate.ledger.end = house.gate.ledger.end, away
    with pytest.raises(StoreDown):
        await house.release(job)
    house.gate.ledger.end = end
    assert (await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")).status == "running"


async def test_an_entry_that_sql_cannot_take_stays_in_the_outbox(house: House) -> None:
    job = await house.acquire(credits=5)
    record, house.gate.ledger.record = house.gate.ledger.record, away
    house.expire(job)
    await until(house.outbox, "its end is in the outbox")
    with pytest.raises(StoreDown):
        await house.gate.recorder.run(house.pool)
    assert house.outbox() == 1
    house.gate.ledger.record = record
    await house.settled()
    assert await house.refunds(job) == [5]


async def test_an_acquire_for_which_sql_has_no_room_records_the_outbox_and_looks_again(house: House) -> None:
    """Redis has reaped, and SQL does not know it yet."""
    holders = [await house.acquire(credits=5) for _ in range(3)]
    house.gate.registry.on_emitted = lambda pool, epoch, reply: None
    house.expire(holders[0])
    assert (await house.acquire()).status == "running"
    assert await house.refunds(holders[0]) == [5]


async def test_a_returned_grant_is_not_taken_from_a_holder_told_of_it_since(house: House) -> None:
    """SQL has no room for a grant; before it goes back there is room, and another server's sweep records it."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    give_back, goes_on, stands = house.gate.recorder.give_back, asyncio.Event(), asyncio.Event()

    async def stand_still(pool, grant):
        stands.set()
        await goes_on.wait()
        await give_back(pool, grant)

    house.gate.recorder.give_back = stand_still
    await house.gate.ledger.change_pool(house.pool, {"limit": 2})
    await house.release(holders[0])
    await asyncio.wait_for(stands.wait(), 5)
    await house.gate.ledger.change_pool(house.pool, {"limit": 3})
    async with open_gate(house.redis_url, house.sql_url) as other:

        async def told() -> bool:
            await other.reconciler.sweep(house.pool)
            return (await other.services.queries.job(house.pool, waiter.job_id)).status == "granted"

        try:
            await until(told, "the other server has mended it")
        finally:
            goes_on.set()
    granted = await house.look(waiter)
    await until(lambda: not house.gate.recorder._next, "the first server has gone on")
    await house.gate.recorder.settle()
    assert (await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")).status == "running"


async def test_the_place_of_a_stranger_is_freed_and_not_the_slot_it_has_since(house: House, monkeypatch) -> None:
    """The sweep stands still before it frees a place in the queue; another one frees it, and the job comes again and runs."""
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    holders = [await house.acquire() for _ in range(3)]
    epoch, unknown = await house.gate.registry.epoch(house.pool), f"{house.pool}-unknown"
    await house.gate.semaphore.acquire(house.pool, epoch, unknown, None, None, None)
    void, told = house.gate.ledger.void, []

    async def void_and_stand_still(*args):
        voided = await void(*args)
        freed: ScriptReply = await house.gate.semaphore.cancel(house.pool, epoch, unknown)  # by another sweep
        assert freed.result == "left_queue"
        await house.release(holders[0])
        told.append(await house.acquire(unknown))
        return voided

    house.gate.ledger.void = void_and_stand_still
    for _ in range(2):
        await house.gate.reconciler.sweep(house.pool)
    assert told[0].status == "running"
    assert (await house.keeper.renew(house.pool, unknown, told[0].lease_id or "")).status == "running"


async def test_a_commit_so_late_that_its_turn_is_over_does_not_break_the_order(house: House, monkeypatch) -> None:
    """I6 of `gate verify`: its ticket is older, and the other job was granted before SQL knew of it."""
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    holders = [await house.acquire() for _ in range(3)]
    epoch, unknown = await house.gate.registry.epoch(house.pool), f"{house.pool}-unknown"
    admit, comes = house.gate.ledger.admit, asyncio.Event()

    async def admit_late(pool, request, **facts):
        if request.job_id == unknown:
            await comes.wait()
        return await admit(pool, request, **facts)

    house.gate.ledger.admit = admit_late
    late = asyncio.create_task(house.acquire(unknown))
    await until(lambda: house.people.llen(house.key("queue")) == 1, "it waits in Redis")
    for _ in range(2):
        await house.gate.reconciler.sweep(house.pool)
    assert house.people.llen(house.key("queue")) == 0, f"in epoch {epoch} its place was freed"
    later = await house.acquire()
    await house.release(holders[0])
    await house.granted(later)
    comes.set()
    await late
    for _ in range(2):
        await house.gate.reconciler.sweep(house.pool)
    await house.release(holders[1])
    await house.granted(await late)
    assert not verify(house.sql_url, house.redis_url).breaches
