"""A job that ends while its start call is unanswered: a task may run at the provider that gate cannot name yet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from gate.simulator import Simulator
from tests.proof.simulator.test_asking import KEY, asking, look, look_at, run
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio


class SlowTool(Tool):
    """A tool whose answer to a start call waits for `may_answer`. Then it starts a task, unless `says` has another answer."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.says: tuple[int, Any] | None = None
        self.tasks: list[str] = []
        self._simulator = simulator
        self.answer = self._answer

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.set()
        self.may_answer.wait(20)
        if self.says is not None:
            return self.says
        self.tasks.append(run(self._simulator))
        return 200, {"task_id": self.tasks[-1]}


@contextlib.contextmanager
def starting(folder: Path, **settings: Any) -> Iterator[tuple[Served, Simulator, SlowTool]]:
    with Simulator(limit=1) as simulator, SlowTool(simulator).running() as tool:
        assert isinstance(tool, SlowTool)
        settings = {"drain_seconds": 60} | settings
        with asking(folder, simulator, tool.config(events=False), lease_seconds=600, **settings) as served:
            yield served, simulator, tool
            tool.may_answer.set()


def enqueue(served: Served, tool: SlowTool) -> dict[str, Any]:
    """Return a job whose start call is under way, and which is granted."""
    job: dict[str, Any] = served.acquire(job_id=fresh(), credits=5, tool="upscaler_jobs", started_by="gate").json()
    assert tool.asked.wait(10) and job["status"] == "granted"
    return job


def draining(served: Served) -> int:
    return int(served.http.get("/v1/pools/default").json()["draining"])


def cancel(served: Served, job: dict[str, Any]) -> None:
    assert served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel").json()["status"] == "cancelled"


async def test_slot_drains_while_a_start_call_is_unanswered_at_a_cancel(tmp_path: Path) -> None:
    with starting(tmp_path) as (served, simulator, tool):
        job = enqueue(served, tool)
        cancel(served, job)
        waiter = served.acquire(job_id=fresh()).json()
        assert (draining(served), waiter["status"], look(served, job)["task"]) == (1, "queued", None)
        cancelled = served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
        assert (cancelled.status_code, draining(served)) == (200, 1), "a repeat leaves the slot alone"
        tool.may_answer.set()
        await until(lambda: look(served, waiter)["status"] == "granted", "the task is stopped, and its slot is free")
        (task_id,) = tool.tasks
        assert look_at(simulator, task_id)["cancelled"] and look(served, job)["task"]["stop"] == "confirmed"
        assert look(served, job)["refund"]["amount"] == 5


@pytest.mark.parametrize("says", [(200, {"outcome": "refused"}), (422, {"detail": "no picture"})])
async def test_slot_is_free_when_the_late_answer_says_that_no_task_runs(tmp_path: Path, says: tuple[int, Any]) -> None:
    with starting(tmp_path) as (served, _, tool):
        tool.says = says
        cancel(served, enqueue(served, tool))
        waiter = served.acquire(job_id=fresh()).json()
        assert (draining(served), waiter["status"]) == (1, "queued")
        tool.may_answer.set()
        await until(lambda: look(served, waiter)["status"] == "granted", "no task runs")
        assert draining(served) == 0


async def test_slot_of_a_start_that_is_never_answered_is_free_after_its_drain(tmp_path: Path) -> None:
    with starting(tmp_path, drain_seconds=1) as (served, _, tool):
        cancel(served, enqueue(served, tool))
        waiter = served.acquire(job_id=fresh()).json()
        await until(lambda: look(served, waiter)["status"] == "granted", "the drain is over")
        assert not tool.tasks


async def test_pool_that_is_loaded_again_keeps_the_slot_of_an_unanswered_start(tmp_path: Path) -> None:
    with starting(tmp_path) as (served, _, tool):
        cancel(served, enqueue(served, tool))
        redis.Redis.from_url(served.redis_url).flushall()
        assert served.acquire(job_id=fresh()).json()["status"] == "queued" and draining(served) == 1


async def test_task_that_is_named_after_the_end_of_its_job_is_stopped(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job, task_id = served.acquire(job_id=fresh()).json(), run(simulator)
        cancel(served, job)
        body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
        refused = served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "already_ended")
        await until(lambda: look_at(simulator, task_id)["cancelled"], "its stop was owed")
        assert look(served, job)["status"] == "cancelled"


async def test_a_task_named_long_after_the_end_takes_no_slot_at_a_load(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600, drain_seconds=60) as served:
        job, task_id = served.acquire(job_id=fresh()).json(), run(simulator, deaf=True)
        cancel(served, job)
        served.sql("update @jobs set ended_at = ended_at - 60000")
        body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
        assert served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body).status_code == 409
        redis.Redis.from_url(served.redis_url).flushall()
        assert served.acquire(job_id=fresh()).json()["status"] == "running" and draining(served) == 0


async def test_the_stop_of_a_task_whose_pool_was_deleted_is_confirmed(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600, pool="gpu") as served:
        job, task_id = served.acquire("gpu", job_id=fresh()).json(), run(simulator, deaf=True)
        body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
        assert served.http.put(f"/v1/pools/gpu/jobs/{job['job_id']}/task", json=body).status_code == 200
        assert served.http.post(f"/v1/pools/gpu/jobs/{job['job_id']}/cancel").status_code == 200
        assert served.http.delete("/v1/pools/gpu").status_code == 200
        simulator.control(tasks={task_id: {"seconds": 0}})
        await until(lambda: served.sql("select stop, ask_at from @tasks") == [("confirmed", None)], "gate has asked again")


async def test_an_account_that_is_a_key_by_mistake_is_not_shown(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job = served.acquire(job_id=fresh()).json()
        body = {"provider": "runninghub", "task_id": "t", "account": KEY}
        refused = served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body)
        assert refused.status_code == 422 and KEY not in refused.text
