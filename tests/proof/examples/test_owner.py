"""The functions in Deno on the owner's own Postgres: charges that go back once, rows that were left, what the rows say afterwards."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.diagnostics.verify import verify
from tests.proof.examples.owner import AT_FIRST, OwnerStage
from tests.proof.examples.platform import SERVICE_KEY
from tests.proof.examples.stage import MANAGER, TOKEN
from tests.support.needs import missing
from tests.support.servers import Postgres, lacking
from tests.support.wait import until

pytestmark = pytest.mark.anyio
TASK = 1900000000000000001
"""Of 19 digits: a JavaScript number would end in ...000."""


@pytest.fixture(scope="module")
def owner_stage(functions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnerStage]:
    if "postgres" in lacking("embedded", "postgres"):
        missing("needs Postgres: the owner's tables live there")
    pool = "max_active_per_user = 1\ncooldown_seconds = 0.5\n"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user
        server = Postgres(Path(folder) / "postgres")
        server.start()
        try:
            with OwnerStage(tmp_path_factory.mktemp("stage"), functions, pool, server.url) as opened:
                yield opened
                opened.clear()
                assert not verify(opened.gate.sql_url, opened.gate.redis_url).breaches
        finally:
            server.crash()


@pytest.fixture
async def owner(owner_stage: OwnerStage) -> AsyncIterator[OwnerStage]:
    """The stage with an empty pool, whose provider works at nothing."""
    yield owner_stage
    owner_stage.clear()
    await until(lambda: owner_stage.simulator.seen()["running"] == 0, "the provider works at nothing")


def row_is(stage: OwnerStage, job_id: str, **wanted: Any) -> Any:
    return lambda: stage.platform.row(job_id).items() >= wanted.items()


def call_back(stage: OwnerStage, job_id: str, event: dict[str, Any]) -> None:
    """The provider's callback about the task of a job's row."""
    body = {"event": "TASK_END", "taskId": stage.platform.row(job_id)["task_id"], "eventData": event}
    address = f"{stage.platform.url}/functions/v1/runninghub-webhook?token={TOKEN}"
    assert httpx2.post(address, json=body, timeout=60).status_code == 200


def over(stage: OwnerStage, job_id: str) -> None:
    """Its task comes to its end at the provider."""
    stage.simulator.control(tasks={stage.platform.row(job_id)["task_id"]: {"seconds": 0}})


async def test_a_row_alone_starts_a_complete_task(owner: OwnerStage) -> None:
    asked: list[Any] = []
    owner.platform.provider_hook = lambda path, body: asked.append(body) if path == "ai-app/run" else None
    job_id, said = owner.run()
    assert said.json()["taskId"] == owner.platform.row(job_id)["task_id"]
    assert (asked[0]["webappId"], asked[0]["nodeInfoList"]) == ("7", [])
    job = owner.job(job_id)
    assert (job["session"], job["credits"], job["user"]) == ("a tab", 10, str(owner.platform.row(job_id)["user_id"]))


async def test_a_refused_admission_gives_its_charge_back_once(owner: OwnerStage) -> None:
    user = str(uuid.uuid4())
    owner.run(user=user)
    second = owner.new(user)
    for _ in range(2):
        said = owner.ask("run-or-queue", **second)
        assert said.status_code == 400
        assert (said.json()["success"], said.json()["refunded"]) == (False, True)
    wanted = {"status": "failed", "credits_refunded": True, "refunded_credits": 10}
    await until(row_is(owner, second["jobId"], **wanted), "its row says so")
    assert owner.platform.balance(user) == AT_FIRST - 10, "one of two charges went back"
    assert owner.platform.row(second["jobId"])["error_message"]


async def test_a_table_without_its_section_is_refused_and_its_row_is_found_again(owner: OwnerStage) -> None:
    asked = owner.new(table="pose_changer_jobs")
    said = owner.ask("run-or-queue", **asked)
    assert (said.status_code, said.json()["success"], said.json()["refunded"]) == (400, False, False)
    assert said.json()["code"] == "tool_unknown"
    row = owner.platform.row(asked["jobId"], "pose_changer_jobs")
    assert (row["status"], row["credits_refunded"]) == ("pending", False), "left for the day when gate.toml names its table"
    assert owner.gate.http.get(f"/v1/pools/default/jobs/{asked['jobId']}").status_code == 404


async def test_rows_that_were_left_pending_are_ended_on_a_later_call(owner: OwnerStage) -> None:
    left, fresh = owner.new(), owner.new()
    owner.platform.sql("update upscaler_jobs set created_at = now() - interval '16 minutes' where id = %s", (left["jobId"],))
    again = owner.serve(MANAGER)  # an instance that has not looked yet
    assert httpx2.post(f"{again.url}/{MANAGER}/status", json={}, timeout=60).status_code == 200
    await until(row_is(owner, left["jobId"], status="failed", credits_refunded=True), "the old one has ended")
    assert owner.platform.balance(str(owner.platform.row(left["jobId"])["user_id"])) == AT_FIRST
    assert owner.platform.row(fresh["jobId"])["status"] == "pending"


async def test_a_cancel_that_never_reached_gate_is_carried_out_on_a_later_call(owner: OwnerStage) -> None:
    user = str(uuid.uuid4())
    job_id, _ = owner.run(user=user)
    await until(row_is(owner, job_id, status="running"), "it runs")
    assert owner.cancel_by(user, job_id) == {"success": True, "refunded_amount": 10, "error_message": None}
    owner.platform.sql(
        "update upscaler_jobs set cancel_asked_at = cancel_asked_at - interval '21 seconds' where id = %s", (job_id,)
    )
    again = owner.serve(MANAGER)
    httpx2.post(f"{again.url}/{MANAGER}/status", json={}, timeout=60)
    await until(row_is(owner, job_id, status="cancelled", credits_refunded=True), "it is cancelled")
    assert owner.platform.balance(user) == AT_FIRST
    await until(lambda: owner.simulator.seen()["running"] == 0, "its task is cancelled too")


@pytest.mark.parametrize(
    "files, chosen",
    [
        (["a.txt", "b.png", "c.mp4"], "c.mp4"),
        (["a.txt", "b.png?x=1", "c.webp"], "b.png?x=1"),
        (["a.txt", "b.bin"], "a.txt"),
    ],
)
async def test_of_several_outputs_a_video_comes_first_then_an_image(owner: OwnerStage, files: list[str], chosen: str) -> None:
    job_id, _ = owner.run()
    results = [{"url": f"https://x.invalid/{name}", "outputType": ""} for name in files]
    event = {"status": "SUCCESS", "results": results, "usage": {"consumeCoins": "12.4"}}
    call_back(owner, job_id, event)
    await until(row_is(owner, job_id, status="completed"), "it is completed")
    assert owner.platform.row(job_id)["output_url"] == f"https://x.invalid/{chosen}"


async def test_a_row_says_when_it_ran_how_long_it_waited_and_what_it_cost(owner: OwnerStage) -> None:
    job_id, _ = owner.run()
    call_back(owner, job_id, {"status": "SUCCESS", "results": [{"url": "https://x.invalid/1.png", "outputType": "png"}],
                              "usage": {"consumeCoins": "12.4"}})  # fmt: skip
    await until(row_is(owner, job_id, status="completed"), "it is completed")
    row = owner.platform.row(job_id)
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]
    assert (row["rh_cost"], row["queue_wait_seconds"], row["waited_in_queue"]) == (12, 0, False)

    over(owner, job_id)
    full = [owner.run()[0] for _ in range(3)]
    waits, said = owner.run()
    assert said.json()["queued"] is True
    over(owner, full[0])
    await until(row_is(owner, waits, status="running", waited_in_queue=True), "the fourth runs, and has waited")


async def test_a_task_id_of_19_digits_stays_exact(owner: OwnerStage) -> None:
    answer = {"code": 0, "msg": "success", "data": {"taskId": TASK}}
    owner.platform.provider_hook = lambda path, _body: answer if path == "ai-app/run" else None
    job_id, said = owner.run()
    assert said.json()["taskId"] == str(TASK) == owner.platform.row(job_id)["task_id"]
    assert owner.job(job_id)["task"]["task_id"] == str(TASK)
    body = f'{{"event": "TASK_END", "taskId": {TASK}, "eventData": {{"status": "FAILED", "errorMessage": "no"}}}}'
    address = f"{owner.platform.url}/functions/v1/runninghub-webhook?token={TOKEN}"
    httpx2.post(address, content=body, headers={"content-type": "application/json"}, timeout=60)
    await until(row_is(owner, job_id, status="failed", credits_refunded=True), "the callback found it")


@pytest.mark.parametrize("code", [804, 813])
async def test_a_task_that_runs_or_waits_at_the_provider_is_started(owner: OwnerStage, code: int) -> None:
    task = str(uuid.uuid4())
    answer = {"code": code, "msg": "", "data": {"taskId": task}}
    owner.platform.provider_hook = lambda path, _body: answer if path == "ai-app/run" else None
    assert owner.run()[1].json()["taskId"] == task


@pytest.mark.parametrize("answer", [{"code": 1003}, {"errorCode": "1520"}, {"code": 415, "data": None}])
async def test_a_provider_that_is_busy_costs_nothing(owner: OwnerStage, answer: dict[str, Any]) -> None:
    left = [answer]
    owner.platform.provider_hook = lambda path, _body: left.pop() if path == "ai-app/run" and left else None
    job_id, said = owner.run()
    assert said.json()["queued"] is True
    await until(row_is(owner, job_id, status="running"), "it is started after the cool-down")
    assert owner.platform.row(job_id)["credits_refunded"] is False


async def test_a_browser_that_ends_a_job_ends_its_task_and_a_late_success_is_kept(owner: OwnerStage) -> None:
    job_id, _ = owner.run()
    await until(row_is(owner, job_id, status="running"), "it runs")
    said = owner.ask("finish", table="upscaler_jobs", jobId=job_id, status="failed", errorMessage="the browser's clock")
    assert said.json() == {"success": True, "refundedAmount": 10}
    await until(lambda: owner.simulator.seen()["running"] == 0, "its task is cancelled")
    call_back(owner, job_id, {"status": "SUCCESS", "results": [{"url": "https://x.invalid/late.png", "outputType": "png"}]})
    await until(row_is(owner, job_id, late_output_url="https://x.invalid/late.png"), "the late output is kept")
    row = owner.platform.row(job_id)
    assert (row["status"], row["output_url"], row["credits_refunded"]) == ("failed", None, True)


async def test_a_success_by_finish_after_a_browsers_finish_is_kept(owner: OwnerStage) -> None:
    job_id, said = owner.run()
    task = said.json()["taskId"]
    owner.ask("finish", table="upscaler_jobs", jobId=job_id, status="failed", errorMessage="the browser's clock")
    late = owner.ask(
        "finish", table="upscaler_jobs", jobId=job_id, status="completed", taskId=task, outputUrl="https://x.invalid/late.png"
    )
    assert late.json() == {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": 10}
    await until(row_is(owner, job_id, late_output_url="https://x.invalid/late.png"), "the late output is kept")
    assert owner.platform.row(job_id)["credits_refunded"] is True


async def test_a_browser_cannot_name_what_was_charged(owner: OwnerStage) -> None:
    user = str(uuid.uuid4())
    asked = owner.new(user, 0, credits_charged=False)
    before = owner.platform.balance(user)
    said = owner.ask("enqueue", **asked, creditCost=1_000_000)
    assert said.status_code == 200 and owner.job(asked["jobId"])["credits"] == 0
    owner.ask("finish", table="upscaler_jobs", jobId=asked["jobId"], status="failed", errorMessage="no")
    await until(row_is(owner, asked["jobId"], status="failed"), "it has ended")
    assert owner.platform.balance(user) == before


@pytest.mark.parametrize("charged", [True, False])
async def test_a_function_of_the_owner_names_the_price_of_a_row_without_one(owner: OwnerStage, charged: bool) -> None:
    user = str(uuid.uuid4())
    asked = owner.new(user, 0, user_credit_cost=None, credits_charged=charged)
    before = owner.platform.balance(user)
    assert owner.ask("enqueue", key=SERVICE_KEY, **asked, creditCost=10).status_code == 200
    owner.ask("finish", table="upscaler_jobs", jobId=asked["jobId"], status="failed", errorMessage="no")
    await until(lambda: owner.platform.balance(user) == before + 10, "what it had charged went back")


@pytest.mark.parametrize("coins, kept", [(99_999_999_999, 2_147_483_647), (-5, 0)])
async def test_costs_that_the_column_cannot_hold_keep_no_row_from_its_end(owner: OwnerStage, coins: int, kept: int) -> None:
    job_id, _ = owner.run()
    owner.ask(
        "finish", table="upscaler_jobs", jobId=job_id, status="completed", outputUrl="https://x.invalid/1.png", rhCost=coins
    )
    await until(row_is(owner, job_id, status="completed", rh_cost=kept), "its row has ended")


async def test_a_job_id_in_capitals_is_the_row_of_that_id(owner: OwnerStage) -> None:
    asked = owner.new()
    said = owner.ask("run-or-queue", table="upscaler_jobs", jobId=asked["jobId"].upper())
    assert said.status_code == 200 and said.json()["taskId"] == owner.platform.row(asked["jobId"])["task_id"]


async def test_users_read_why_a_job_expired_in_a_sentence(owner: OwnerStage) -> None:
    asked = owner.new()
    job = {"job_id": asked["jobId"], "pool": "default", "tool": "upscaler_jobs", "error": None, "end_reason": "lease_timeout"}
    job |= {"ended_by": "gate", "output": None, "refund": None, "lease": None}
    assert owner.send("events", "m-expired", "job.expired", job).status_code == 200
    assert owner.platform.row(asked["jobId"])["error_message"] == "The job took too long and was stopped."


async def test_an_event_is_taken_although_the_places_in_line_cannot_be_written(owner: OwnerStage) -> None:
    asked = owner.new()
    owner.platform.sql("alter function set_queue_positions(jsonb) rename to set_aside")
    try:
        job = {"job_id": asked["jobId"], "pool": "default", "tool": "upscaler_jobs"}
        assert owner.send("events", "m-places", "job.queued", job).status_code == 200
    finally:
        owner.platform.sql("alter function set_aside(jsonb) rename to set_queue_positions")
    assert owner.platform.row(asked["jobId"])["status"] == "queued"


async def test_a_start_slower_than_its_answer_is_told_as_queued_and_its_row_as_starting(owner: OwnerStage) -> None:
    """Installed tools call an answer without `queued` and `taskId` a failure. gate answers after 25 s at the latest."""
    may_answer = threading.Event()

    async def slow() -> None:
        await asyncio.to_thread(may_answer.wait, 60)

    owner.platform.provider_hook = lambda path, _body: slow() if path == "ai-app/run" else None
    job_id, said = await asyncio.to_thread(owner.run)
    answer = said.json()
    assert (answer["success"], answer["queued"], answer["position"], answer["status"]) == (True, True, 1, "starting")
    row = owner.platform.row(job_id)
    assert (row["status"], row["position"] or None, row["task_id"]) == ("starting", None, None)
    repeat = owner.ask("run-or-queue", table="upscaler_jobs", jobId=job_id, creditCost=10)
    assert repeat.json()["queued"] is True and owner.platform.row(job_id)["status"] == "starting"
    may_answer.set()
    await until(row_is(owner, job_id, status="running"), "its start has finished")
    assert owner.platform.row(job_id)["task_id"] == owner.job(job_id)["task"]["task_id"]
    assert owner.simulator.seen()["running"] == 1, "it was started once"
