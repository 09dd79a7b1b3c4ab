"""Failures that the provider names as its own start the job again, without a refund between."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from tests.support.gate_process import Served, run_gate
from tests.support.started_by_gate import call_back, enqueue, job, serving, tool
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
__all__ = ["tool"]
RETRY = '\nretry = 2\nretry_on = ["Stale file handle"]\n'


def trying_again(tool: Tool, more: str = RETRY) -> None:
    """Let each start call be another task, and its tool try failures again."""
    tasks: dict[str, int] = {}

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        job_id = body["data"]["job_id"]
        tasks[job_id] = tasks.get(job_id, 0) + 1
        return 200, {"task_id": f"{job_id}-{tasks[job_id]}"}

    tool.answer = answer
    plain = tool.config
    tool.config = lambda **given: plain(**given) + more  # type: ignore[method-assign]


def fail(served: Served, task_id: str, msg: str = "stale file handle on node 7", code: int = 805) -> str:
    return call_back(served, task_id, code=code, msg=msg, data=None)


def metrics(served: Served) -> list[str]:
    return [line.replace(".0", "") for line in served.http.get("/metrics").text.splitlines()]


def money(served: Served) -> list[tuple[str, int]]:
    return [(one["kind"], one["amount"]) for one in served.http.get("/v1/ledger").json()["rows"]]


async def test_a_job_is_started_again_and_its_user_sees_one_completed_job(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:
        job_id, _ = enqueue(served)
        for attempt in (1, 2):
            assert fail(served, f"{job_id}-{attempt}") == "retried"
            await until(
                lambda task=f"{job_id}-{attempt + 1}": (job(served, job_id)["task"] or {}).get("task_id") == task, "again"
            )
            assert job(served, job_id)["refund"] is None and money(served) == [("charge", 10)]
        assert call_back(served, f"{job_id}-3") == "applied"
        found = job(served, job_id)
        assert (found["status"], found["retries"], found["error_kind"]) == ("completed", 2, None)
        assert money(served) == [("charge", 10)] and not verify(served.sql_url, served.redis_url).breaches
        assert tool.told(job_id).count("job.failed") == 0


async def test_a_retry_is_counted_as_a_retry_and_as_no_refusal(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        assert fail(served, f"{job_id}-1") == "retried"
        await until(lambda: (job(served, job_id)["task"] or {}).get("task_id") == f"{job_id}-2", "again")
        await until(lambda: 'gate_grants_total{pool="default"} 2' in metrics(served), "its second grant is counted")
        found = metrics(served)
        counted = [line for line in found if line.startswith(("gate_retries_total", "gate_refusals_total"))]
        assert sorted(counted) == ['gate_refusals_total{pool="default"} 0', 'gate_retries_total{pool="default"} 1']


async def test_the_failure_after_the_last_try_ends_it_with_one_refund(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        for attempt in (1, 2):
            fail(served, f"{job_id}-{attempt}")
            await until(
                lambda task=f"{job_id}-{attempt + 1}": (job(served, job_id)["task"] or {}).get("task_id") == task, "again"
            )
        assert fail(served, f"{job_id}-3") == "applied" and fail(served, f"{job_id}-1") == "repeat"
        found = job(served, job_id)
        assert (found["status"], found["retries"], found["error_kind"]) == ("failed", 2, "infrastructure")
        page = served.http.get(f"/pools/default/jobs/{job_id}", headers={"accept-language": "en"}).text
        assert "a machine of the provider failed" in page and re.search(r"<dt>Tried again</dt><dd>(<[^>]+>)*2<", page)
        explained = run_gate("explain", job_id, cwd=tmp_path).stdout
        assert "The error (kind: infrastructure): stale file handle" in explained
        assert money(served) == [("charge", 10), ("refund", 10)]
        assert not verify(served.sql_url, served.redis_url).breaches


async def test_another_failure_ends_the_job_at_once(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        assert fail(served, f"{job_id}-1", "the prompt is not allowed (NSFW)") == "applied"
        assert (job(served, job_id)["status"], job(served, job_id)["retries"]) == ("failed", 0)


async def test_without_the_setting_nothing_is_started_again(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool, "")
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        assert fail(served, f"{job_id}-1") == "applied"
        assert job(served, job_id)["status"] == "failed"


async def test_it_goes_to_its_place_before_those_that_came_later(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:
        first, _ = enqueue(served)
        later, _ = enqueue(served)
        assert fail(served, f"{first}-1") == "retried"
        await until(lambda: (job(served, first)["task"] or {}).get("task_id") == f"{first}-2", "it is started first")
        assert job(served, later)["status"] == "queued"


async def test_a_gate_that_dies_between_the_stores_starts_it_again_when_it_is_back(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:
        job_id, _ = enqueue(served)
        served.kill()
        served.sql(  # as the transaction of the retry leaves it, with Redis one step behind
            "update @jobs set status = 'queued', granted_at = null, expires_at = null, hard_expires_at = null, provider = null,"
            f" task_id = null, retries = 1 where job_id = '{job_id}'"
        )
        served.start()
        await until(
            lambda: (job(served, job_id)["task"] or {}).get("task_id") == f"{job_id}-2", "the sweep has put it back", 60
        )
        assert money(served) == [("charge", 10)]


async def test_the_time_in_its_slot_does_not_count_as_waiting(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool)
    with serving(tmp_path, tool, GATE_LIMIT="1", GATE_QUEUE_SECONDS="1", GATE_COOLDOWN_SECONDS="1") as served:
        job_id, _ = enqueue(served)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 2, "it has run for longer than it may wait")
        tool.answer = lambda body: (429, {})  # so that it has to wait after the failure
        assert fail(served, f"{job_id}-1") == "retried"
        await until(
            lambda: len(tool.starts(job_id)) > 1 and job(served, job_id)["status"] == "queued", "its second start was refused"
        )


async def test_a_failure_faster_than_the_answer_to_the_start_starts_it_again(tmp_path: Path, tool: Tool) -> None:
    trying_again(tool, "\nretry = 2\n")
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:
        plain = tool.answer

        def quick(body: dict[str, Any]) -> tuple[int, Any]:
            status, said = plain(body)
            if not said["task_id"].endswith("-3"):
                assert fail(served, said["task_id"], "machine is away", 1005) == "kept"
            return status, said

        tool.answer = quick
        job_id, said = enqueue(served)
        assert said.status_code == 200 and said.json()["success"] is True, said.text
        await until(lambda: (job(served, job_id)["task"] or {}).get("task_id") == f"{job_id}-3", "the third try runs")
        assert job(served, job_id)["refund"] is None and money(served) == [("charge", 10)]
        assert call_back(served, f"{job_id}-3") == "applied"
        found = job(served, job_id)
        assert (found["status"], found["retries"], found["error_kind"]) == ("completed", 2, None)
        assert money(served) == [("charge", 10)] and not verify(served.sql_url, served.redis_url).breaches


async def test_a_failure_faster_than_the_answer_ends_a_job_without_retries_and_keeps_its_kind(
    tmp_path: Path, tool: Tool
) -> None:
    with serving(tmp_path, tool) as served:

        def quick(body: dict[str, Any]) -> tuple[int, Any]:
            task_id = "quick-" + body["data"]["job_id"]
            assert fail(served, task_id, "machine is away", 1005) == "kept"
            return 200, {"task_id": task_id}

        tool.answer = quick
        job_id, _ = enqueue(served)
        found = job(served, job_id)
        assert (found["status"], found["retries"], found["error_kind"]) == ("failed", 0, "infrastructure")
        assert money(served) == [("charge", 10), ("refund", 10)]
