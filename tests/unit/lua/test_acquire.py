import pytest
from structlog.testing import capture_logs

from gate.slots import NotDone
from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def test_three_run_the_fourth_waits(line: LineOfPool) -> None:
    words = [(await line.acquire(job)).result for job in "abcde"]
    assert words == ["running", "running", "running", "queued", "queued"]
    assert await line.holders() == {"a", "b", "c"}
    assert await line.queue() == ["d", "e"]


async def test_a_grant_says_everything_its_holder_needs(line: LineOfPool) -> None:
    got = await line.acquire("a")
    assert got.lease is not None
    assert len(got.lease.lease_id) == 32
    assert got.lease.granted_at == line.clock.now
    assert got.lease.due == line.clock.now + 600_000
    assert got.lease.hard == line.clock.now + 3_600_000
    assert got.next_ms == got.lease.due
    assert (got.known, got.emitted, got.more) == (False, 0, False)


async def test_lease_ids_differ_and_fences_only_grow(line: LineOfPool) -> None:
    grants = [(await line.acquire(job)).lease for job in "abc"]
    assert len({lease.lease_id for lease in grants if lease}) == 3
    fences = [lease.fence for lease in grants if lease]
    assert fences == sorted(set(fences))


async def test_asked_again_it_answers_the_same_and_takes_nothing(line: LineOfPool) -> None:
    first = [await line.acquire(job) for job in "abcd"]
    before = await line.dump()
    again = [await line.acquire(job) for job in "abcd"]
    after = await line.dump()
    assert after | {"jobs": {}} == before | {"jobs": {}}
    assert (await line.entry("a")).pop("again") is True, "the only change: a second call came"
    assert [one.lease for one in again] == [one.lease for one in first]
    assert [one.ticket for one in again] == [one.ticket for one in first]
    assert all(one.known for one in again)


