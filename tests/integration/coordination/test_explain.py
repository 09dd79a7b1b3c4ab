"""What is told of a job, where the terminal's tests do not get to: on both kinds of SQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gate.diagnostics import history, verify
from gate.explain.facts import by_both, by_sql_alone
from gate.explain.formatting import span, until
from gate.explain.sentences import sections
from gate.ledger.admin import prune
from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio


async def told(house: House, job_id: str) -> str:
    known = await house.look(job_id)
    said = sections(await by_both(house.gate.services.queries, house.gate.services.ledger, known))
    return "\n".join(one.words for section in said.values() for one in section)


async def test_a_refused_job_waits_because_its_pool_cools_down(house: House) -> None:
    job = await house.acquire(user="ana", credits=5)
    behind = await house.acquire()
    await house.release(job, "refused")
    said = await told(house, job.job_id)
    assert "Why: its provider refused a job, so the pool cools down until " in said
    assert "back in the queue, at its place, by the holder: refused by the provider" in said
    assert "They go back if it fails, expires or is cancelled." in said
    await house.release(behind)
    await house.keeper.cancel(house.pool, job.job_id)


async def test_a_job_that_moves_while_it_is_explained_is_told_as_it_then_is(house: House) -> None:
    job = await house.acquire()
    await house.release(job)
    facts = await by_both(
        house.gate.services.queries, house.gate.services.ledger, job
    )  # as a reader from before its end has it
    assert facts.job.status == "completed" and facts.holders == () and facts.slot is None


async def test_what_happened_again_at_once_is_said_once(house: House) -> None:
    job = await house.acquire()
    await house.release(job)
    facts = await by_both(house.gate.services.queries, house.gate.services.ledger, await house.look(job.job_id))
    first, *_, last = facts.story.events
    story = replace(facts.story, events=[first, first, first, last])
    said = [one.words for one in sections(replace(facts, story=story))["What happened"]]
    assert len(said) == 2 and " (2 more times, until " in said[0] and "more time" not in said[1]


async def test_the_stores_tell_of_the_same_line(house: House) -> None:
    jobs = [await house.acquire() for _ in range(6)]
    for job in jobs:
        both = await by_both(house.gate.services.queries, house.gate.services.ledger, job)
        story = await house.gate.services.ledger.timelines.of(job.job_id)
        assert story is not None
        alone = by_sql_alone(story, "nobody asked")
        assert (both.ahead, both.ahead_count, both.limit) == (alone.ahead, alone.ahead_count, alone.limit)
        assert (both.job.position, both.job.queue_length) == (alone.job.position, alone.job.queue_length)
        assert sorted(both.holders) == sorted(alone.holders) and (both.slot is None) == (alone.slot is None)
    for job in reversed(jobs):
        await house.keeper.cancel(house.pool, job.job_id)


async def test_what_was_pruned_and_how_far_long_work_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await house.release(job := await house.acquire(user="ana", credits=5), "failed")
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(history, "AT_A_TIME", 1)
    monkeypatch.setattr(prune, "AT_A_TIME", 1)
    await asyncio.to_thread(verify.verify, house.sql_url, house.redis_url, lambda *far: done.append(far))
    assert done[-1][0] == done[-1][1] == len(done)
    done.clear()
    await asyncio.to_thread(prune.prune, house.sql_url, -60_000, lambda *far: done.append(far))
    assert done == [(1, 3), (2, 3), (3, 3)]
    said = await told(house, job.job_id)
    assert "`gate prune` has forgotten its history" in said and "5 credits refunded to ana" in said


def test_times_as_a_person_would_say_them() -> None:
    said = [span(s * 1000) for s in (0, 59, 60, 61, 3600, 3660, 86_400, 90_000)]
    assert said == ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d", "1 d 1 h"]
    assert until(5000, 0).endswith("(in 5 s)") and until(0, 5000).endswith("(5 s ago)")
