"""A failure that only a question brings starts its job again, and its user sees one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from gate.simulator import Simulator
from tests.proof.simulator.test_asking import asking, look, run
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def starting(tool: Tool, simulator: Simulator, failures: int, error: str) -> str:
    """Let each start call be a task whose callback is lost, and the first ones fail. Return the tool's configuration."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        fails = len(tool.starts(body["data"]["job_id"])) < failures
        plan = {"outcome": "failed", "error": error} if fails else {"outcome": "completed"}
        return 200, {"task_id": run(simulator, seconds=0.1, **plan)}

    tool.answer = answer
    return tool.config() + "retry = 2\n"


def money(served: Served) -> list[str]:
    return [one["kind"] for one in served.http.get("/v1/ledger").json()["rows"]]


@pytest.mark.parametrize(
    ("failures", "error", "status", "retries", "kind", "rows"),
    [
        (2, "Stale file handle", "completed", 2, None, ["charge"]),
        (3, "Stale file handle", "failed", 2, "infrastructure", ["charge", "refund"]),
        (1, "NSFW content", "failed", 0, "safety", ["charge", "refund"]),
    ],
    ids=["it succeeds at last", "no try is left", "a content check"],
)
async def test_a_failure_that_a_question_brings_is_tried_again_only_if_it_is_the_providers(
    tmp_path: Path, failures: int, error: str, status: str, retries: int, kind: str | None, rows: list[str]
) -> None:
    with Simulator(limit=1) as simulator, Tool().running() as tool:
        table = starting(tool, simulator, failures, error)
        with asking(tmp_path, simulator, table) as served:
            job = served.acquire(job_id=fresh(), credits=5, tool="upscaler_jobs", started_by="gate").json()
            await until(lambda: look(served, job)["status"] == status, "it has ended", 20)
            found = look(served, job)
            assert (found["retries"], found["error_kind"]) == (retries, kind)
            assert money(served) == rows and not verify(served.sql_url, served.redis_url).breaches
            assert len(tool.starts(job["job_id"])) == retries + 1
