"""Which cancelled job gets its charge back: `cancel_refunds`, as the job had it at its admission, on both kinds of SQL."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from gate.coordination.hang_up import HangUp
from gate.diagnostics.verify import verify
from gate.explain.facts import by_both
from gate.explain.sentences import sections
from gate.ledger.admin import prune
from gate.ledger.sql import tables
from gate.model.job import CancelRefunds, Job, Request
from gate.model.messages import ProviderReport
from gate.model.tool import Tool, Tools
from gate.runtime.wiring import ExternalServices, open_gate
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio

RULES: tuple[CancelRefunds, ...] = ("always", "until_started")
STAGES = ("queued", "granted", "running", "bound")
WAYS = ("holder", "caller", "operator")
NO_REFUND = "No refund: it was cancelled after its start, and the pool refunds cancelled jobs until they start."


async def brought_to(house: House, stage: str, **request: Any) -> Job:
    """A job with a charge of 7 at that stage, in a pool of one slot."""
    if stage in ("running", "bound"):
        job = await house.acquire(credits=7, user="ana", **request)
        return job if stage == "running" else await house.keeper.bind(house.pool, job.job_id, "runninghub", job.job_id)
    first = await house.acquire()
    job = await house.acquire(credits=7, user="ana", **request)
    if stage == "granted":
        await house.release(first)
        job = await house.granted(job)
    assert job.status == stage
    return job


async def cancel(house: House, job: Job, way: str) -> Job:
    if way == "holder":
        return await house.release(job, "cancelled")
    return await house.keeper.cancel(house.pool, job.job_id, "not wanted", by=way)


async def rows(house: House, query: Any) -> list[Any]:
    return list(await house.gate.ledger._database.read(lambda connection: list(connection.execute(query))))


async def change(house: House, work: Any) -> None:
    await house.gate.ledger._database.write("", "", lambda batch: batch.connection.execute(work) and None)


async def paid(house: House, job: Job) -> tuple[list[int], list[int]]:
    """The refunds of a job: those in the ledger, and those that the owner's function owes."""
    owed = await rows(house, sa.select(tables.owed.c.amount).where(tables.owed.c.job_id == job.job_id))
    return await house.refunds(job), [row.amount for row in owed]


def breaches(house: House) -> list[tuple[str, str]]:
    return [(one.invariant, one.about) for one in verify(house.sql_url, house.redis_url).breaches]


async def told(house: House, job: Job) -> str:
    facts = await by_both(house.gate.services.queries, house.gate.services.ledger, await house.look(job))
    return "\n".join(one.words for section in sections(facts).values() for one in section)


@pytest.mark.parametrize("settles", (False, True), ids=("booked", "owed"))
@pytest.mark.parametrize("rule", RULES)
async def test_cancel_is_refunded_by_the_rule_of_its_job(open_house: OpenHouse, rule: CancelRefunds, settles: bool) -> None:
    async with open_house(limit=1, cancel_refunds=rule) as house:
        for stage in STAGES:
            for way in WAYS if stage != "queued" else WAYS[1:]:  # a waiter has no lease that a holder could show
                job = await brought_to(house, stage, settles=settles)
                assert job.cancel_refunds == rule
                done = await cancel(house, job, way)
                is_due = rule == "always" or stage in ("queued", "granted")
                due = [7] if is_due else []
                assert await paid(house, job) == (([], due) if settles else (due, [])), (stage, way)
                assert (done.status, done.refund and done.refund.amount) == ("cancelled", 7 if is_due else None)
                assert (NO_REFUND in await told(house, job)) == (not is_due)
                repeat = await cancel(house, job, way)
                assert (repeat.refund, repeat.ended_at) == (done.refund, done.ended_at)
                assert await paid(house, job) == (([], due) if settles else (due, []))
                for left in await rows(house, sa.select(tables.jobs.c.job_id).where(tables.jobs.c.ended_at.is_(None))):
                    await house.keeper.cancel(house.pool, left.job_id)
        await house.settled()
        assert breaches(house) == []


