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
