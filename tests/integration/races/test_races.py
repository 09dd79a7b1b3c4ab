"""Each guarantee by the race it closes. `test_guards.py` takes the guarding lines out and sees these go red."""

from __future__ import annotations

import asyncio

import pytest

from gate.model.errors import AlreadyEnded, JobIdReused, LeaseLost, StoreDown, UserBusy
from gate.model.job import Request, now_ms
from gate.slots import keys
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_release_after_expiry_does_not_free_the_next_holder(house: House) -> None:
    lost, *_ = [await house.acquire(credits=5) for _ in range(3)]
    waiter = await house.acquire()
    house.expire(lost)
    granted = await house.granted(waiter)
    with pytest.raises(LeaseLost):
        await house.release(lost)
    assert await house.status(granted) == "granted"
    assert granted.job_id in house.people.zrange(house.key("slots"), 0, -1)
    assert await house.refunds(lost) == [5]


async def test_renew_after_expiry_does_not_walk_back_in(house: House) -> None:
    lost = await house.acquire()
    house.expire(lost)
    with pytest.raises(LeaseLost):
        await house.keeper.renew(house.pool, lost.job_id, lost.lease_id or "")
    assert house.people.zrange(house.key("slots"), 0, -1) == []
    assert await house.status(lost) == "expired"


async def test_a_success_that_reached_sql_first_wins_over_the_expiry(house: House) -> None:
    """The holder's release is committed, and before Redis hears of it the lease is reaped."""
    job = await house.acquire(credits=5)
    ended = await house.gate.ledger.end(house.pool, job.job_id, "completed", by="holder", lease_id=job.lease_id)
    assert ended.result == "ended"
    house.expire(job)
    await house.gate.services.queries.pool(house.pool)
    await house.settled()
    assert await house.status(job) == "completed"
    assert await house.refunds(job) == []


async def test_a_late_success_keeps_the_refund_and_is_remembered(house: House) -> None:
    job = await house.acquire(credits=5)
    house.expire(job)
    await until(lambda: _is(house, job.job_id, "expired"), "the lease is reaped")
    with pytest.raises(LeaseLost) as refused:
        await house.release(job)
    assert refused.value.job is not None and refused.value.job.late_outcome == "completed"
    assert await house.refunds(job) == [5]


async def test_fifty_releases_and_cancels_at_once_refund_once(house: House) -> None:
    job = await house.acquire(credits=5)
    calls = [house.release(job, "failed") for _ in range(25)]
    calls += [house.keeper.cancel(house.pool, job.job_id) for _ in range(25)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers if isinstance(answer, BaseException)} <= {AlreadyEnded}
    assert await house.refunds(job) == [5]


async def test_fifty_acquires_of_one_job_take_one_slot_and_charge_once(house: House) -> None:
    jobs = await asyncio.gather(*(house.acquire("same-" + house.pool, credits=5) for _ in range(50)))
    assert len({job.lease_id for job in jobs}) == 1
    assert house.people.zcard(house.key("slots")) == 1
    rows, _ = await house.gate.services.ledger.entries(job_id=jobs[0].job_id)
    assert [(row.kind, row.amount) for row in rows] == [("charge", 5)]


async def test_fifty_at_once_run_three_and_queue_the_rest_in_order(house: House) -> None:
    jobs = await asyncio.gather(*(house.acquire() for _ in range(50)))
    assert sum(job.status == "running" for job in jobs) == 3
    queued = sorted((job for job in jobs if job.status == "queued"), key=lambda job: job.ticket)
    view = await house.gate.services.queries.pool(house.pool)
    assert [job.job_id for job in view.queue] == [job.job_id for job in queued]
    assert [job.position for job in view.queue] == list(range(1, 48))


async def test_a_slot_whose_expiry_is_not_recorded_yet_can_be_taken(house: House) -> None:
    """Redis has reaped, SQL has not heard of it: the newcomer's commit finds no room, records the outbox, looks again."""
    lost = [await house.acquire(credits=5) for _ in range(3)]
    for job in lost:
        house.expire(job)
    newcomers = await asyncio.gather(*(house.acquire() for _ in range(3)))
    assert [job.status for job in newcomers] == ["running"] * 3
    assert [await house.status(job) for job in lost] == ["expired"] * 3


async def test_a_job_that_ended_is_not_admitted_again_and_its_slot_goes_back(house: House) -> None:
    job = await house.acquire(credits=5)
    await house.release(job)
    with pytest.raises(AlreadyEnded):
        await house.acquire(job.job_id, credits=5)
    assert house.people.zrange(house.key("slots"), 0, -1) == []


