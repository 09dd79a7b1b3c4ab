"""Each guarantee by the race it closes. `test_guards.py` takes the guarding lines out and sees these go red."""

from __future__ import annotations

import asyncio

import pytest

from gate.errors import AlreadyEnded, JobIdReused, LeaseLost, StoreDown, UserBusy
from gate.jobs import Request, now_ms
from gate.ledger import Recorded
from gate.slots import keys
from tests.support import House, settings_of, until

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
    assert ended.word == "ended"
    house.expire(job)
    await house.keeper.view.pool(house.pool)
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
    rows, _ = await house.keeper.view.reading.entries(job_id=jobs[0].job_id)
    assert [(row.kind, row.amount) for row in rows] == [("charge", 5)]


async def test_fifty_at_once_run_three_and_queue_the_rest_in_order(house: House) -> None:
    jobs = await asyncio.gather(*(house.acquire() for _ in range(50)))
    assert sum(job.status == "running" for job in jobs) == 3
    queued = sorted((job for job in jobs if job.status == "queued"), key=lambda job: job.ticket)
    view = await house.keeper.view.pool(house.pool)
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
async def test_two_who_ask_at_once_for_a_job_that_sql_will_not_have_here_leave_no_ghost(house: House, whose: str) -> None:
    """Each finds that the other has asked too; neither may leave the slot to the other."""
    job_id, other = f"{house.pool}-twice", f"{house.pool}-other"
    if whose == "ended":
        await house.release(await house.acquire(job_id))
    else:
        await house.gate.ledger.make_pool(other, settings_of())
        await house.keeper.acquire(other, Request(job_id))
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


async def test_nobody_is_busy_because_of_a_job_that_ended(open_house, valkey: str) -> None:
    """The release reached SQL and never Redis."""
    async with open_house(max_active_per_user=1) as house:
        job = await house.acquire(user="ana")
        await house.gate.ledger.end(house.pool, job.job_id, "completed", by="holder", lease_id=job.lease_id)
        again = await house.acquire(user="ana")
        assert again.status == "running"
        with pytest.raises(UserBusy) as refused:
            await house.acquire(user="ana")
        assert refused.value.active_job_id == again.job_id


async def test_an_answer_of_an_earlier_epoch_is_not_recorded(house: House) -> None:
    """Between Redis's answer and SQL's commit the pool is rebuilt: the path starts again, under the new epoch."""
    admit, rebuilt = house.gate.ledger.admit, []

    async def admit_late(pool, request, **facts):
        if not rebuilt:
            rebuilt.append(facts["epoch"])
            await house.gate.known.rebuild(pool, facts["epoch"])
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
    with pytest.raises(AlreadyEnded) as refused:
        await house.acquire("slowly", lease_ms=500, credits=5)
    assert (seen[0].status, refused.value.job.status) == ("running", "expired")
    assert await house.refunds("slowly") == [5]


async def test_a_repeat_after_the_lease_is_over_is_not_told_that_it_runs(house: House) -> None:
    """Redis has reaped it, and SQL has not heard of that yet."""
    job = await house.acquire(credits=5)
    epoch = await house.gate.known.epoch(house.pool)
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
        words.append(extended.word)
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
        await house.gate.semaphore.tick(house.pool, await house.gate.known.epoch(house.pool))
        return refused

    house.gate.ledger.refuse = refuse_and_reap
    refused = await house.release(holders[0], "refused")
    assert (refused.status, refused.position) == ("queued", 1)
    assert house.people.lrange(house.key("queue"), 0, -1) == [refused.job_id]


