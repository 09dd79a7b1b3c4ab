"""A job that its provider always refuses, among others that it takes: on a real gate, with a tool that starts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from gate.ledger.sql import tables
from tests.conftest import OpenHouse
from tests.support.started_by_gate import enqueue, job, serving, tool
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
__all__ = ["tool"]


async def test_a_job_that_is_always_refused_lets_the_others_be_started_and_is_tried_again(tmp_path: Path, tool: Tool) -> None:
    refused: set[str] = set()

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        job_id = body["data"]["job_id"]
        return (409, {"error": "no such picture"}) if job_id in refused else (200, {"task_id": f"t-{job_id}"})

    tool.answer = answer
    settings = {"GATE_LIMIT": "1", "GATE_COOLDOWN_SECONDS": "0.5", "GATE_REFUSALS_BEFORE_PASSING": "1"}
    with serving(tmp_path, tool, **settings) as served:
        first, _ = enqueue(served)
        poison, _ = enqueue(served)
        refused.add(poison)
        behind, _ = enqueue(served)
        served.act(job(served, first), "cancel")
        await until(lambda: job(served, behind)["status"] == "running", "the next is started")
        assert len(tool.starts(poison)) == 1, "it was tried first"
        assert (job(served, poison)["status"], job(served, poison)["position"]) == ("queued", 1)
        refused.clear()
        served.act(job(served, behind), "cancel")
        await until(lambda: job(served, poison)["status"] == "running", "its provider takes it at last")


async def test_a_poison_job_may_wait_beside_a_free_slot_and_says_why(open_house: OpenHouse) -> None:
    async with open_house(limit=1, refusals_before_passing=1) as house:
        runs, poison = await house.acquire(), await house.acquire()
        key, job_id = house.key("jobs"), poison.job_id
        refused = {"refused": 1, "poison": True, "aside_until": poison.enqueued_at + 60_000}
        house.people.hset(key, job_id, json.dumps(json.loads(house.people.hget(key, job_id)) | refused))
        house.people.hset(house.key("meta"), "aside_until", poison.enqueued_at + 60_000)
        counted = tables.jobs.update().where(tables.jobs.c.job_id == job_id).values(refusals=1)
        await house.gate.services.ledger._database.write(house.pool, "", lambda batch: batch.connection.execute(counted))
        await house.release(runs)
        await house.settled()
        assert not verify(house.sql_url, house.redis_url).breaches
        waits = await house.look(poison)
        assert (waits.status, waits.reason, waits.eta_seconds) == ("queued", "refused", None)
        passes = await house.acquire()
        assert passes.status == "running", "it passes the poison job"
        house.people.hset(house.key("meta"), "aside_until", 0)
        await house.release(passes)
        assert (await house.granted(poison)).status == "granted", "its time has come"
        await house.keeper.cancel(house.pool, job_id)


async def test_a_poison_job_is_one_after_a_loss_of_redis(open_house: OpenHouse) -> None:
    """It cools down alone at once, and costs the others no cool-down of the pool."""
    async with open_house(limit=1, refusals_before_passing=1, cooldown_ms=500) as house:
        poison, other = await house.acquire(), await house.acquire()
        await house.release(poison, "refused")
        held = await house.granted(other)
        await house.release(await house.keeper.claim(house.pool, other.job_id, held.lease_id or ""))
        await house.release(await house.granted(poison), "refused")
        assert json.loads(house.people.hget(house.key("jobs"), poison.job_id))["poison"]
        house.people.delete(*[house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")])
        await house.release(await house.granted(poison), "refused")
        line = await house.gate.services.queries.line(house.pool, 0)
        assert (line.cooling_until, line.aside_until is not None) == (None, True)
        await house.keeper.cancel(house.pool, poison.job_id)


async def test_a_job_that_a_full_provider_refused_is_none_after_a_loss_of_redis(open_house: OpenHouse) -> None:
    async with open_house(limit=1, refusals_before_passing=1, cooldown_ms=50) as house:
        refused = await house.acquire()
        for _ in range(2):
            await house.release(await house.granted(refused), "refused")
        house.people.delete(*[house.key(role) for role in ("slots", "queue", "jobs", "outbox", "meta", "users")])
        await house.granted(refused)
        assert "poison" not in json.loads(house.people.hget(house.key("jobs"), refused.job_id))
        await house.keeper.cancel(house.pool, refused.job_id)