@pytest.mark.parametrize("whose", ["ended", "of another pool"])
async def test_two_acquires_of_a_job_that_sql_refuses_leave_no_ghost(house: House, whose: str) -> None:
    """Each finds that the other has asked too; neither may leave the slot to the other."""
    job_id, other = f"{house.pool}-twice", f"{house.pool}-other"
    if whose == "ended":
        await house.release(await house.acquire(job_id))
    else:
        await house.gate.ledger.make_pool(other, settings_of())
        await house.gate.services.admission.acquire(other, Request(job_id))
    admit, decided = house.gate.ledger.admit, []

    async def both_decided(pool, request, **facts):
        decided.append(request)
        await until(lambda: len(decided) == 2, "Redis has decided about both")
        return await admit(pool, request, **facts)

    house.gate.ledger.admit = both_decided
    answers = await asyncio.gather(*(house.acquire(job_id) for _ in range(2)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {AlreadyEnded if whose == "ended" else JobIdReused}
    assert house.people.zrange(house.key("slots"), 0, -1) == []
    assert house.people.hlen(house.key("jobs")) == 0
    if whose != "ended":
        await house.keeper.cancel(other, job_id)
        house.people.delete(*keys.keys(other))


async def test_an_ended_job_keeps_no_user_busy(open_house, valkey: str) -> None:
    """The release reached SQL and never Redis."""
    async with open_house(max_active_per_user=1) as house:
        job = await house.acquire(user="ana")
        await house.gate.ledger.end(house.pool, job.job_id, "completed", by="holder", lease_id=job.lease_id)
        again = await house.acquire(user="ana")
        assert again.status == "running"
        with pytest.raises(UserBusy) as refused:
            await house.acquire(user="ana")
        assert refused.value.active_job_id == again.job_id


async def test_an_acquire_whose_job_is_cancelled_in_its_wait_is_answered_with_its_end(house: House) -> None:
    """It was charged and refunded. A refusal would say that nothing was admitted."""
    [await house.acquire() for _ in range(3)]
    waiting = asyncio.create_task(house.acquire("gone-" + house.pool, 10, credits=5))
    await until(lambda: house.people.llen(house.key("queue")), "it waits")
    await until(lambda: house.gate.services.ledger.job("gone-" + house.pool), "SQL knows it")
    await house.keeper.cancel(house.pool, "gone-" + house.pool)
    job = await waiting
    assert (job.status, job.refund and job.refund.amount, job.lease) == ("cancelled", 5, None)
    with pytest.raises(AlreadyEnded):
        await house.acquire("gone-" + house.pool, credits=5)


async def test_a_holder_that_could_not_renew_while_gate_was_away_has_grace(house: House) -> None:
    """No call came for longer than two ticks: a deadline that passed meanwhile is not the holder's fault."""
    job, waiter = await house.acquire(), None
    await house.acquire()
    await house.acquire()
    waiter = await house.acquire()
    house.people.hset(house.key("meta"), "seen_at", 1)
    house.expire(job)
    assert (await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")).status == "running"
    assert await house.status(waiter) == "queued"


async def test_that_grace_is_given_once_however_often_redis_is_lost(house: House) -> None:
    """Otherwise a gate that dies with its Redis more often than its claim time would never reap a lost lease."""
    job = await house.acquire(credits=5)
    ledger, deadlines = house.gate.ledger, []
    await ledger._database.write("", "", lambda batch: batch.put(job, expires_at=1) and None)
    for _ in range(2):
        await house.gate.registry.reload(house.pool)
        deadlines.append(int(house.people.zscore(house.key("slots"), job.job_id)))
        assert (await house.look(job)).expires_at == deadlines[-1] > now_ms(), "SQL knows of it"
    assert deadlines[0] == deadlines[1]


async def test_while_sql_cannot_be_written_no_lease_is_reaped(house: House) -> None:
    job = await house.acquire()
    database = house.gate.ledger._database
    write = database.write

    async def away(*_args):
        raise StoreDown("sql", "away")

    database._writer.writable, database.write = False, away
    house.expire(job)
    with pytest.raises(StoreDown):
        await house.gate.services.queries.pool(house.pool)
    assert house.people.zscore(house.key("slots"), job.job_id) == 1
    database.write = write
    await until(lambda: _is(house, job.job_id, "expired"), "SQL is back, and the tick goes on")


async def test_a_crash_between_redis_and_sql_is_recorded_by_the_repeat(house: House) -> None:
    """gate dies after the script: the same job_id asks again, and gets what it has."""
    epoch = await house.gate.registry.epoch(house.pool)
    for number in range(4):
        await house.gate.semaphore.acquire(house.pool, epoch, f"{house.pool}-{number}", None, None, None)
    jobs = [await house.acquire(f"{house.pool}-{number}", credits=5) for number in range(4)]
    assert [job.status for job in jobs] == ["running"] * 3 + ["queued"]
    assert house.people.zcard(house.key("slots")) == 3


async def test_a_crash_before_a_grant_was_told_is_recorded_by_the_repeat(house: House) -> None:
    """As before, and by the time it asks again it was promoted: it waited in Redis, and SQL never knew."""
    unknown = await house.granted_before_its_row()
    job = await house.acquire(unknown)
    assert job.status == "granted"
    assert (await house.keeper.claim(house.pool, unknown, job.lease_id or "")).status == "running"


async def test_a_grant_given_back_is_not_recorded_again(house: House) -> None:
    """A slow recorder applies the entry of a grant that its holder has refused since: not older is not newer."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    await house.release(holders[0])
    granted = await house.granted(waiter)
    assert granted.lease is not None
    refused = await house.release(granted, "refused")
    assert refused.status == "queued"
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.ledger.record(house.pool, epoch, [_note(granted)])
    assert (await house.look(granted)).status == "queued"
    await house.release(holders[1])


async def test_an_expiry_of_an_old_fence_does_not_end_the_newer_lease(house: House) -> None:
    holders = [await house.acquire(credits=5) for _ in range(3)]
    await house.release(holders[0], "refused")
    await house.release(holders[1])  # lifts the cool-down: the refused one is granted anew
    again = await house.granted(holders[0])
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.ledger.record(house.pool, epoch, [_note(holders[0], "expired")])
    assert await house.status(again) == "granted"
    assert await house.refunds(again) == []


async def test_a_grant_beyond_the_limit_of_sql_goes_back_to_its_place(house: House) -> None:
    """The limit was lowered in SQL, Redis has not heard of it."""
    holders = [await house.acquire() for _ in range(3)]
    first, second = await house.acquire(), await house.acquire()
    await house.gate.ledger.configure({house.pool: settings_of(limit=2)})
    await house.release(holders[0])
    await house.settled()
    assert [await house.status(job) for job in (first, second)] == ["queued", "queued"]
    assert house.people.lrange(house.key("queue"), 0, -1) == [first.job_id, second.job_id]
    await house.gate.registry.rebuild(house.pool, await house.gate.registry.epoch(house.pool))


async def test_a_claim_is_told_only_after_sql_has_it(house: House) -> None:
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    await house.release(holders[0])
    granted = await house.granted(waiter)
    extend = house.gate.ledger.extend

    async def away(*_args, **_facts):
        raise StoreDown("sql", "away")

    house.gate.ledger.extend = away
    with pytest.raises(StoreDown):
        await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")
    house.gate.ledger.extend = extend
    claimed = await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")
    due = house.people.zscore(house.key("slots"), granted.job_id)
    assert claimed.lease is not None and claimed.lease.due == due, "what was told is what Redis holds"


async def test_flushall_loses_nothing_that_was_told(house: House) -> None:
    holders = [await house.acquire(credits=5) for _ in range(3)]
    waiters = [await house.acquire(credits=5) for _ in range(3)]
    house.people.delete(*(house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")))
    view = await house.gate.services.queries.pool(house.pool)
    assert {job.job_id for job in view.holders} == {job.job_id for job in holders}
    assert [job.job_id for job in view.queue] == [job.job_id for job in waiters]
    for holder, waiter in zip(holders, waiters, strict=True):
        assert (await house.release(holder)).status == "completed"
        assert (await house.granted(waiter)).status == "granted"


async def test_fifty_calls_that_meet_a_cold_redis_rebuild_it_once(house: House) -> None:
    epoch = await house.gate.registry.epoch(house.pool)
    house.people.delete(house.key("meta"))
    await asyncio.gather(*(house.acquire() for _ in range(50)))
    assert await house.gate.registry.epoch(house.pool) == epoch + 1


async def test_a_reply_that_was_lost_means_the_script_ran_twice_and_nothing_more(house: House) -> None:
    """Each script runs twice, as redis-py does when a connection breaks after the write."""
    scripts, call = house.gate.semaphore._scripts, house.gate.semaphore._scripts.call

    async def twice(verb, pool, args):
        await call(verb, pool, args)
        return await call(verb, pool, args)

    scripts.call = twice
    jobs = [await house.acquire(credits=5) for _ in range(5)]
    assert [job.status for job in jobs] == ["running"] * 3 + ["queued"] * 2
    await house.release(jobs[0], "failed")
    granted = await house.granted(jobs[3])
    assert (await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")).status == "running"
    assert (await house.release(jobs[1], "refused")).status == "queued"
    await house.keeper.cancel(house.pool, jobs[2].job_id)
    scripts.call = call
    assert [await house.refunds(job) for job in jobs] == [[5], [], [5], [], []]


def _note(job, kind: str = "granted"):
    from gate.model.messages import EntryKind, OutboxEntry

    lease = job.lease if kind == "granted" else None
    return OutboxEntry("0-1", EntryKind(kind), job.job_id, job.fence, job.granted_at or 1, lease)


async def _is(house: House, job_id: str, status: str) -> bool:
    return await house.status(job_id) == status
