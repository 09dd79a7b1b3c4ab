"""A job that its provider always refuses: others are tried in between, and it keeps its place."""

from __future__ import annotations

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def refuse(line: LineOfPool, job: str) -> None:
    """The provider refuses the grant of the job, at once."""
    assert (await line.requeue(job, int((await line.entry(job))["fence"]))).result == "requeued"


async def cool(line: LineOfPool) -> int:
    """Let the pool's cool-down pass, and say how long that was (ms)."""
    until = (await line.status()).cooling_until
    wait_ms = 0 if until is None else until - line.clock.now
    line.clock.turn(wait_ms)
    await line.tick()
    return wait_ms


async def refused_thrice(line: LineOfPool, job: str = "poison") -> None:
    for _ in range(3):
        assert job in await line.holders()
        await refuse(line, job)
        await cool(line)


async def poisoned(line: LineOfPool) -> None:
    """A pool of one slot with a poison job, which was refused once more after another job had run."""
    await line.load(epoch=2, limit=1, refusals_before_passing=1)
    await line.acquire("poison")
    await line.acquire("before")
    await refuse(line, "poison")
    await cool(line)
    await start(line, "before")
    await end(line, "before")
    await refuse(line, "poison")


async def start(line: LineOfPool, job: str) -> None:
    assert (await line.claim(job, await line.lease_of(job))).result == "claimed"


async def end(line: LineOfPool, job: str) -> None:
    assert (await line.release(job, await line.lease_of(job))).result == "released"


