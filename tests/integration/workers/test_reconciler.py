"""Every row of the sweep, by the damage it mends. Two looks in a row, no sooner; each repair once."""

from __future__ import annotations

import time

import pytest
import redis

from gate.coordination.drift import examine
from gate.ledger import RecordReply
from gate.model.job import Job, Request
from gate.slots import keys
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def first_look(house: House) -> None:
    """The server's own first look is over, and its next one ten seconds away."""
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")


async def mended(house: House) -> list[tuple[str, str]]:
    """What the second of two looks did."""
    assert await house.gate.reconciler.sweep(house.pool) == [], "one look is no proof"
    return [(found.kind, found.job_id) for found in await house.gate.reconciler.sweep(house.pool)]


async def three_and_a_waiter(house: House, **request) -> tuple[list[Job], Job]:
    return [await house.acquire(**request) for _ in range(3)], await house.acquire(**request)


async def test_where_nothing_differs_nothing_is_done(house: House) -> None:
    await three_and_a_waiter(house)
    assert await mended(house) == []


async def test_a_lease_taken_out_by_hand_is_put_back_as_it_was(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    house.people.zrem(house.key("slots"), holders[0].job_id)
    assert await mended(house) == [("restore", holders[0].job_id)]
    again = await house.keeper.renew(house.pool, holders[0].job_id, holders[0].lease_id or "")
    assert again.fence == holders[0].fence
    assert await house.status(waiter) == "queued"


async def test_a_lease_is_put_back_though_a_waiter_has_just_got_its_slot(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders, waiter = await three_and_a_waiter(house)
    settings = house.gate.reconciler._settings

    async def a_second_later(pool: str) -> object:
        house.people.hset(house.key("meta"), "cooling_until", 0)
        return await settings(pool)

    house.people.zrem(house.key("slots"), holders[0].job_id)
    monkeypatch.setattr(house.gate.reconciler, "_settings", a_second_later)
    assert await mended(house) == [("restore", holders[0].job_id)]
    assert await house.status(waiter) == "queued"


async def test_a_repair_that_failed_is_tried_by_the_next_sweep(house: House) -> None:
    holders = [await house.acquire() for _ in range(3)]
    house.people.zrem(house.key("slots"), holders[0].job_id)
    house.people.hset(house.key("meta"), "limit", 2)
    assert await mended(house) == [("settings", "")], "there was no room for the lease"
    assert [found.job_id for found in await house.gate.reconciler.sweep(house.pool)] == [holders[0].job_id]


async def test_an_entry_taken_out_by_hand_is_written_again(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    house.people.hdel(house.key("jobs"), holders[0].job_id, waiter.job_id)
    assert sorted(await mended(house)) == [("restore", holders[0].job_id), ("seat", waiter.job_id)]
    await house.release(holders[0])
    assert (await house.granted(waiter)).status == "granted"


async def test_a_waiter_taken_out_by_hand_has_its_old_place(house: House) -> None:
    _, first = await three_and_a_waiter(house)
    second, third = await house.acquire(), await house.acquire()
    house.people.lrem(house.key("queue"), 1, second.job_id)
    house.people.hdel(house.key("jobs"), second.job_id)
    assert await mended(house) == [("seat", second.job_id)]
    assert house.people.lrange(house.key("queue"), 0, -1) == [job.job_id for job in (first, second, third)]


async def test_a_job_that_ended_in_sql_leaves_redis(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    for job in (holders[0], waiter):
        await house.gate.ledger.end(house.pool, job.job_id, "cancelled", by="operator")
    assert sorted(await mended(house)) == sorted([("ended", holders[0].job_id), ("ended", waiter.job_id)])
    assert house.people.zcard(house.key("slots")) == 2 and house.people.llen(house.key("queue")) == 0


async def test_a_lost_expiry_is_found_by_its_deadline_in_sql(house: House) -> None:
    """Reaped, and its entry of the outbox deleted before it was read."""
    job = await house.acquire(credits=5, lease_ms=500)
    house.people.zrem(house.key("slots"), job.job_id)
    house.people.hdel(house.key("jobs"), job.job_id)
    while house.people.time()[0] * 1000 < (job.expires_at or 0) + 1000:
        pass
    assert await mended(house) == [("overdue", job.job_id)]
    assert (await house.look(job)).end_reason == "lease_timeout"
    assert await house.refunds(job) == [5]


async def test_a_lost_grant_is_adopted(house: House) -> None:
    """Promoted, and the entry of the outbox trimmed before it was read."""
    holders, waiter = await three_and_a_waiter(house)
    record = house.gate.ledger.record

    async def trimmed(pool, epoch, notes, good_until=None):
        house.people.delete(house.key("outbox"))
        return await record(pool, epoch, [])

    house.gate.ledger.record = trimmed
    await house.release(holders[0])
    await house.gate.recorder.run(house.pool)
    house.gate.ledger.record = record
    assert await house.status(waiter) == "queued"
    apply, left = house.gate.recorder.apply, []

    async def applied(pool, epoch, notes, good_until=None):
        left.append(good_until - time.monotonic())
        return await apply(pool, epoch, notes, good_until)

    house.gate.recorder.apply = applied
    assert await mended(house) == [("adopt", waiter.job_id)]
    assert 50 < left[-1] <= 60, "only as long as it has to claim"
    granted = await house.granted(waiter)
    assert (await house.keeper.claim(house.pool, waiter.job_id, granted.lease_id or "")).status == "running"


async def test_a_refusal_that_redis_never_heard_of_is_carried_out(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    await house.gate.ledger.refuse(house.pool, holders[0].job_id, holders[0].lease_id or "", "holder")
    assert await mended(house) == [("give_back", holders[0].job_id)]
    assert int(house.people.hget(house.key("meta"), "cooling_until") or 0) == 0, "no refusal of now: nothing cools down"
    assert (await house.granted(holders[0])).fence > holders[0].fence, "senior to the other waiter, it is granted anew"
    assert await house.status(waiter) == "queued"


async def test_a_stranger_is_void_in_sql_before_its_slot_is_freed(house: House, monkeypatch) -> None:
    """gate died between script and commit; and the commit comes after all, later than late."""
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    epoch = await house.gate.registry.epoch(house.pool)
    unknown = f"{house.pool}-unknown"
    taken = await house.gate.semaphore.acquire(house.pool, epoch, unknown, None, None, None)
    assert await mended(house) == [("stranger", unknown)]
    assert house.people.zcard(house.key("slots")) == 0
    facts = {"epoch": epoch, "ticket": taken.ticket, "at": taken.queued_at, "lease_ms": 1_000}
    late = await house.gate.ledger.admit(house.pool, Request(unknown), lease=taken.lease, **facts)
    assert late.result == "stale"


async def test_what_the_outbox_says_of_a_job_that_never_reached_sql_is_forgotten(house: House, monkeypatch) -> None:
    """gate died between script and commit, the caller did not repeat its call, and the lease has run out since."""
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    epoch = await house.gate.registry.epoch(house.pool)
    unknown = f"{house.pool}-unknown"
    taken = await house.gate.semaphore.acquire(house.pool, epoch, unknown, None, None, 500)
    await until(lambda: house.outbox() == 1, "its lease has run out")
    assert await mended(house) == [("unheard", unknown)]
    assert house.outbox() == 0
    (row,) = [one for one in await house.gate.services.ledger.pools() if one.name == house.pool]
    assert taken.lease is not None and (row.void_fence, row.void_ticket) == (taken.lease.fence, taken.ticket)
    assert (await house.acquire(unknown)).status == "running", "a fresh decision"


async def test_what_the_outbox_says_of_a_job_of_another_pool_is_forgotten(house: House, monkeypatch) -> None:
    """Two pools were asked for it at once, and SQL has it in the other."""
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    epoch, other = await house.gate.registry.epoch(house.pool), f"{house.pool}-other"
    await house.gate.ledger.make_pool(other, settings_of())
    job = await house.gate.services.admission.acquire(other, Request(f"{house.pool}-both"))
    await house.gate.semaphore.acquire(house.pool, epoch, job.job_id, None, None, 500)
    await until(lambda: house.outbox() == 1, "its lease here has run out")
    assert await mended(house) == [("unheard", job.job_id)]
    assert house.outbox() == 0
    assert (await house.keeper.cancel(other, job.job_id)).status == "cancelled"
    house.people.delete(*keys.keys(other))


async def test_a_name_put_into_a_slot_by_hand_is_taken_out(house: House) -> None:
    """It has no entry, so no ticket and no lease either."""
    house.people.zadd(house.key("slots"), {"ghost": 99_999_999_999_999})
    assert await mended(house) == [("stranger", "ghost")]
    assert house.people.zcard(house.key("slots")) == 0


async def test_a_stranger_that_is_recorded_at_last_is_not_voided(house: House) -> None:
    """The sweep saw no row; before it voids, the slow commit is there."""
    epoch = await house.gate.registry.epoch(house.pool)
    job = await house.acquire()
    assert await house.gate.ledger.void(house.pool, epoch, job.job_id, job.fence) is False
    assert await house.status(job) == "running"


async def test_a_young_stranger_is_left_alone(house: House) -> None:
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.semaphore.acquire(house.pool, epoch, f"{house.pool}-young", None, None, None)
    assert await mended(house) == []
    await house.acquire(f"{house.pool}-young")


async def test_a_holder_put_into_the_queue_by_hand_is_not_granted_again_over_its_lease(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    house.people.lpush(house.key("queue"), holders[0].job_id)
    await house.release(holders[1])
    assert (await house.granted(waiter)).status == "granted"
    renewed = await house.keeper.renew(house.pool, holders[0].job_id, holders[0].lease_id or "")
    assert renewed.fence == holders[0].fence
    assert house.people.llen(house.key("queue")) == 0


async def test_a_waiter_put_into_a_slot_by_hand_has_its_place_again(house: House) -> None:
    _, first = await three_and_a_waiter(house)
    second = await house.acquire()
    house.people.zadd(house.key("slots"), {first.job_id: 99_999_999_999_999})
    assert await mended(house) == [("give_back", first.job_id)]
    assert house.people.lrange(house.key("queue"), 0, -1) == [first.job_id, second.job_id]
    assert house.people.zcard(house.key("slots")) == 3


async def test_what_is_none_of_gates_keeps_the_sweep_from_nothing(house: House) -> None:
    holders, _ = await three_and_a_waiter(house)
    gone = house.people.hget(house.key("jobs"), holders[1].job_id)
    house.people.hset(house.key("jobs"), holders[1].job_id, str(gone).replace(f'"{holders[1].fence}"', '"x"'))
    with redis.Redis.from_url(house.redis_url) as raw:
        raw.zadd(house.key("slots"), {b"\xff\xfe": 1, holders[2].job_id: float("inf")})
        raw.hset(house.key("jobs"), b"\xff", b"{}")
        assert ("restore", holders[1].job_id) in await mended(house)
        raw.hdel(house.key("jobs"), b"\xff")
        raw.zrem(house.key("slots"), b"\xff\xfe")
    await house.release(holders[2])


async def test_settings_are_those_of_sql(house: House) -> None:
    house.people.hset(house.key("meta"), "limit", 99)
    assert await mended(house) == [("settings", "")]
    assert house.people.hget(house.key("meta"), "limit") == "3"
    await house.gate.ledger.configure({house.pool: settings_of(limit=1)})
    assert await mended(house) == [("settings", "")]
    assert [(await house.acquire()).status for _ in range(2)] == ["running", "queued"]


async def test_a_key_of_the_wrong_type_is_loaded_anew(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    house.people.delete(house.key("queue"))
    house.people.set(house.key("queue"), "mine")
    view = await house.gate.services.queries.pool(house.pool)
    assert {job.job_id for job in view.holders} == {job.job_id for job in holders}
    assert [job.job_id for job in view.queue] == [waiter.job_id]


async def test_what_the_outbox_speaks_of_is_on_its_way(house: House) -> None:
    holders, waiter = await three_and_a_waiter(house)
    epoch = await house.gate.registry.epoch(house.pool)
    record, house.gate.ledger.record = house.gate.ledger.record, _nothing
    await house.gate.semaphore.release(house.pool, epoch, holders[0].job_id, holders[0].lease_id or "")
    seen = await house.gate.semaphore.survey(house.pool)
    live = await house.gate.services.ledger.live(house.pool)
    assert waiter.job_id not in {found.job_id for found in examine(seen, live, {})}
    assert waiter.job_id in seen.noted
    house.gate.ledger.record = record
    await house.release(holders[0])


async def _nothing(pool, epoch, notes, good_until=None):
    return RecordReply(stale=True)
