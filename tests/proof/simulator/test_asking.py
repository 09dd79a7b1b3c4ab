"""gate asks the provider before it ends a lease, and stops the tasks of jobs that ended without it."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from gate.simulator import Simulator
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio

KEY = "key-of-the-test-0123456789"


@contextlib.contextmanager
def asking(
    folder: Path, simulator: Simulator, more: str = "", lease_seconds: float = 2, pool: str = "default", **settings: Any
) -> Iterator[Served]:
    lines = {"callbacks": "true", "silence_seconds": 3, "drain_seconds": 3, "questions_per_second": 100} | settings
    config = f'lease_seconds = {lease_seconds}\nlimit = 1\n{more}\n[providers.runninghub]\ntoken = "t0ken-of-the-test"\n'
    config += f'base_url = "{simulator.url}"\n' + "".join(f"{name} = {value}\n" for name, value in lines.items())
    config += f'[providers.runninghub.accounts.primary]\nkey = "{KEY}"\npool = "{pool}"\n'
    with Served(folder, config=config) as served:
        yield served


def run(simulator: Simulator, **plan: Any) -> str:
    """Start a task at the provider, as a tool does. Its callback is lost."""
    body = {"apiKey": KEY, "workflowId": "1", "gateTest": {"callback": "lost", "seconds": 60} | plan}
    said = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()
    task_id: str = said["data"]["taskId"]
    return task_id


def start(served: Served, simulator: Simulator, **plan: Any) -> tuple[dict[str, Any], str]:
    job = served.acquire(job_id=fresh(), credits=5, tool="upscaler_jobs").json()
    task_id = run(simulator, **plan)
    body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
    assert served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body).status_code == 200
    return job, task_id


def look(served: Served, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()
    return found


async def test_a_job_whose_callback_was_lost_is_completed_with_its_output(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, task_id = start(served, simulator, seconds=0.3)
        await until(lambda: look(served, job)["status"] == "completed", "gate has asked")
        found = look(served, job)
        assert found["output"]["files"][0]["url"].endswith(f"{task_id}.png") and found["refund"] is None


async def test_a_task_that_runs_longer_than_a_lease_keeps_its_slot(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, _ = start(served, simulator, seconds=5)
        await until(lambda: look(served, job)["status"] != "running", "it is over", 15)
        assert look(served, job)["status"] == "completed"
        kinds = [one["kind"] for one in served.http.get(f"/v1/pools/default/jobs/{job['job_id']}/history").json()["events"]]
        assert "extended" in kinds and "answer" in kinds


async def test_a_finished_job_is_found_although_the_clock_went_back(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, _ = start(served, simulator, seconds=1)
        served.sql("update @tasks set ask_at = ask_at + 3600000, taken_until = taken_until + 3600000")
        served.sql("update @accounts set next_at = next_at + 3600000")
        await until(lambda: look(served, job)["status"] != "running", "it is over", 15)
        assert look(served, job)["status"] == "completed" and look(served, job)["refund"] is None


async def test_a_cancelled_job_is_stopped_at_the_provider_before_the_next_one_gets_its_slot(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, _ = start(served, simulator)
        waiter = served.acquire(job_id=fresh()).json()
        assert served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel").json()["status"] == "cancelled"
        await until(lambda: look(served, waiter)["status"] == "granted", "the task is stopped")
        assert simulator.seen()["running"] == 0


async def test_a_provider_that_does_not_answer_ends_no_job_before_its_silence_is_over(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, _ = start(served, simulator)
        simulator.stop()
        await until(lambda: look(served, job)["status"] == "expired", "the silence was too long", 15)
        found = look(served, job)
        assert found["end_reason"] == "lease_timeout" and found["refund"]["amount"] == 5


async def test_a_gate_that_is_killed_after_an_end_stops_the_task_when_it_is_back(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, task_id = start(served, simulator)
        simulator.control(faults={"all": "hang"})
        assert served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel").json()["status"] == "cancelled"
        served.kill()
        simulator.control(faults={"all": "none"})
        served.start()
        await until(lambda: look_at(simulator, task_id)["cancelled"], "the stop was owed in SQL")


def look_at(simulator: Simulator, task_id: str) -> dict[str, Any]:
    return next(one for one in simulator.seen()["tasks"] if one["taskId"] == task_id)


async def test_a_pool_that_is_loaded_again_keeps_a_draining_slot(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, drain_seconds=20) as served:
        job, _ = start(served, simulator)
        simulator.stop()  # so that no stop is confirmed
        waiter = served.acquire(job_id=fresh()).json()
        served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
        await until(lambda: served.http.get("/v1/pools/default").json()["draining"] == 1, "it drains")
        redis.Redis.from_url(served.redis_url).flushall()
        pool = served.http.get("/v1/pools/default").json()
        assert (pool["draining"], pool["free"], pool["queued"]) == (1, 0, 1) and look(served, waiter)["status"] == "queued"


async def test_an_expired_job_is_stopped_too(tmp_path: Path) -> None:
    with Simulator(limit=2) as simulator, asking(tmp_path, simulator, "max_hold_seconds = 3") as served:
        job, task_id = start(served, simulator)
        await until(lambda: look(served, job)["status"] == "expired", "its hard limit is over", 15)
        await until(lambda: look_at(simulator, task_id)["cancelled"], "its task is stopped")
        assert look(served, job)["end_reason"] == "hold_limit"


async def test_asking_now_ends_the_job_at_once(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job, _ = start(served, simulator, seconds=0)
        assert served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask").status_code == 202
        await until(lambda: look(served, job)["status"] == "completed", "gate has asked", 5)
        refused = served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
        assert (refused.status_code, refused.json()["code"]) == (409, "no_task")


async def test_the_terminal_asks_and_shows_the_job_after_the_answer(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job, _ = start(served, simulator, seconds=0)
        said = run_gate("ask", job["job_id"], "--json", cwd=tmp_path)
        assert said.returncode == 0 and json.loads(said.stdout)["status"] == "completed"
        again = run_gate("ask", job["job_id"], cwd=tmp_path)
        assert again.returncode == 1 and "asks no provider about this job" in again.stderr


async def test_a_cancel_at_the_terminal_drains_too(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600, drain_seconds=60) as served:
        job, _ = start(served, simulator, deaf=True)
        assert run_gate("cancel", job["job_id"], cwd=tmp_path).returncode == 0
        assert served.http.get("/v1/pools/default").json()["draining"] == 1


async def test_the_key_is_in_nothing_that_gate_keeps_or_shows(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        job, _ = start(served, simulator, outcome="failed", seconds=0.1, error=f"the key {KEY} is spent")
        await until(lambda: look(served, job)["status"] == "failed", "gate has asked")
        history = served.http.get(f"/v1/pools/default/jobs/{job['job_id']}/history").text
        assert "[key]" in look(served, job)["error"] and KEY not in history + str(look(served, job))
        assert KEY.encode() not in b"".join(file.read_bytes() for file in (tmp_path / ".gate").glob("gate.db*"))
        assert KEY not in (tmp_path / "errors.log").read_text()


async def test_a_callback_that_echoes_a_key_is_kept_without_it(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        simulator.control(echo=True)
        address = f"{served.url}/v1/webhooks/runninghub/default?token=t0ken-of-the-test"
        job = served.acquire(job_id=fresh()).json()
        body = {"apiKey": KEY, "workflowId": "1", "webhookUrl": address, "gateTest": {"seconds": 0.1}}
        task_id = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()["data"]["taskId"]
        served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json={"provider": "runninghub", "task_id": task_id})
        await until(lambda: look(served, job)["status"] == "completed", "the callback has come")
        broken = f'{{"taskId": "{task_id}", "eventData": {{"errorMessage": "{KEY}'
        assert served.http.post(address, content=broken.encode()).status_code == 422
        assert "[key]" in json.dumps(look(served, job)["output"])
        unread = served.http.get("/v1/callbacks/unread").json()["rows"]
        assert "[key]" in unread[0]["body"]
        assert KEY.encode() not in b"".join(file.read_bytes() for file in (tmp_path / ".gate").glob("gate.db*"))


async def test_a_holder_that_passes_on_a_key_is_kept_without_it(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator) as served:
        refused = served.acquire(job_id=fresh()).json()
        served.act(refused, "release", outcome="refused", error=f"the key {KEY} has no room")
        history = served.http.get(f"/v1/pools/default/jobs/{refused['job_id']}/history").text
        assert "the key [key] has no room" in history
        await until(lambda: look(served, refused)["status"] == "granted", "it has its slot again")
        served.act(look(served, refused), "release", outcome="failed", error=f"no {KEY}", output={"asked": [KEY]})
        assert (look(served, refused)["error"], look(served, refused)["output"]) == ("no [key]", {"asked": ["[key]"]})
        assert KEY.encode() not in b"".join(file.read_bytes() for file in (tmp_path / ".gate").glob("gate.db*"))


MANAGER = "/functions/v1/runninghub-queue-manager"


async def test_job_that_its_front_end_gives_up_is_completed_if_the_provider_has_finished_it(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job, task_id = start(served, simulator, seconds=0)
        body = {"table": "upscaler_jobs", "jobId": job["job_id"]}
        said = served.post(
            f"{MANAGER}/finish", body | {"status": "failed", "errorMessage": "no answer for 15 minutes"}
        ).json()
        assert said == {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": 0}
        assert look(served, job)["output"]["files"][0]["url"].endswith(f"{task_id}.png")


async def test_reconcile_asks_the_provider(tmp_path: Path) -> None:
    with Simulator(limit=2) as simulator, asking(tmp_path, simulator, lease_seconds=600) as served:
        job, task_id = start(served, simulator)
        body = {"table": "upscaler_jobs", "jobId": job["job_id"]}
        alive = {"resolved": False, "reason": "still_running", "providerStatus": "running"}
        assert served.post(f"{MANAGER}/reconcile", body).json() == alive
        simulator.control(tasks={task_id: {"seconds": 0}})
        await until(lambda: served.post(f"{MANAGER}/reconcile", body).json()["resolved"], "it has ended at the provider")
        assert served.post(f"{MANAGER}/reconcile", body).json() == {"resolved": True, "status": "completed"}


async def test_question_under_way_when_gate_is_killed_is_asked_again_at_once(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(10)
        with asking(tmp_path, simulator) as served:
            served.stop()
            port = deaf.getsockname()[1]
            file = tmp_path / "gate.toml"
            file.write_text(file.read_text().replace(simulator.url, f"http://127.0.0.1:{port}"))
            served.start()
            start(served, simulator)
            first, _ = deaf.accept()
            served.kill()
            served.start()
            again, _ = deaf.accept()
            first.close()
            again.close()
