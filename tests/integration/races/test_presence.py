"""Named jobs whose callers asked for presence: an absent one is passed, says so, and has its turn when it shows itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from gate.coordination.hang_up import HangUp
from gate.diagnostics.verify import verify
from gate.explain.facts import by_both
from gate.explain.sentences import sections
from gate.model.job import Job
from tests.support.gate_in_process import House
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio
PRESENCE_MS = 200


async def away(house: House, job: Job) -> bool:
    return job.job_id in (await house.gate.services.queries.line(house.pool, 10)).away


def present_until(house: House, job: Job) -> int:
    return int(json.loads(house.people.hget(house.key("jobs"), job.job_id))["present_until"])


async def test_the_history_says_why_a_later_job_was_first(house: House) -> None:
    holders = [await house.acquire() for _ in range(3)]
    gone, there = await house.acquire(presence_ms=PRESENCE_MS), await house.acquire()
    await until(lambda: away(house, gone), "its caller is absent")
    await house.release(holders[0])
    assert (await house.granted(there)).status == "granted"
    history = await house.gate.services.queries.history(house.pool, gone.job_id)
    assert [(event.kind, event.by, event.why) for event in history] == [
        ("queued", "caller", None),
        ("passed", "gate", "absent"),
    ]
    told = sections(await by_both(house.gate.services.queries, house.gate.services.ledger, gone))
    assert "its caller has not shown itself" in " ".join(sentence.words for sentence in told["Where it is"])
    await house.release(holders[1])
    assert not verify(house.sql_url, house.redis_url).breaches, "a slot is free beside it"
    shown = await house.gate.services.queries.wait(house.pool, gone.job_id, "queued", 0, HangUp())
    assert shown.status == "granted"


async def test_a_waiting_call_keeps_its_job_present_until_it_hangs_up(house: House) -> None:
    for _ in range(3):
        await house.acquire()
    job, hang_up = await house.acquire(presence_ms=PRESENCE_MS), HangUp()
    waiting = asyncio.create_task(house.gate.services.queries.wait(house.pool, job.job_id, "queued", 30, hang_up))
    await until(lambda: present_until(house, job) > job.enqueued_at + 4 * PRESENCE_MS, "it was shown again and again")
    assert not await away(house, job)
    hang_up.happen()
    await waiting
    await until(lambda: away(house, job), "its caller is absent")


async def test_a_stream_keeps_its_job_present_until_it_is_closed(house: House) -> None:
    for _ in range(3):
        await house.acquire()
    job = await house.acquire(presence_ms=PRESENCE_MS)

    async def follow() -> None:
        async for _ in house.gate.services.queries.follow(house.pool, job.job_id):
            pass

    following = asyncio.create_task(follow())
    await until(lambda: present_until(house, job) > job.enqueued_at + 4 * PRESENCE_MS, "it was shown again and again")
    following.cancel()
    await until(lambda: away(house, job), "its caller is absent")


async def test_presence_outlasts_a_loss_of_redis(house: House) -> None:
    for _ in range(3):
        await house.acquire()
    job = await house.acquire(presence_ms=PRESENCE_MS)
    house.people.delete(*[house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")])
    assert (await house.look(job)).reason == "pool_full", "every caller counts as present after a load"
    await until(lambda: away(house, job), "its caller is absent")


async def test_over_http_a_job_says_that_its_caller_is_absent_and_a_poll_ends_that(served: Served) -> None:
    pool, job_id = fresh(), fresh()
    assert served.http.put(f"/v1/pools/{pool}", json={"limit": 1}).status_code == 201
    holder = served.acquire(pool, job_id=fresh()).json()
    assert served.acquire(pool, job_id=job_id, presence_seconds=0.5).json()["reason"] == "pool_full"
    (waiter,) = await until(
        lambda: [one for one in served.http.get(f"/v1/pools/{pool}").json()["queue"] if one["reason"] == "absent"],
        "it is absent",
    )
    assert (waiter["position"], waiter["eta_seconds"]) == (1, None)
    served.act(holder, "release", outcome="completed")
    assert served.http.get(f"/v1/pools/{pool}").json()["granted"] == 0
    assert served.http.get(f"/v1/pools/{pool}/jobs/{job_id}").json()["status"] == "granted"
