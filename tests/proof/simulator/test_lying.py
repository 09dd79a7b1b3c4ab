"""What gate promises when a provider says that a task has ended which runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.test_asking import KEY, asking, look
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def run(simulator: Simulator, served: Served) -> dict[str, Any]:
    """Ask the provider to start a task, and return its reply. The first question about the task is answered with a lie."""
    url = f"{served.url}/v1/webhooks/runninghub/default?token=t0ken-of-the-test"
    plan = {"seconds": 60, "lie": "FAILED"}
    body = {"apiKey": KEY, "workflowId": "1", "webhookUrl": url, "gateTest": plan}
    reply: dict[str, Any] = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()
    return reply


async def test_task_that_the_provider_calls_failed_while_it_runs_is_refunded_once_and_its_success_is_history(
    tmp_path: Path,
) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, "cooldown_seconds = 60") as served:
        job = served.acquire(job_id=fresh(), credits=5).json()
        task_id = run(simulator, served)["data"]["taskId"]
        body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
        assert served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body).status_code == 200
        await until(lambda: look(served, job)["status"] == "failed", "the provider's word ends it")

        # The slot is given away, and the provider refuses the next start, because its own slot is taken.
        other = served.acquire(job_id=fresh(), credits=3).json()
        assert other["status"] == "running" and run(simulator, served)["code"] == 421
        assert served.act(other, "release", outcome="refused").json()["status"] == "queued"
        assert served.http.get("/v1/pools/default").json()["cooling_until"] is not None
        assert look(served, other)["refund"] is None

        simulator.control(tasks={task_id: {"lie": None, "seconds": 0}})
        path = f"/v1/pools/default/jobs/{job['job_id']}/history"

        def is_kept() -> bool:
            events = served.http.get(path).json()["events"]
            return any(one["kind"] == "callback" and one["why"] == "completed" for one in events)

        await until(is_kept, "the true callback is in the history")
        ledger = served.sql("select kind, amount from @ledger where job_id = :job order by kind", job=job["job_id"])
        assert ledger == [("charge", 5), ("refund", 5)]
        bodies = served.sql("select body from @webhooks where task_id = :task and outcome = 'completed'", task=task_id)
        assert look(served, job)["status"] == "failed" and f"{task_id}.png" in bodies[0][0]
