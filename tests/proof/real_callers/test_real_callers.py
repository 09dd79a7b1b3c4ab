"""Each kind of caller as it really calls, with no field more than it sends, against gate alone on real Postgres.

The four tools of the first plan, the tools of today, browsers and webhook functions were read; what each sends and reads is written
down in docs/moving-over.md.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.diagnostics.verify import verify
from tests.proof.real_callers.conftest import SETTINGS, OpenScene
from tests.proof.real_callers.scene import LIMIT, MANAGER, PRICE, TOOLS, Scene, opened
from tests.support.wait import until

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}


def call(scene: Scene, path: str, body: Any = None) -> httpx2.Response:
    """With no body at all where there is none: these callers send not even `{}`."""
    content = None if body is None else json.dumps(body).encode()
    return scene.server.http.post(f"{MANAGER}/{path}", content=content, headers=JSON)


def charge(scene: Scene, table: str, job_id: str) -> None:
    assert scene.money is not None
    scene.money.charge(table, job_id, f"user-{job_id}", PRICE)


def first_plan(scene: Scene, table: str, job_id: str) -> str:
    """A tool of the first plan: it asks, and starts the task by itself when it is told of a free slot."""
    if table != "video_upscaler_jobs":
        charge(scene, table, job_id)
    asked = call(scene, "check").json()
    if asked["slotsAvailable"] > 0:
        httpx2.post(f"{scene.simulator.url}/task/openapi/run", json={"apiKey": "k", "gateTest": {"seconds": 1}})
        return "started by the tool"
    if table == "video_upscaler_jobs":  # it charges only when it starts by itself
        charge(scene, table, job_id)
        body: dict[str, Any] = {"table": table, "jobId": job_id}
    else:
        body = {"table": table, "jobId": job_id, "creditCost": PRICE}
    answer = call(scene, "enqueue", body)
    assert answer.status_code == 200 and answer.json()["success"], answer.text
    return "left to the queue"


async def test_a_burst_of_the_first_plans_tools_never_starts_a_fourth_task(open_scene: OpenScene) -> None:
    async with open_scene(seconds=0.3) as scene:
        jobs = [(table, f"{table}-{number}") for number in range(5) for table in TOOLS]
        over, beside = threading.Event(), []

        def watch() -> None:
            since = None
            while not over.is_set():
                pool = scene.pool()
                waits = pool["queued"] > 0 and pool["free"] > 0 and not pool["cooling_until"]
                since = (since or time.monotonic()) if waits else None
                if since is not None and time.monotonic() - since > 2:
                    beside.append(pool)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(20) as threads:
                told = list(threads.map(lambda one: first_plan(scene, *one), jobs))
            assert set(told) == {"left to the queue"}
            for _, job_id in jobs:
                await scene.row_is(job_id, "completed", within_s=60)
        finally:
            over.set()
            watcher.join()
        seen = scene.simulator.seen()
        assert seen["most_running"] <= LIMIT and seen["refused"] == 0 and len(seen["tasks"]) == 20
        assert not beside, "nothing waits while a slot is free"


async def test_a_row_enqueued_by_a_tool_of_the_first_plan_reads_running_at_once(open_scene: OpenScene) -> None:
    async with open_scene(seconds=30) as scene:
        assert first_plan(scene, "pose_changer_jobs", "a") == "left to the queue"
        await scene.row_is("a", "running")
        scene.end("a")


async def test_a_tool_of_today_reads_success_from_table_and_job_id_alone(open_scene: OpenScene) -> None:
    """It takes `queued` or `taskId` for a success, whatever the status; anything else it calls a failed start."""

    def run(job_id: str) -> dict[str, Any]:
        charge(scene, "veste_ai_jobs", job_id)
        said: dict[str, Any] = call(scene, "run-or-queue", {"table": "veste_ai_jobs", "jobId": job_id}).json()
        return said

    async with open_scene(seconds=30) as scene:
        answers = {job_id: run(job_id) for job_id in "abcd"}
        assert all(answers[job_id]["taskId"] for job_id in "abc") and answers["d"]["queued"] is True
        again = call(scene, "run-or-queue", {"table": "veste_ai_jobs", "jobId": "a"}).json()
        assert (again["duplicate"], again["status"], again["taskId"]) == (True, "running", answers["a"]["taskId"])
        again = call(scene, "run-or-queue", {"table": "veste_ai_jobs", "jobId": "d"}).json()
        assert (again["duplicate"], again["status"], again["queued"]) == (True, "queued", True)
        assert scene.job("a")["user"] == "user-a" and scene.job("a")["credits"] == PRICE, "from its row"
        for job_id in "abc":
            scene.end(job_id)
        await scene.row_is("d", "running")
        scene.end("d")


async def test_a_browser_ends_what_it_gave_up_and_nothing_is_lost(tmp_path: Path, postgres_url: str) -> None:
    with opened(tmp_path, SETTINGS, postgres_url, seconds=30) as scene:
        charge(scene, "upscaler_jobs", "early")
        early = {"table": "upscaler_jobs", "jobId": "early", "status": "failed", "errorMessage": "the upload failed"}
        assert call(scene, "finish", early).json() == {"success": True, "refundedAmount": PRICE}
        await until(lambda: scene.paid("early") == 0, "the charge of a job that never came is back")
        refused = call(scene, "run-or-queue", {"table": "upscaler_jobs", "jobId": "early"}).json()
        assert (refused["success"], refused["refunded"]) == (False, True)
        charge(scene, "upscaler_jobs", "a")
        call(scene, "run-or-queue", {"table": "upscaler_jobs", "jobId": "a"})
        active = call(scene, "check-user-active", {"userId": "user-a"}).json()
        assert active == {
            "hasActiveJob": True, "activeTool": "Upscaler Arcano", "activeJobId": "a", "activeStatus": "running",
        }  # fmt: skip
        given_up = {"table": "upscaler_jobs", "jobId": "a", "status": "failed", "errorMessage": "x" * 5000}
        assert call(scene, "finish", given_up).json() == {"success": True, "refundedAmount": PRICE}
        await until(lambda: scene.paid("a") == 0, "it is paid back")
        assert call(scene, "check", {}).json()["available"] is False
        scene.end("a")
        await until(lambda: scene.job("a")["late_outcome"] == "completed", "what its provider made is kept")
        assert verify(scene.server.sql_url, scene.server.redis_url).breaches == []


async def test_a_webhook_function_ends_a_job_with_the_whole_callback(open_scene: OpenScene) -> None:
    async with open_scene(seconds=30) as scene:
        charge(scene, "upscaler_jobs", "a")
        task_id = call(scene, "run-or-queue", {"table": "upscaler_jobs", "jobId": "a"}).json()["taskId"]
        callback = {"event": "TASK_END", "taskId": task_id, "eventData": {"status": "SUCCESS", "more": "x" * 300_000}}
        body = {
            "table": "upscaler_jobs", "jobId": "a", "status": "completed", "outputUrl": "https://f/1.png", "errorMessage": None,
            "taskId": task_id, "rhCost": 12, "webhookPayload": callback,
        }  # fmt: skip
        assert call(scene, "finish", body).json() == {"success": True, "refundedAmount": 0}
        assert call(scene, "finish", body).json()["reason"] == "already_terminal"
        assert scene.job("a")["output"] == {"url": "https://f/1.png", "rhCost": 12}
        scene.end("a")