async def test_a_grant_that_is_over_before_sql_heard_of_it_never_was(house: House) -> None:
    """SQL was away for longer than the claim time: back to its place, nobody was told, nothing is refunded."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire(credits=5)
    record, held = house.gate.ledger.record, []

    async def later(pool, epoch, notes, good_until=None):
        held[:] = notes
        return Recorded(done=[])

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


async def test_an_acquire_that_waits_is_not_answered_with_an_ended_job(house: House) -> None:
    """200 means running: who starts a job that was cancelled while it waited works for nothing."""
    [await house.acquire() for _ in range(3)]
    waiting = asyncio.create_task(house.acquire("gone-" + house.pool, 10, credits=5))
    await until(lambda: house.people.llen(house.key("queue")), "it waits")
    await until(lambda: house.keeper.view.reading.job("gone-" + house.pool), "SQL knows it")
    await house.keeper.cancel(house.pool, "gone-" + house.pool)
    with pytest.raises(AlreadyEnded):
        await waiting


async def test_who_could_not_renew_while_gate_was_away_has_grace(house: House) -> None:
    """Nobody called for longer than two ticks: a deadline that passed meanwhile is not the holder's fault."""
    job, waiter = await house.acquire(), None
    await house.acquire()
    await house.acquire()
    waiter = await house.acquire()
    house.people.hset(house.key("meta"), "seen_at", 1)
    house.expire(job)
    assert (await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")).status == "running"
    assert await house.status(waiter) == "queued"


async def test_that_grace_is_given_once_however_often_redis_is_lost(house: House) -> None:
    """Else a gate that dies with its Redis more often than its claim time would never reap whoever was lost."""
    job = await house.acquire(credits=5)
    ledger, deadlines = house.gate.ledger, []
    await ledger._database.write("", "", lambda batch: batch.put(job, expires_at=1) and None)
    for _ in range(2):
        await house.gate.known.reload(house.pool)
        deadlines.append(int(house.people.zscore(house.key("slots"), job.job_id)))
        assert (await house.look(job)).expires_at == deadlines[-1] > now_ms(), "SQL knows of it"
    assert deadlines[0] == deadlines[1]


async def test_while_sql_cannot_be_written_nobody_is_reaped(house: House) -> None:
    job = await house.acquire()
    database = house.gate.ledger._database
    write = database.write

    async def away(*_args):
        raise StoreDown("sql", "away")

    database._writer.writable, database.write = False, away
    house.expire(job)
    with pytest.raises(StoreDown):
        await house.keeper.view.pool(house.pool)
    assert house.people.zscore(house.key("slots"), job.job_id) == 1
    database.write = write
    await until(lambda: _is(house, job.job_id, "expired"), "SQL is back, and the tick goes on")


async def test_a_crash_between_redis_and_sql_is_recorded_by_the_repeat(house: House) -> None:
    """gate dies after the script: the same job_id asks again, and gets what it has."""
    epoch = await house.gate.known.epoch(house.pool)
    for number in range(4):
        await house.gate.semaphore.acquire(house.pool, epoch, f"{house.pool}-{number}", None, None, None)
    jobs = [await house.acquire(f"{house.pool}-{number}", credits=5) for number in range(4)]
    assert [job.status for job in jobs] == ["running"] * 3 + ["queued"]
    assert house.people.zcard(house.key("slots")) == 3


async def test_a_crash_before_a_grant_was_told_is_recorded_by_the_repeat(house: House) -> None:
    """As before, and by the time it asks again it was promoted: it waited in Redis, and SQL never knew."""
    epoch = await house.gate.known.epoch(house.pool)
    holders = [await house.acquire() for _ in range(3)]
    unknown = f"{house.pool}-unknown"
    await house.gate.semaphore.acquire(house.pool, epoch, unknown, None, None, None)
    await house.release(holders[0])
    await house.gate.recorder.run(house.pool)  # SQL does not know it yet: its entry stays
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
    epoch = await house.gate.known.epoch(house.pool)
    await house.gate.ledger.record(house.pool, epoch, [_note(granted)])
    assert (await house.look(granted)).status == "queued"
    await house.release(holders[1])


async def test_an_expiry_of_an_old_fence_does_not_end_the_newer_lease(house: House) -> None:
    holders = [await house.acquire(credits=5) for _ in range(3)]
    await house.release(holders[0], "refused")
    await house.release(holders[1])  # lifts the cool-down: the refused one is granted anew
    again = await house.granted(holders[0])
    epoch = await house.gate.known.epoch(house.pool)
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
    await house.gate.known.rebuild(house.pool, await house.gate.known.epoch(house.pool))


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
    view = await house.keeper.view.pool(house.pool)
    assert {job.job_id for job in view.holders} == {job.job_id for job in holders}
    assert [job.job_id for job in view.queue] == [job.job_id for job in waiters]
    for holder, waiter in zip(holders, waiters, strict=True):
        assert (await house.release(holder)).status == "completed"
        assert (await house.granted(waiter)).status == "granted"


async def test_fifty_calls_that_meet_a_cold_redis_rebuild_it_once(house: House) -> None:
    epoch = await house.gate.known.epoch(house.pool)
    house.people.delete(house.key("meta"))
    await asyncio.gather(*(house.acquire() for _ in range(50)))
    assert await house.gate.known.epoch(house.pool) == epoch + 1


async def test_a_reply_that_was_lost_means_the_script_ran_twice_and_nothing_more(house: House) -> None:
    """Each script runs twice, as redis-py does when a connection breaks after the write."""
    semaphore, call = house.gate.semaphore, house.gate.semaphore._call

    async def twice(verb, pool, args):
        await call(verb, pool, args)
        return await call(verb, pool, args)

    semaphore._call = twice
    jobs = [await house.acquire(credits=5) for _ in range(5)]
    assert [job.status for job in jobs] == ["running"] * 3 + ["queued"] * 2
    await house.release(jobs[0], "failed")
    granted = await house.granted(jobs[3])
    assert (await house.keeper.claim(house.pool, granted.job_id, granted.lease_id or "")).status == "running"
    assert (await house.release(jobs[1], "refused")).status == "queued"
    await house.keeper.cancel(house.pool, jobs[2].job_id)
    semaphore._call = call
    assert [await house.refunds(job) for job in jobs] == [[5], [], [5], [], []]


def _note(job, kind: str = "granted"):
    from gate.slots import Note

    lease = job.lease if kind == "granted" else None
    return Note("0-1", kind, job.job_id, job.fence, job.granted_at or 1, lease)


async def _is(house: House, job_id: str, status: str) -> bool:
    return await house.status(job_id) == status