async def test_what_is_no_cancel_is_refunded_after_the_start_too(open_house: OpenHouse) -> None:
    async with open_house(limit=1, cancel_refunds="until_started") as house:
        failed = await brought_to(house, "running")
        await house.release(failed, "failed")
        by_operator = await brought_to(house, "running")
        await house.keeper.cancel(house.pool, by_operator.job_id, None, "failed")
        by_provider = await brought_to(house, "bound")
        report = ProviderReport("cancelled", "1", by_provider.job_id)
        await house.keeper.hear(house.pool, "runninghub", report, "{}")
        expired = await brought_to(house, "running")
        house.expire(expired)
        await house.gate.services.pools.reaped(house.pool)
        await house.settled()
        refused = await brought_to(house, "running")
        await house.release(refused, "refused")
        await house.keeper.cancel(house.pool, refused.job_id)
        for job in (failed, by_operator, by_provider, refused, expired):
            assert await paid(house, job) == ([7], []), (await house.look(job)).status
        await house.settled()
        assert breaches(house) == []


async def test_caller_that_hung_up_before_its_answer_is_refunded(open_house: OpenHouse) -> None:
    async with open_house(limit=1, cancel_refunds="until_started") as house:
        hang_up = HangUp()
        hang_up.happen()
        request = Request("unheard", credits=7, unnamed=True)
        job = await house.gate.services.admission.acquire(house.pool, request, 0, hang_up=hang_up)
        assert (job.status, job.end_reason) == ("cancelled", "caller_gone")
        assert await paid(house, job) == ([7], [])
        await house.settled()
        assert breaches(house) == []


async def test_changed_setting_counts_for_jobs_that_come_after_it(open_house: OpenHouse) -> None:
    async with open_house(limit=2) as house:
        before = await house.acquire(credits=7)
        await house.gate.services.pools.change(house.pool, {"cancel_refunds": "until_started"}, "tasks are paid by then")
        after = await house.acquire(credits=7)
        again = await house.acquire(before.job_id, credits=7)
        assert (again.cancel_refunds, after.cancel_refunds) == ("always", "until_started")
        for job in (before, after):
            await cancel(house, job, "operator")
        assert (await paid(house, before), await paid(house, after)) == (([7], []), ([], []))
        why = await rows(house, sa.select(tables.events.c.why).where(tables.events.c.kind == "setting"))
        assert "cancel_refunds until_started" in [row.why for row in why]
        assert "cancel_refunds" not in house.people.hgetall(house.key("meta"))
        await house.settled()
        assert breaches(house) == []
    async with open_house(limit=2) as house:  # a restart with the old configuration keeps the live setting
        assert (await house.acquire("later", credits=7)).cancel_refunds == "until_started"


@pytest.mark.parametrize("rule", RULES)
async def test_rule_of_the_tool_comes_before_that_of_the_pool(
    rule: CancelRefunds, valkey: str, pool: str, sql_url: str, people: Any
) -> None:
    other = RULES[rule == RULES[0]]
    outside = ExternalServices(Tools({"draw": Tool("draw", "draw", cancel_refunds=rule)}))
    async with open_gate(valkey, sql_url, {pool: settings_of(limit=2, cancel_refunds=other)}, outside=outside) as gate:
        house = House(gate, pool, valkey, sql_url, people)
        found = [(await house.acquire(tool=tool, credits=7)).cancel_refunds for tool in ("draw", "other")]
        assert found == [rule, other]


async def test_verify_knows_the_rule_of_each_job(open_house: OpenHouse) -> None:
    async with open_house(limit=9, cancel_refunds="until_started") as house:
        kept, given, lacks = [await house.acquire(credits=7) for _ in range(3)]
        for job in (kept, given, lacks):
            await cancel(house, job, "operator")
        await house.settled()
        assert breaches(house) == []
        row = {"at": 1, "job_id": given.job_id, "pool": house.pool, "kind": "refund", "amount": 7}
        await change(house, tables.ledger.insert().values(**row))
        always = tables.jobs.update().where(tables.jobs.c.job_id == lacks.job_id).values(cancel_refunds="always")
        await change(house, always)
        assert sorted(breaches(house)) == sorted([("I2", given.job_id), ("I2", lacks.job_id)])
        prune.prune(house.sql_url, -60_000)
        assert breaches(house) == [("I2", lacks.job_id)], "without a history nothing says whether a job had started"
