"""Several accounts in one pool, and a limit that follows what the provider allows and what others use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.simulator import Simulator
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio

KEYS = {"first": "key-of-the-first-0123456789", "second": "key-of-the-second-0123456789"}


@contextlib.contextmanager
def counting(
    folder: Path,
    simulator: Simulator,
    limits: dict[str, int],
    limit: int,
    more: str = "",
    drain_seconds: float = 3,
    capacity: str = "follow",
) -> Iterator[Served]:
    config = f'limit = {limit}\n{more}\n[providers.runninghub]\ntoken = "t0ken-of-the-test"\nbase_url = "{simulator.url}"\n'
    config += f'questions_per_second = 100\ndrain_seconds = {drain_seconds}\ncapacity = "{capacity}"\n'
    for name, own in limits.items():
        config += f'[providers.runninghub.accounts.{name}]\nkey = "{KEYS[name]}"\nlimit = {own}\n'
    with Served(folder, config=config) as served:
        yield served


def start(served: Served, simulator: Simulator, at: str | None = None, **plan: Any) -> dict[str, Any]:
    """Take a slot, and start a task on the account that gate has chosen, or `at` another. Its callback is lost."""
    job: dict[str, Any] = served.acquire(job_id=fresh(), credits=5).json()
    assert job["status"] == "running", job
    body = {"apiKey": KEYS[at or job["account"]], "workflowId": "1", "gateTest": {"callback": "lost", "seconds": 60} | plan}
    said = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()
    assert said["code"] == 0, said
    task = {"provider": "runninghub", "task_id": said["data"]["taskId"], "lease_id": job["lease"]["lease_id"]}
    assert served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=task).status_code == 200
    return job


def pool(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get("/v1/pools/default").json()
    return found


def account(served: Served, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in pool(served)["accounts"] if one["name"] == name)
    return found


def two_keys(simulator: Simulator) -> None:
    simulator.control(keys={key: {"limit": 3} for key in KEYS.values()})


async def test_each_grant_takes_the_account_with_the_fewest_tasks(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6) as served:
            chosen = [start(served, simulator)["account"] for _ in range(6)]
            assert chosen == ["first", "second"] * 3
            assert served.acquire(job_id=fresh()).json()["status"] == "queued"
            assert [one["running"] for one in pool(served)["accounts"]] == [3, 3]


async def test_a_pool_never_runs_more_than_its_limit_on_two_accounts(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=3) as served:
            assert [start(served, simulator)["account"] for _ in range(3)] == ["first", "second", "first"]
            assert served.acquire(job_id=fresh()).json()["status"] == "queued"


async def test_accounts_with_fewer_tasks_than_the_pool_has_slots_bound_it(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 1, "second": 1}, limit=6) as served:
            for _ in range(2):
                start(served, simulator)
            waiter = served.acquire(job_id=fresh()).json()
            found = pool(served)
            assert (found["limit"], found["limit_in_force"], found["queued"]) == (6, 2, 1)
            await until(
                lambda: served.http.get(f"/v1/pools/default/jobs/{waiter['job_id']}").json()["reason"] == "provider_full",
                "the reason is known",
            )


async def test_a_task_that_is_being_stopped_counts_for_its_account(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 1, "second": 2}, limit=3, drain_seconds=60) as served:
            job = start(served, simulator, deaf=True)
            assert job["account"] == "first"
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
            assert [start(served, simulator)["account"] for _ in range(2)] == ["second", "second"]
            assert pool(served)["draining"] == 1 and account(served, "first")["running"] == 1


async def test_the_limit_in_force_falls_by_a_stranger_and_rises_when_it_is_gone(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        simulator.control(keys={KEYS["first"]: {"limit": 3, "strangers": 1}})
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            start(served, simulator)
            await until(lambda: pool(served)["limit_in_force"] == 2, "two counts have shown the stranger", 40)
            assert pool(served)["strangers"] == 1
            start(served, simulator)
            waiter = served.acquire(job_id=fresh()).json()
            assert waiter["status"] == "queued"
            simulator.control(keys={KEYS["first"]: {"strangers": 0}})
            await until(lambda: pool(served)["limit_in_force"] == 3, "the stranger is gone", 70)
            found = served.http.get(f"/v1/pools/default/jobs/{waiter['job_id']}").json()
            assert found["status"] == "granted"


async def test_a_counter_that_is_stuck_leaves_one_slot(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        simulator.control(keys={KEYS["first"]: {"limit": 3, "counter": 50}})
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            start(served, simulator)
            served.acquire(job_id=fresh())
            await until(lambda: pool(served)["limit_in_force"] == 1, "two counts were the same", 25)


async def test_a_revoked_key_takes_its_account_down_and_fails_no_job(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6, capacity="off") as served:
            jobs = [start(served, simulator) for _ in range(2)]
            simulator.control(keys={KEYS["first"]: {"code": 802}})
            served.http.post(f"/v1/pools/default/jobs/{jobs[0]['job_id']}/ask")
            await until(lambda: account(served, "first")["state"] == "down", "a question was answered so")
            assert pool(served)["limit_in_force"] == 4 and "802" in account(served, "first")["why"]
            assert [start(served, simulator)["account"] for _ in range(2)] == ["second", "second"]
            waiter = served.acquire(job_id=fresh()).json()
            assert waiter["status"] == "queued"
            assert "account down" in run_gate("status", cwd=tmp_path).stdout, "the terminal has the reason of the server"
            assert "an account at the provider is down" in run_gate("explain", waiter["job_id"], cwd=tmp_path).stdout
            assert {served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()["status"] for job in jobs} == {
                "running"
            }
            for language in ("en", "pt-BR"):
                page = served.http.get("/pools/default", headers={"accept": "text/html", "accept-language": language})
                assert page.status_code == 200 and "4" in page.text, "the change of the limit in force is shown"
            assert "limit in force 4 of 6" in run_gate("pools", "changes", "default", cwd=tmp_path).stdout
            said = run_gate("accounts", cwd=tmp_path)
            assert said.returncode == 0 and "down" in said.stdout and KEYS["first"] not in said.stdout
            simulator.control(keys={KEYS["first"]: {"code": None}})
            served.http.post(f"/v1/pools/default/jobs/{jobs[0]['job_id']}/ask")
            await until(
                lambda: account(served, "first")["state"] == "open", "the next answer shows that the key is good again"
            )


async def test_a_refusal_cools_its_account_and_the_job_goes_to_another(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6, more="cooldown_seconds = 60") as served:
            job = served.acquire(job_id=fresh(), credits=5).json()
            assert job["account"] == "first"
            body = {"lease_id": job["lease"]["lease_id"], "outcome": "refused"}
            said = served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/release", json=body).json()
            await until(
                lambda: served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()["account"] == "second",
                "granted again",
            )
            found = pool(served)
            assert found["cooling_until"] is None and found["limit_in_force"] == 3, said
            assert account(served, "first")["state"] == "cooling"


async def test_a_task_that_was_started_on_another_account_is_found_there(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6) as served:
            job = start(served, simulator, at="second")
            path = f"/v1/pools/default/jobs/{job['job_id']}"
            served.http.post(f"{path}/ask")
            await until(lambda: served.http.get(path).json()["task"]["state"] == "running", "the other account has it")
            found = served.http.get(path).json()
            assert (job["account"], found["account"], found["task"]["account"]) == ("first", "second", "second")
            served.http.post(f"{path}/cancel")
            await until(lambda: simulator.seen()["running"] == 0, "it is stopped there")


async def test_a_task_runs_on_the_account_that_its_caller_names(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3, "second": 3}, limit=6) as served:
            job = served.acquire(job_id=fresh()).json()
            body = {"apiKey": KEYS["second"], "workflowId": "1", "gateTest": {"callback": "lost", "seconds": 0}}
            task_id = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()["data"]["taskId"]
            task = {"provider": "runninghub", "task_id": task_id, "account": "third"}
            refused = served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=task)
            assert (job["account"], refused.status_code, refused.json()["errors"][0]["field"]) == ("first", 422, "account")
            assert "first, second" in refused.json()["detail"]
            bound = served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=task | {"account": "second"})
            assert (bound.status_code, bound.json()["account"]) == (200, "second")
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            found = f"/v1/pools/default/jobs/{job['job_id']}"
            await until(lambda: served.http.get(found).json()["status"] == "completed", "its account was asked")
            assert simulator.seen()["keys"][KEYS["first"]].get("questions", 0) == 0
