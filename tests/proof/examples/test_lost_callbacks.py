"""A job that stays without its callback, from the browser to the row: the owner's second validation, with and without the provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from tests.proof.examples.stage import MANAGER, PROVIDER_KEY, Stage
from tests.support.wait import until

pytestmark = pytest.mark.anyio
LEASE_S = 6
SILENCE_S = 2


@pytest.fixture(scope="module")
def asking(functions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    pool = f"limit = 1\nlease_seconds = {LEASE_S}\ncooldown_seconds = 0.5\n"
    with Stage(tmp_path_factory.mktemp("asking"), functions, pool, f"silence_seconds = {SILENCE_S}") as opened:
        yield opened
        opened.clear()
        assert not verify(opened.gate.sql_url, opened.gate.redis_url).breaches


@pytest.fixture
def stage(asking: Stage) -> Iterator[Stage]:
    yield asking
    asking.simulator.control(away_s=0)
    asking.clear()


def row_is(stage: Stage, job_id: str, status: str) -> Callable[[], bool]:
    return lambda: stage.platform.row(job_id)["status"] == status


def refunds(stage: Stage, job_id: str) -> list[int]:
    rows = stage.gate.http.get("/v1/ledger", params={"job_id": job_id, "kind": "refund"}).json()["rows"]
    return [row["amount"] for row in rows]


def task_of(stage: Stage, job_id: str) -> dict[str, Any]:
    task_id = stage.platform.row(job_id)["task_id"]
    return next(task for task in stage.simulator.seen()["tasks"] if task["taskId"] == task_id)


async def one_runs_and_one_waits(stage: Stage) -> tuple[str, str]:
    stage.simulator.control(next=[{"callback": "lost"}])
    first, _ = stage.run()
    await until(row_is(stage, first, "running"), "it runs")
    waits, said = stage.run()
    assert said.json()["queued"] is True
    return first, waits


async def test_picture_arrives_although_its_callback_never_does(stage: Stage) -> None:
    lost, waits = await one_runs_and_one_waits(stage)
    stage.simulator.control(tasks={stage.platform.row(lost)["task_id"]: {"seconds": 0}})
    await until(row_is(stage, lost, "completed"), "gate has asked")
    row = stage.platform.row(lost)
    assert row["output_url"] == f"https://files.invalid/{row['task_id']}.png"
    assert (row["refunded_credits"], row["error_message"], refunds(stage, lost)) == (0, None, [])
    await until(row_is(stage, waits, "running"), "the slot has moved on")
    assert row["task_id"] not in [sent["taskId"] for sent in stage.simulator.seen()["callbacks"]]


async def test_task_that_runs_longer_than_its_lease_keeps_its_slot(stage: Stage) -> None:
    stage.simulator.control(next=[{"callback": "lost", "seconds": LEASE_S + 2}])
    job_id, _ = stage.run()
    await until(row_is(stage, job_id, "completed"), "its picture has arrived", within_s=LEASE_S + 15)
    assert refunds(stage, job_id) == []


async def test_job_of_a_dead_provider_fails_and_is_refunded_once(stage: Stage) -> None:
    dead, waits = await one_runs_and_one_waits(stage)
    stage.simulator.control(away_s=600)
    await until(row_is(stage, dead, "failed"), "its silence was too long", within_s=LEASE_S + SILENCE_S + 15)
    row = stage.platform.row(dead)
    assert (row["output_url"], row["refunded_credits"]) == (None, 10)
    assert row["error_message"] == "The job took too long and was stopped."
    assert refunds(stage, dead) == [10]
    stage.simulator.control(away_s=0)
    await until(lambda: task_of(stage, dead)["cancelled"], "gate has stopped what the provider still ran", within_s=30)
    await until(row_is(stage, waits, "running"), "the slot has moved on", within_s=30)
    assert refunds(stage, dead) == [10]


async def test_old_front_end_that_reconciles_gets_the_answer_of_the_provider(stage: Stage) -> None:
    job_id, _ = await one_runs_and_one_waits(stage)
    asked = {"table": "upscaler_jobs", "jobId": job_id}
    assert stage.ask("reconcile", **asked).json() == {
        "resolved": False, "reason": "still_running", "providerStatus": "running",
    }  # fmt: skip
    stage.simulator.control(tasks={stage.platform.row(job_id)["task_id"]: {"seconds": 0}})
    await until(lambda: stage.ask("reconcile", **asked).json() == {"resolved": True, "status": "completed"}, "it is over")


async def test_functions_neither_poll_nor_cancel_at_the_provider(stage: Stage) -> None:
    called: list[str] = []
    stage.platform.provider_hook = lambda path, _body: called.append(path)
    job_id, waits = await one_runs_and_one_waits(stage)
    assert stage.gate.post(f"/v1/pools/default/jobs/{job_id}/cancel").status_code == 200
    await until(row_is(stage, waits, "running"), "the cancelled task is stopped, and the next one runs", within_s=15)
    assert task_of(stage, job_id)["cancelled"] and called == ["ai-app/run"] * 2


async def test_a_task_starts_with_the_key_of_the_account_that_the_start_call_names(stage: Stage) -> None:
    keys: list[str] = []

    def note(_path: str, body: dict[str, Any]) -> None:
        if body.get("webappId") == "of this test":
            keys.append(body["apiKey"])

    stage.platform.provider_hook = note
    function = stage.serve(MANAGER, RUNNINGHUB_API_KEY_SECOND_ONE="the-second-key")
    for account in ("second-one", "primary", None):
        asked = stage.new()
        job = {"job_id": asked["jobId"], "tool": asked["table"], "payload": {"webappId": "of this test"}, "account": account}
        assert stage.send("start", f"start-{account}", "job.start", job, to=function.url).status_code == 200
    assert keys == ["the-second-key", PROVIDER_KEY, PROVIDER_KEY]
