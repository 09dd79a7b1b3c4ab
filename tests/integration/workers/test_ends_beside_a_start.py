"""Ends and callbacks that come before, beside or after the answer to a start call."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.started_by_gate import MANAGER, TABLE, TOKEN, call_back, enqueue, job, quietly, serving, tool
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
__all__ = ["tool"]


async def test_an_answer_after_the_end_of_its_job_starts_nothing(tmp_path: Path, tool: Tool) -> None:
    asked, over = threading.Event(), threading.Event()
    tool.answer = lambda body: (asked.set(), over.wait(20), (200, {"task_id": "late"}))[2]
    with serving(tmp_path, tool) as served:
        job_id = fresh()
        asking = threading.Thread(target=quietly, args=(served, {"table": TABLE, "jobId": job_id}))
        asking.start()
        assert asked.wait(10)
        served.act(job(served, job_id), "cancel")
        over.set()
        asking.join()
        await until(
            lambda: (tmp_path / "errors.log").read_text().count("delivery.answered_too_late"), "the late answer is heard"
        )
        await until(lambda: job(served, job_id)["task"], "its task is bound, so that its provider's word is kept")
        assert job(served, job_id)["status"] == "cancelled"
        assert call_back(served, "late") == "late"
        assert job(served, job_id)["late_output"]["files"][0]["url"] == "https://f/1.png"
        await until(lambda: tool.told(job_id)[-1:] == ["job.late"], "its tool is told")


async def test_a_callback_faster_than_the_answer_to_the_start_ends_the_job(tmp_path: Path, tool: Tool) -> None:
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:

        def quick(body: dict[str, Any]) -> tuple[int, Any]:
            task_id = "quick-" + body["data"]["job_id"]
            assert call_back(served, task_id) == "kept"
            return 200, {"task_id": task_id}

        tool.answer = quick
        for _ in range(2):  # the second needs the slot of the first
            job_id, said = enqueue(served)
            assert said.json()["success"] is True and said.json()["taskId"] == f"quick-{job_id}"
            assert (job(served, job_id)["status"], job(served, job_id)["ended_by"]) == ("completed", "provider")
        await until(lambda: tool.told(job_id)[-1:] == ["job.completed"], "the end is told")
        assert tool.told(job_id) == ["job.queued", "job.granted", "job.running", "job.completed"]


@pytest.mark.parametrize("way", ["a browser's own clock", "a cancel"])
async def test_a_success_after_an_end_that_was_not_the_providers_is_kept_and_told(
    tmp_path: Path, tool: Tool, way: str
) -> None:
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        if way == "a cancel":
            assert served.act(job(served, job_id), "cancel").status_code == 200
        else:
            body = {"table": TABLE, "jobId": job_id, "status": "failed", "errorMessage": "took too long"}
            assert served.post(f"{MANAGER}/finish", body).json() == {"success": True, "refundedAmount": 10}
        before = job(served, job_id)
        assert call_back(served, f"t-{job_id}") == "late"
        after = job(served, job_id)
        assert after["late_outcome"] == "completed" and after["late_output"]["files"][0]["url"] == "https://f/1.png"
        assert {name: after[name] for name in before if not name.startswith("late_")} == {
            name: before[name] for name in before if not name.startswith("late_")
        }, "the end and its refund stand"
        await until(lambda: tool.told(job_id)[-1:] == ["job.late"], "its tool is told")
        (late,) = [call.job for call in tool.calls if call.body["type"] == "job.late"]
        assert late["late_output"] == after["late_output"] and late["status"] == after["status"]
        done = {"table": TABLE, "jobId": job_id, "status": "completed", "outputUrl": "https://f/2.png"}
        assert served.post(f"{MANAGER}/finish", done).json()["skipped"] is True
        assert job(served, job_id) == after, "the first success is kept"
        assert verify(served.sql_url, served.redis_url).breaches == []


async def test_a_callback_at_the_old_path_finds_the_pool_of_its_tool(tmp_path: Path, tool: Tool) -> None:
    """Bound before or after it comes, and with no finding that its task is bound to no job."""
    asked = threading.Event()

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        task_id = "t-" + body["data"]["job_id"]
        if asked.is_set():
            assert call_back(served, task_id) == "kept"
        return 200, {"task_id": task_id}

    tool.answer = answer
    with Served(tmp_path, config=tool.config("video_upscaler_jobs") + 'pool = "video"\n' + TOKEN) as served:
        for faster in (False, True):
            if faster:
                asked.set()
            job_id, said = enqueue(served, "video_upscaler_jobs")
            assert said.json()["taskId"] == f"t-{job_id}"
            if not faster:
                assert call_back(served, f"t-{job_id}") == "applied"
            ended = served.http.get(f"/v1/pools/video/jobs/{job_id}").json()
            assert (ended["status"], ended["ended_by"]) == ("completed", "provider")
            assert call_back(served, f"t-{job_id}") == "repeat"
        found = run_gate("doctor", "--json", cwd=tmp_path)
        assert json.loads(found.stdout) == [], found.stdout
