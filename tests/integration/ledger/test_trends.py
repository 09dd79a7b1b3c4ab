"""What is told of the past: by the time it ended, and no more of it than is asked for."""

from __future__ import annotations

import pytest

from gate.model.job import now_ms
from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio
MINUTE_MS = 60_000


async def test_what_ended_is_counted_where_it_ended(house: House) -> None:
    for outcome in ("completed", "completed", "failed", "cancelled"):
        await house.release(await house.acquire(credits=5, user="ana"), outcome)
    now = now_ms()
    buckets = await house.gate.services.ledger.statistics.buckets(house.pool, now - 10 * MINUTE_MS, now, MINUTE_MS)
    assert [one.at for one in buckets] == [(now // MINUTE_MS - n) * MINUTE_MS for n in range(10, -1, -1)]
    recent = buckets[-2:]  # a minute may have begun meanwhile
    counts = {status: sum(one.outcomes.get(status, 0) for one in recent) for status in ("completed", "failed", "cancelled")}
    assert counts == {"completed": 2, "failed": 1, "cancelled": 1}
    assert sum(one.refunds for one in recent) == 2 and sum(one.refunded for one in recent) == 10
    (ended,) = [one for one in recent if sum(one.outcomes.values()) > 1] or [recent[-1]]
    assert ended.wait_ms is not None and ended.hold_ms is not None and ended.wait_ms[0] <= ended.wait_ms[1]
    assert not any(one.outcomes or one.refunds or one.wait_ms for one in buckets[:-2])


async def test_nothing_of_before_and_nothing_of_other_pools(house: House) -> None:
    trends = house.gate.services.ledger.statistics
    await house.release(await house.acquire(credits=5))
    later = now_ms() + MINUTE_MS
    assert not any(one.outcomes or one.refunds for one in await trends.buckets(house.pool, later, later, MINUTE_MS))
    now = now_ms()
    assert not any(one.outcomes for one in await trends.buckets("another", now - MINUTE_MS, now, MINUTE_MS))
    assert await trends.endings("another", 5) == []


async def test_the_quantiles_are_by_rank(house: House) -> None:
    from gate.ledger.commit.database import Database
    from gate.ledger.sql.tables import jobs

    ids = []
    for _ in range(20):
        one = await house.acquire()
        await house.release(one)
        ids.append(one.job_id)
    database = Database(house.sql_url)

    def stretch(batch: object) -> None:
        connection = batch.connection  # type: ignore[attr-defined]
        for n, job_id in enumerate(ids, 1):
            connection.execute(
                jobs.update()
                .where(jobs.c.job_id == job_id)
                .values(granted_at=jobs.c.ended_at - n * 1000, enqueued_at=jobs.c.ended_at - n * 1000 - n)
            )

    await database.write("", "", stretch)
    database.close()
    day_ms = 86_400_000
    now = now_ms()
    buckets = await house.gate.services.ledger.statistics.buckets(house.pool, now - day_ms, now, 2 * day_ms)
    (found,) = [one for one in buckets if one.hold_ms]
    assert found.hold_ms == (10_000, 19_000) and found.wait_ms == (10, 19)


async def test_what_ended_last_comes_first(house: House) -> None:
    ended = [(await house.release(await house.acquire())).job_id for _ in range(4)]
    endings = await house.gate.services.ledger.statistics.endings(house.pool, 3)
    assert [one.job_id for one in endings] == ended[::-1][:3]


async def test_what_is_kept_of_one_job(house: House) -> None:
    from gate.model.messages import ProviderReport

    job = await house.acquire(user="zoë")
    await house.keeper.bind(house.pool, job.job_id, "acme", "t-1")
    said = ProviderReport("completed", "d-1", task_id="t-1")
    assert await house.keeper.hear(house.pool, "acme", said, '{"as": "it came"}') == "ended"
    stories = house.gate.services.ledger.timelines
    story = await stories.of(job.job_id)
    (callback,) = story.heard
    assert (callback.body, callback.verdict, callback.provider) == ('{"as": "it came"}', "ended", "acme")
    assert story.told == [] and story.debt is None
    assert [one.job_id for one in await stories.of_user("zoë", 5)] == [job.job_id]


async def test_a_change_by_hand_keeps_its_reason(house: House) -> None:
    await house.gate.services.pools.change(house.pool, {"limit": 5}, "five now")
    await house.gate.services.pools.change(house.pool, {"limit": 3})
    changes = await house.gate.services.ledger.timelines.changes(house.pool, 10)
    assert [(one.kind, one.why) for one in changes[:3]] == [("limit", "3"), ("reason", "five now"), ("limit", "5")]
