"""Start calls that take half a minute and a minute, in real time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.started_by_gate import MANAGER, TABLE, enqueue, serving, tool
from tests.support.tool import Tool

pytestmark = pytest.mark.anyio
__all__ = ["tool"]


@pytest.mark.parametrize("seconds", [27, 60])
async def test_a_start_slower_than_its_answer_is_let_finish(tmp_path: Path, tool: Tool, seconds: int) -> None:
    """Callers take `queued` for a success, and anything without a task for a failure."""
    tool.answer = lambda body: (time.sleep(seconds), (200, {"task_id": "slow"}))[1]
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="10") as served:
        job_id, said = enqueue(served)
        answer = said.json()
        assert (answer["success"], answer["queued"], answer["position"], answer["status"]) == (True, True, 1, "starting")
        again = served.post(f"{MANAGER}/check-user-active", {"userId": "ana"}).json()
        assert again["hasActiveJob"] is False
        at = f"/v1/pools/default/jobs/{job_id}"
        running = served.http.get(at, params={"wait_seconds": 60, "status": "granted"}).json()
        assert (running["status"], running["task"]["task_id"]) == ("running", "slow")
        assert len(tool.starts(job_id)) == 1, "and it was called once"
        repeat = served.post(f"{MANAGER}/run-or-queue", {"table": TABLE, "jobId": job_id}).json()
        assert (repeat["duplicate"], repeat["taskId"], repeat["status"]) == (True, "slow", "running")
