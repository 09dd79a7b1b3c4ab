"""The borders between the two stores: what stands still there, or was seen in an earlier life, and goes on later.

tests/model finds these stories; here they are played on the real stores.
"""

from __future__ import annotations

import pytest

from gate.errors import LeaseLost, StoreDown
from gate.slots import Note
from tests.support import House, until

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
            await house.gate.known.reload(house.pool)
        return await extend(*args, **facts)

    house.gate.ledger.extend = extend_late
    renewed = await house.keeper.renew(house.pool, job.job_id, job.lease_id or "", 500_000)
    assert renewed.lease is not None
    assert renewed.lease.due == house.people.zscore(house.key("slots"), job.job_id), "what was told is what Redis holds"


async def test_an_expiry_of_an_earlier_epoch_is_not_recorded(house: House) -> None:
    """A slow recorder: since it read the outbox Redis was lost, and loaded with the lease as its holder knows it."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.known.epoch(house.pool)
    await house.gate.known.reload(house.pool)
    note = Note("0-1", "expired", job.job_id, job.fence, job.expires_at or 0)
    assert (await house.gate.ledger.record(house.pool, epoch, [note])).stale
    assert await house.status(job) == "running"


async def test_what_the_sweep_saw_in_an_earlier_epoch_ends_nobody(house: House) -> None:
    """Overdue, and its lease not in Redis; since then the pool was loaded, with the claim time of grace."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.known.epoch(house.pool)
    await house.gate.known.reload(house.pool)
    late = (job.expires_at or 0) + 1
    assert not await house.gate.ledger.expire_overdue(house.pool, epoch, job.job_id, job.fence, late)
    assert await house.refunds(job) == []


async def test_a_lease_renewed_since_the_sweep_looked_is_not_overdue(house: House) -> None:
    job = await house.acquire(credits=5, lease_ms=60_000)
    looked_at = (job.expires_at or 0) + 1
    await house.keeper.renew(house.pool, job.job_id, job.lease_id or "", 500_000)
    epoch = await house.gate.known.epoch(house.pool)
    assert not await house.gate.ledger.expire_overdue(house.pool, epoch, job.job_id, job.fence, looked_at)
    assert await house.status(job) == "running"


async def test_the_end_of_a_wait_does_not_end_who_runs(house: House) -> None:
    job = await house.acquire(credits=5)
    epoch = await house.gate.known.epoch(house.pool)
    await house.gate.ledger.record(house.pool, epoch, [Note("0-1", "expired", job.job_id, 0, 1)])
    assert await house.status(job) == "running"


async def test_a_stale_refusal_does_not_take_the_newer_lease(house: House) -> None:
    before, now = await granted_anew(house)
    with pytest.raises(LeaseLost):
        await house.release(before, "refused")
    assert await house.status(now) == "granted"


async def test_a_stale_renewal_is_not_recorded_for_the_newer_lease(house: House) -> None:
    before, now = await granted_anew(house)
    epoch = await house.gate.known.epoch(house.pool)
    late = await house.gate.ledger.extend(house.pool, now.job_id, before.lease_id or "", epoch=epoch, due=2**50, at=1)
    assert late.word == "lost"
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
    """Redis has reaped, and nobody has told SQL yet."""
    holders = [await house.acquire(credits=5) for _ in range(3)]
    house.gate.known.on_emitted = lambda pool: None
    house.expire(holders[0])
    assert (await house.acquire()).status == "running"
    assert await house.refunds(holders[0]) == [5]
