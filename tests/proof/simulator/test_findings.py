"""What the doctor finds between gate and a provider that it asks, each on a real gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate.simulator import Simulator
from tests.proof.simulator.test_accounts import KEYS, account, counting, pool, start, two_keys
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def found(served: Served) -> dict[str, dict[str, Any]]:
    said = run_gate("doctor", "--json", cwd=served.folder)
    return {one["what"]: one for one in json.loads(said.stdout)}


async def test_strangers_and_another_limit_of_the_provider_are_found_while_they_last(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        simulator.control(keys={KEYS["first"]: {"limit": 3, "strangers": 1}})
        with counting(tmp_path, simulator, {"first": 2}, limit=2) as served:
            start(served, simulator)
            await until(lambda: pool(served)["strangers"] == 1, "it was counted")
            findings = found(served)
            assert "tasks on it that are not gate's: 1" in findings["strangers"]["says"]
            assert "allows it 3 tasks at once, and its configured limit is 2" in findings["allowed"]["says"]
            assert findings["strangers"]["about"] == "runninghub first"
            served.acquire(job_id=fresh())
            served.acquire(job_id=fresh())
            simulator.control(keys={KEYS["first"]: {"limit": 2, "strangers": 0}})
            await until(lambda: pool(served)["strangers"] == 0, "they are gone", 70)
            assert not {"strangers", "allowed"} & found(served).keys()


async def test_an_account_whose_key_is_refused_is_found_until_it_is_in_order_again(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            job = start(served, simulator)
            simulator.control(keys={KEYS["first"]: {"code": 802}})
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            await until(lambda: account(served, "first")["state"] == "down", "a question was answered so")
            assert "802" in found(served)["account"]["says"]
            simulator.control(keys={KEYS["first"]: {"code": None}})
            await until(lambda: account(served, "first")["state"] == "open", "gate has tried it again", 75)
            assert "account" not in found(served)


async def test_a_job_without_a_task_is_found_after_half_of_its_lease(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator, counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
        job = served.acquire(job_id=fresh(), lease_seconds=4).json()
        assert "no_task" not in found(served)
        await until(lambda: "no_task" in found(served), "half of the lease is over", 20)
        served.act(job, "release", outcome="completed")
        assert "no_task" not in found(served)


async def test_a_provider_that_never_calls_back_is_found_after_ten_ends_by_questions(tmp_path: Path) -> None:
    with Simulator(limit=20) as simulator:
        simulator.control(keys={KEYS["first"]: {"limit": 20}})
        with counting(tmp_path, simulator, {"first": 20}, limit=20) as served:
            jobs = [start(served, simulator, seconds=0) for _ in range(10)]
            for job in jobs:
                served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/ask")
            await until(lambda: pool(served)["running"] == 0, "the questions have brought the ends")
            assert found(served)["silent"]["about"] == "runninghub"


async def test_a_stop_that_was_given_up_is_found_for_a_day(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            job = start(served, simulator, deaf=True)
            served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel")
            served.sql("update @tasks set stop_at = stop_at - 600000")  # its ten minutes are over
            await until(lambda: "stop" in found(served), "the next stop was the last one", 40)
            assert job["job_id"] in found(served)["stop"]["says"]
            served.sql("update @tasks set stop_at = stop_at - 86400000")
            assert "stop" not in found(served)


async def test_account_that_was_removed_while_it_has_tasks_is_found_and_logged_at_the_start(tmp_path: Path) -> None:
    with Simulator(limit=3) as simulator:
        two_keys(simulator)
        with counting(tmp_path, simulator, {"first": 3}, limit=3) as served:
            job = start(served, simulator)
            assert "no_account" not in found(served)
            served.stop()
            file = tmp_path / "gate.toml"
            before = file.read_text()
            file.write_text(before.partition("[providers.runninghub]")[0])
            served.start()
            finding = found(served)["no_account"]
            assert finding["about"] == "runninghub first" and job["job_id"] in finding["says"]
            assert (tmp_path / "errors.log").read_text().count("asking.no_account") == 1
            served.stop()
            file.write_text(before.replace("accounts.first", "accounts.renamed"))
            served.start()
            assert "no_account" not in found(served), "the account of another name has taken its tasks over"
            assert (tmp_path / "errors.log").read_text().count("asking.no_account") == 1
            served.act(job, "release", outcome="completed")