async def test_a_newcomer_does_not_overtake_a_waiter(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.release("a", await line.lease_of("a"))
    assert (await line.acquire("e")).result == "queued"
    assert await line.holders() == {"b", "c", "d"}


async def test_a_newcomer_does_not_overtake_waiters_left_by_the_bound(line: LineOfPool) -> None:
    """Slots come free for all, one script promotes a hundred: the newcomer stands behind the twenty others."""
    await line.load(epoch=2, limit=0)
    for number in range(120):
        await line.acquire(f"w{number}")
    await line.client.hset(line.key("meta"), "limit", 200)
    newcomer = await line.semaphore._run("acquire", line.pool, line.epoch, "newcomer", "", "", "", grants=110)
    assert (newcomer["word"], newcomer["more"]) == ("queued", True)
    assert "newcomer" not in await line.client.zrange(line.key("slots"), 0, -1)


async def test_a_dead_lease_is_reaped_before_a_caller_is_refused(line: LineOfPool) -> None:
    for job in "abc":
        await line.acquire(job)
    line.clock.turn(600_000)
    assert (await line.acquire("d")).result == "running"
    assert await line.holders() == {"d"}
    assert [note[:2] for note in await line.notes()] == [("expired", "a"), ("expired", "b"), ("expired", "c")]


async def test_a_lease_of_its_own_length(line: LineOfPool) -> None:
    got = await line.acquire("a", lease_ms=5_000)
    assert got.lease is not None and got.lease.due == line.clock.now + 5_000


async def test_no_lease_is_longer_than_the_hard_limit(line: LineOfPool) -> None:
    got = await line.acquire("a", lease_ms=9_000_000)
    assert got.lease is not None and got.lease.due == got.lease.hard


async def test_an_end_in_the_outbox_is_not_admitted_anew(line: LineOfPool) -> None:
    await line.acquire("a")
    line.clock.turn(600_000)
    await line.tick()
    before = await line.dump()
    assert (await line.acquire("a")).result == "unrecorded"
    assert await line.dump() == before


async def test_the_cap_counts_running_and_waiting_jobs(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, max_active_per_user=2)
    await line.acquire("a", user="ana")
    await line.acquire("b", user="ana")
    before = await line.dump()
    refused = await line.acquire("c", user="ana")
    assert (refused.result, refused.active) == ("user_busy", ("a", "b"))
    assert await line.dump() == before
    assert (await line.acquire("d", user="ana maria")).result == "queued", "a name that begins alike is another"
    assert (await line.acquire("e")).result == "queued", "a job without a user has no cap"


async def test_the_cap_forgets_ended_jobs(line: LineOfPool) -> None:
    await line.load(epoch=2, max_active_per_user=1)
    got = await line.acquire("a", user="ana")
    assert got.lease is not None
    await line.release("a", got.lease.lease_id)
    assert (await line.acquire("b", user="ana")).result == "running"


async def test_the_cap_of_waiting_jobs_counts_only_who_waits(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2, queue_max_per_user=2)
    got = [await line.acquire(job, user="ana") for job in "abcd"]
    assert [one.result for one in got] == ["running", "running", "queued", "queued"]
    before = await line.dump()
    assert (await line.acquire("e", user="ana")).result == "user_queue_full"
    assert await line.dump() == before
    assert (await line.acquire("d", user="ana")).result == "queued", "who waits already is no newcomer"
    assert (await line.acquire("f", user="bruno")).result == "queued"
    assert (await line.acquire("g")).result == "queued", "nobody has no cap"
    assert got[0].lease is not None
    await line.release("a", got[0].lease.lease_id)
    assert (await line.acquire("e", user="ana")).result == "queued"


async def test_a_free_slot_is_no_matter_of_the_cap_of_waiting_jobs(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=3, queue_max_per_user=1)
    assert [(await line.acquire(job, user="ana")).result for job in "abc"] == ["running"] * 3


async def test_a_full_queue_refuses_and_writes_nothing(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, queue_max=1)
    await line.acquire("a")
    await line.acquire("b")
    before = await line.dump()
    assert (await line.acquire("c")).result == "queue_full"
    assert await line.dump() == before
    assert (await line.acquire("b")).result == "queued", "who waits already is no newcomer"


async def test_paused_or_cooling_every_job_waits(line: LineOfPool) -> None:
    await line.load(epoch=2, paused=1)
    assert (await line.acquire("a")).result == "queued"
    assert (await line.status()).reason == "paused"


async def test_cold_and_another_epoch_write_nothing(line: LineOfPool) -> None:
    line.epoch = 7
    before = await line.dump()
    with pytest.raises(NotDone, match="cold"):
        await line.acquire("a")
    assert await line.dump() == before
    await line.sweep_up()
    with pytest.raises(NotDone, match="cold"):
        await line.acquire("a")
    assert not await line.client.exists(line.key("jobs"))


async def test_a_slot_without_an_entry_is_not_taken_over(line: LineOfPool) -> None:
    await line.acquire("a")
    await line.client.hdel(line.key("jobs"), "a")
    before = await line.dump()
    assert (await line.acquire("a")).result == "torn"
    assert await line.dump() == before


async def test_a_key_of_the_wrong_type_changes_nothing_and_is_named(line: LineOfPool) -> None:
    await line.client.set(line.key("queue"), "mine")
    with capture_logs() as said, pytest.raises(NotDone, match="damaged"):
        await line.acquire("a")
    assert [(one["key"], one["found"]) for one in said] == [(line.key("queue"), "string")]
    assert not await line.client.exists(line.key("slots"))


async def test_what_an_admission_writes_down(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=0)
    got = await line.acquire("a", "ana", "Upscaler", 5_000, by_gate=True)
    assert await line.entry("a") == {
        "user": "ana", "tool": "Upscaler", "ticket": str(got.ticket), "queued_at": line.clock.now, "lease_ms": 5_000, "by_gate": True,
    }  # fmt: skip
    got = await line.acquire("b")
    assert await line.entry("b") == {"ticket": str(got.ticket), "queued_at": line.clock.now, "lease_ms": 600_000}


async def test_a_job_granted_meanwhile_is_told_so_when_it_asks_again(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.release("a", await line.lease_of("a"))
    got = await line.acquire("d")
    assert (got.result, got.known) == ("granted", True)
    assert got.lease is not None and got.lease.due == line.clock.now + 60_000


async def test_a_caller_that_does_not_wait_gets_a_slot_or_nothing(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    assert (await line.acquire("a", or_wait=False)).result == "running"
    before = await line.dump()
    assert (await line.acquire("b", or_wait=False)).result == "no_slot"
    assert await line.dump() == before


async def test_with_a_queue_of_zero_a_free_slot_is_granted(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, queue_max=0)
    assert [(await line.acquire(job)).result for job in "ab"] == ["running", "queue_full"]


async def test_what_gate_starts_is_granted_and_waits_for_gate(line: LineOfPool) -> None:
    got = await line.acquire("a", by_gate=True)
    assert (got.result, got.by_gate, got.known, got.lease) == ("queued", True, False, None)
    status = await line.status()
    assert (status.holders, status.queue, status.granted) == (("a",), (), 1)


async def test_a_waiter_that_was_put_into_a_slot_by_hand_has_no_lease_to_be_told(line: LineOfPool) -> None:
    for job in "abcd":
        await line.acquire(job)
    await line.client.zadd(line.key("slots"), {"d": line.clock.now + 1_000})
    assert (await line.acquire("d")).result == "torn"


async def test_a_waiter_without_a_place_joins_the_end(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    await line.client.lrem(line.key("queue"), 1, "d")
    got = await line.acquire("d")
    assert (got.result, got.known) == ("queued", False)
    assert await line.queue() == ["e", "d"]


async def test_a_place_without_an_entry_is_no_place(line: LineOfPool) -> None:
    for job in "abcde":
        await line.acquire(job)
    await line.client.hdel(line.key("jobs"), "e")
    got = await line.acquire("e")
    assert (got.result, got.known) == ("queued", False)
    assert (await line.entry("e"))["ticket"] == str(got.ticket)


async def test_a_newcomer_without_a_lease_id_left_in_the_call_waits_for_the_next(line: LineOfPool) -> None:
    """Eight waiters take the eight leases that an acquire carries."""
    await line.load(epoch=2, limit=0)
    for number in range(8):
        await line.acquire(f"w{number}")
    await line.client.hset(line.key("meta"), "limit", 9)
    assert (await line.acquire("newcomer")).result == "queued"
    await line.tick()
    assert len(await line.lease_of("newcomer")) == 32


async def test_what_it_says_of_an_end_that_is_not_recorded(line: LineOfPool) -> None:
    first = await line.acquire("a")
    line.clock.turn(600_000)
    got = await line.acquire("a", lease_ms=7_000)
    assert (got.result, got.ticket, got.queued_at, got.lease_ms) == ("unrecorded", first.ticket, line.clock.now, 7_000)
