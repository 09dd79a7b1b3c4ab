"""Jobs whose callers asked for presence, or whose caller only one waiting call knows: an absent one is passed, says so, and has its turn when it
shows itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from gate.coordination import admission
from gate.coordination.hang_up import HangUp
from gate.diagnostics.verify import verify
from gate.explain.facts import by_both
from gate.explain.sentences import sections
from gate.model.job import Job, Request
from tests.conftest import OpenHouse
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


def unnamed(house: House, wait_s: float) -> asyncio.Task[Job]:
    """A call that waits, and whose job only its caller knows. Cancelled, it ends as with its server: it does nothing any more."""
    request = Request(f"{house.pool}-unnamed", unnamed=True)
    return asyncio.create_task(house.gate.services.admission.acquire(house.pool, request, wait_s))


@pytest.fixture
async def full(house: House, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The three that hold a slot, and servers that show their unnamed callers often."""
    monkeypatch.setattr(admission, "HELD_PRESENCE_MS", PRESENCE_MS)
    return [await house.acquire() for _ in range(3)]


async def in_line(house: House) -> Job:
    return await until(lambda: house.gate.services.ledger.job(f"{house.pool}-unnamed"), "it waits in both stores")


async def test_an_unnamed_job_whose_server_was_killed_gets_no_slot(house: House, full: list[Job]) -> None:
    call = unnamed(house, 30)
    job = await in_line(house)
    call.cancel()
    there = await house.acquire()
    await until(lambda: away(house, job), "no server shows its caller")
    await house.release(full[0])
    assert (await house.granted(there)).status == "granted"
    await house.release(full[1])
    assert (await house.acquire()).status == "running", "no slot is kept for it"


async def test_it_gets_none_where_redis_was_lost_with_its_server(house: House, full: list[Job]) -> None:
    call = unnamed(house, 30)
    job = await in_line(house)
    call.cancel()
    house.people.delete(*[house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")])
    await until(lambda: away(house, job), "no server shows its caller")
    await house.release(full[0])
    assert (await house.acquire()).status == "running"


async def test_an_unnamed_job_is_present_while_its_call_waits(house: House, full: list[Job]) -> None:
    call = unnamed(house, 30)
    job = await in_line(house)
    await until(lambda: present_until(house, job) > job.enqueued_at + 4 * PRESENCE_MS, "it was shown again and again")
    await house.release(full[0])
    assert (await call).status == "granted"


async def test_a_caller_that_was_told_the_name_need_not_show_itself(house: House, full: list[Job]) -> None:
    told = await unnamed(house, 0.5)
    assert (told.status, told.presence_ms) == ("queued", None)
    assert "presence_ms" not in json.loads(house.people.hget(house.key("jobs"), told.job_id))
    await house.release(full[0])
    granted = await house.granted(told)
    await house.release(granted, "refused")
    assert "presence_ms" not in json.loads(house.people.hget(house.key("jobs"), told.job_id))


async def test_neither_need_one_that_was_told_of_its_grant_or_ran_at_once(house: House, full: list[Job]) -> None:
    call = unnamed(house, 30)
    await in_line(house)
    await house.release(full[0])
    granted = await call
    assert (granted.status, granted.presence_ms) == ("granted", None)
    await house.release(granted)
    at_once = await house.gate.services.admission.acquire(house.pool, Request(fresh(), unnamed=True), 30)
    assert (at_once.status, (await house.look(at_once)).presence_ms) == ("running", None)
    await house.acquire()
    await house.release(at_once, "refused")
    assert "presence_ms" not in json.loads(house.people.hget(house.key("jobs"), at_once.job_id))


async def test_a_waiting_call_shows_its_caller_on_whichever_server_it_waits(house: House, open_house: OpenHouse) -> None:
    for _ in range(3):
        await house.acquire()
    job = await house.acquire(presence_ms=PRESENCE_MS)
    async with open_house() as other:
        waiting = other.gate.services.queries.wait(house.pool, job.job_id, "queued", 30, hang_up := HangUp())
        call = asyncio.create_task(waiting)
        await until(lambda: present_until(house, job) > job.enqueued_at + 4 * PRESENCE_MS, "it was shown again and again")
        assert not await away(house, job)
        hang_up.happen()
        await call