async def test_after_three_refusals_the_next_waiter_is_tried_and_it_keeps_its_place(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for job in ("poison", "next", "last"):
        await line.acquire(job)
    await refused_thrice(line)
    assert (await line.holders(), await line.queue()) == ({"next"}, ["poison", "last"])


async def test_it_is_tried_again_in_turn_so_that_neither_starves(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    for job in ("poison", "next", "last"):
        await line.acquire(job)
    await refused_thrice(line)
    await start(line, "next")
    await end(line, "next")
    assert await line.holders() == {"poison"}, "a lease has ended, so the order counts again"
    await refuse(line, "poison")
    await cool(line)
    assert await line.holders() == {"last"}


async def test_the_number_of_refusals_is_a_setting(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, refusals_before_passing=1)
    await line.acquire("poison")
    await line.acquire("next")
    await refuse(line, "poison")
    await cool(line)
    assert await line.holders() == {"next"}


async def test_beside_jobs_that_start_it_cools_down_alone(line: LineOfPool) -> None:
    """From then on it costs the others nothing."""
    await line.load(epoch=2, limit=1)
    for job in ("poison", *(f"j{number}" for number in range(8))):
        await line.acquire(job)
    waited = []
    for number in range(8):
        if "poison" in await line.holders():
            await refuse(line, "poison")
            waited.append(await cool(line))
        for _ in range(9):
            if f"j{number}" in await line.holders():
                break
            await refuse(line, "poison")
            waited.append(await cool(line))
        await start(line, f"j{number}")
        line.clock.turn(60_000)
        await end(line, f"j{number}")
    assert waited == [5_000, 10_000, 20_000, 5_000, 5_000, 0, 0, 0, 0, 0], "three in all, then two beside others, then none"
    assert await line.holders() == {"poison"} and (await line.status()).cooling_until is None


async def test_a_poison_job_is_tried_again_after_a_cool_down_of_its_own_that_doubles(line: LineOfPool) -> None:
    await poisoned(line)
    for wait_ms in (5_000, 10_000, 20_000, 40_000, 60_000, 60_000):
        assert (await line.status()).cooling_until is None
        line.clock.turn(wait_ms - 1)
        await line.tick()
        assert await line.holders() == set(), wait_ms
        line.clock.turn(1)
        await line.tick()
        assert await line.holders() == {"poison"}, wait_ms
        await refuse(line, "poison")


async def test_a_newcomer_passes_a_poison_job_that_waits_for_its_next_try(line: LineOfPool) -> None:
    await poisoned(line)
    assert (await line.acquire("new")).result == "running"
    assert await line.queue() == ["poison"]


async def test_a_full_provider_makes_no_job_a_poison_job(line: LineOfPool) -> None:
    """All are refused: the pool cools down longer and longer, as ever, and the jobs take turns."""
    await line.load(epoch=2, limit=1)
    for job in "abcd":
        await line.acquire(job)
    tried, waits = [], []
    for _ in range(14):
        (job,) = await line.holders()
        tried.append(job)
        await refuse(line, job)
        waits.append(await cool(line))
    assert waits == [5_000, 10_000, 20_000, 40_000] + [60_000] * 10
    assert "".join(tried) == "aaabababacabca", "each has its turn, and the first the most"
    for job in "abcd":
        assert "poison" not in await line.entry(job)


async def test_nor_does_it_where_one_refusal_is_enough(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, refusals_before_passing=1)
    for job in "abc":
        await line.acquire(job)
    tried, waits = [], []
    for _ in range(6):
        (job,) = await line.holders()
        tried.append(job)
        await refuse(line, job)
        waits.append(await cool(line))
    assert ("".join(tried), waits) == ("abacab", [5_000, 10_000, 20_000, 40_000, 60_000, 60_000])


async def test_where_the_provider_was_full_the_order_counts_again_when_a_lease_ends(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=2)
    for job in ("runs", "first", "second", "third"):
        await line.acquire(job)
    for _ in range(2):
        await refuse(line, "first")
        await cool(line)
    await refuse(line, "first")
    await end(line, "runs")
    assert await line.holders() == {"first", "second"}


async def test_the_only_waiter_is_tried_although_it_is_set_aside(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1)
    await line.acquire("only")
    await refused_thrice(line, "only")
    assert await line.holders() == {"only"}


async def test_another_job_that_has_run_for_a_cool_down_shows_that_the_pool_is_well(line: LineOfPool) -> None:
    """Long jobs end late, and a job that was refused three times beside them is a poison job all the same."""
    await line.load(epoch=2, limit=4, refusals_before_passing=2)
    await line.acquire("poison")
    await refuse(line, "poison")  # the pool has had no refusal before
    for job in "abc":
        await cool(line)
        await line.acquire(job)
        line.clock.turn(5_000)
        if "poison" in await line.holders():
            await refuse(line, "poison")
    assert (await line.entry("poison"))["poison"] is True
    assert {"a", "b", "c"} <= await line.holders()


async def test_what_sql_has_counted_survives_a_rebuild(line: LineOfPool) -> None:
    waits = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 600_000, "refused": 2}
    await line.load(epoch=2, waiters=[("poison", waits), ("next", waits | {"ticket": "2", "refused": 0})], limit=1)
    await line.tick()
    await refuse(line, "poison")
    await cool(line)
    assert await line.holders() == {"next"}


async def test_a_refusal_whose_lease_was_reaped_meanwhile_counts_once(line: LineOfPool) -> None:
    entry = {"ticket": "1", "queued_at": line.clock.now, "lease_ms": 600_000, "refused": 1}
    await line.requeue("late", 1, "refused", entry)
    assert (await line.entry("late"))["refused"] == 1


async def test_the_status_names_the_end_of_a_cool_down_alone_until_it_is_over(line: LineOfPool) -> None:
    assert (await line.status()).aside_until is None
    await poisoned(line)
    until = line.clock.now + 5_000
    line.clock.turn(4_999)
    assert (await line.status()).aside_until == until
    line.clock.turn(1)
    assert (await line.status()).aside_until is None


async def test_a_lease_that_ends_in_the_moment_of_a_refusal_shows_that_the_provider_takes_jobs(line: LineOfPool) -> None:
    """The pool has cooled down again since, and no other job runs."""
    await line.load(epoch=2, limit=2, refusals_before_passing=1)
    for job in ("poison", "ends", "other"):
        await line.acquire(job)
    await refuse(line, "poison")
    await end(line, "ends")
    assert await line.holders() == {"poison", "other"}
    await refuse(line, "other")
    await refuse(line, "poison")
    assert (await line.entry("poison"))["poison"] is True


async def test_each_poison_job_is_tried_again_at_the_end_of_its_own_cool_down(line: LineOfPool) -> None:
    await poisoned(line)
    await line.acquire("other")
    cooled_at = (await line.entry("poison"))["aside_until"]
    line.clock.turn(1_000)
    await line.client.hset(line.key("meta"), "aside_until", cooled_at + 30_000)  # as by another job alone
    await end(line, "other")
    line.clock.turn(cooled_at - 1 - line.clock.now)
    await line.tick()
    assert await line.holders() == set()
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == {"poison"}


async def test_a_job_refused_after_a_later_grant_is_passed_all_the_same(line: LineOfPool) -> None:
    """No job has had its turn since that refusal, though one was granted before it."""
    await line.load(epoch=2, limit=2, refusals_before_passing=1)
    for job in ("refused", "runs", "next"):
        await line.acquire(job)
    await refuse(line, "refused")
    await cool(line)
    assert (await line.holders(), await line.queue()) == ({"runs", "next"}, ["refused"])


async def test_the_order_counts_again_in_the_call_that_grants_a_job_that_was_not_refused(line: LineOfPool) -> None:
    """`first` was tried after `second`, so among jobs that are passed `second` would be next."""
    await line.load(epoch=2, limit=2, refusals_before_passing=1)
    for job in ("first", "second", "fresh"):
        await line.acquire(job)
    await line.requeue("first", int((await line.entry("first"))["fence"]), "not_taken")
    await cool(line)
    await refuse(line, "second")
    await refuse(line, "first")
    await cool(line)
    assert await line.holders() == {"fresh", "first"}


async def test_a_job_that_is_set_aside_and_absent_is_not_tried_where_only_passed_jobs_are_left(line: LineOfPool) -> None:
    await line.load(epoch=2, limit=1, refusals_before_passing=1)
    await line.acquire("gone", presence_ms=10_000)
    await refuse(line, "gone")
    line.clock.turn(10_000)
    await line.tick()
    assert (await line.holders(), await line.queue()) == (set(), ["gone"])
