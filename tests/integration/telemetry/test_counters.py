"""What a process counts of its own doing: each figure moves when that happens which it is named for."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gate.coordination import drift
from gate.http.metrics import CAUSES, REPAIRS, RESULTS
from gate.model.job import ENDED
from gate.model.messages import DeliveryResult
from gate.telemetry import counters
from tests.support.gate_in_process import House
from tests.support.gate_process import Served
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_a_pool_that_redis_forgot_is_cold_once_and_loaded_once(house: House) -> None:
    job = await house.acquire()
    cold, loaded = counters.undone["cold"], counters.rebuilds[house.pool, "loaded"]
    scripts = sum(counters.scripts["release"].counts)
    house.people.delete(house.key("meta"))
    await house.release(job)
    assert counters.undone["cold"] > cold and counters.rebuilds[house.pool, "loaded"] == loaded + 1
    assert sum(counters.scripts["release"].counts) > scripts and counters.scripts["rebuild"].sum > 0


async def test_an_answer_of_another_epoch_is_stale(house: House) -> None:
    job = await house.acquire()
    before = counters.stale[house.pool]
    await house.gate.services.pools.rebuild(house.pool)
    assert counters.stale[house.pool] == before
    assert await house.gate.recorder.apply(house.pool, 0, []) == set()
    assert counters.stale[house.pool] == before + 1
    assert (await house.look(job)).status == "running"


async def test_a_repair_counts_by_its_kind(house: House) -> None:
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")
    job = await house.acquire()
    before = counters.repairs["restore"]
    house.people.zrem(house.key("slots"), job.job_id)
    assert await house.gate.reconciler.sweep(house.pool) == []
    assert [found.kind for found in await house.gate.reconciler.sweep(house.pool)] == ["restore"]
    assert counters.repairs["restore"] == before + 1


def test_every_word_that_a_label_may_be_is_there_from_the_beginning() -> None:
    assert {kind.value for kind in drift.DriftKind} == set(REPAIRS)
    results = {"put_off", *(result.value for result in DeliveryResult)}
    assert results == {result for of_kind in RESULTS.values() for result in of_kind}
    assert set(CAUSES) == ENDED


async def test_calls_to_a_tool_count_by_what_came_of_them(tmp_path: Path) -> None:
    with Tool().running() as tool, Served(tmp_path, config=tool.config(events=True)) as served:
        body = {"table": "upscaler_jobs", "jobId": "told", "creditCost": 10}
        assert served.post("/functions/v1/runninghub-queue-manager/run-or-queue", body).json()["success"]
        await until(lambda: tool.told("told")[-1:] == ["job.running"], "all of it is told")

        def settled() -> dict[tuple[str, str], float]:
            text = served.http.get("/metrics").text
            found = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
            return {key: value for key, value in found.items() if "deliveries" in key[0]}

        await until(lambda: settled()["gate_deliveries_total", "event", "delivered"] == 3, "what was told is counted")
        assert settled()["gate_deliveries_total", "start", "delivered"] == 1
        assert settled()["gate_deliveries_due", "start"] == settled()["gate_deliveries_due", "event"] == 0
