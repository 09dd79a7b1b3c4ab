"""With `callbacks = "hint"` a callback makes gate ask the provider, and is not believed itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.test_asking import KEY, look
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def hinted(folder: Path, simulator: Simulator) -> Iterator[Served]:
    """Serve a gate that has no secret of the provider. Its first question about a task comes a minute after the start."""
    config = 'lease_seconds = 600\nlimit = 1\n[providers.runninghub]\ncallbacks = "hint"\n'
    config += f'base_url = "{simulator.url}"\n[providers.runninghub.accounts.primary]\nkey = "{KEY}"\n'
    with Served(folder, config=config) as served:
        yield served


def address(served: Served) -> str:
    return f"{served.url}/v1/webhooks/runninghub/default"


def run(served: Served, simulator: Simulator, **plan: Any) -> str:
    """Start a task that calls back without a token."""
    body = {"apiKey": KEY, "workflowId": "1", "webhookUrl": address(served), "gateTest": plan}
    task_id: str = httpx2.post(f"{simulator.url}/task/openapi/run", json=body).json()["data"]["taskId"]
    return task_id


def bind(served: Served, task_id: str) -> dict[str, Any]:
    job: dict[str, Any] = served.acquire(job_id=fresh(), credits=5, tool="upscaler_jobs").json()
    body = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
    assert served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body).status_code == 200
    return job


def forge(served: Served, task_id: str) -> httpx2.Response:
    result = {"fileUrl": "https://forged.invalid/x.png", "fileType": "png"}
    data = {"code": 0, "msg": "success", "data": [result]}
    return httpx2.post(address(served), json={"event": "TASK_END", "taskId": task_id, "eventData": json.dumps(data)})


async def test_a_forged_hint_ends_nothing(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        task_id = run(served, simulator, seconds=60)
        job = bind(served, task_id)
        said = forge(served, task_id)
        assert (said.status_code, said.json()) == (200, {"result": "asking"})
        await until(lambda: look(served, job)["task"]["questions"] == 1, "gate has asked")
        found = look(served, job)
        assert (found["status"], found["output"], found["refund"]) == ("running", None, None)
        assert "it made gate ask the provider" in run_gate("explain", job["job_id"], cwd=tmp_path).stdout


async def test_a_true_hint_ends_the_job_long_before_the_next_question(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        task_id = run(served, simulator, seconds=1)
        job = bind(served, task_id)
        await until(lambda: look(served, job)["status"] == "completed", "the hint has made gate ask", 15)
        assert look(served, job)["output"]["files"][0]["url"].endswith(f"{task_id}.png")
        assert look(served, job)["task"]["questions"] == 1


async def test_a_true_hint_after_a_forged_one_ends_the_job(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        task_id = run(served, simulator, seconds=60)
        job = bind(served, task_id)
        forge(served, task_id)
        await until(lambda: look(served, job)["task"]["questions"] == 1, "gate has asked because of the forged one")
        simulator.control(tasks={task_id: {"seconds": 0}})
        await until(lambda: look(served, job)["status"] == "completed", "the true one has made gate ask again", 20)
        assert "forged" not in json.dumps(look(served, job)["output"])


async def test_a_hint_before_its_binding_makes_gate_ask_at_once(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        task_id = run(served, simulator, seconds=0)
        await until(lambda: simulator.seen()["callbacks"][:1] and simulator.seen()["callbacks"][0]["answer"], "it has come")
        job = bind(served, task_id)
        await until(lambda: look(served, job)["status"] == "completed", "the binding has made gate ask", 15)


async def test_a_hint_that_cannot_be_read_is_refused_and_not_kept(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        assert httpx2.post(address(served), content=b"{").status_code == 422
        assert served.http.get("/v1/callbacks/unread").json()["rows"] == []


async def test_hints_of_one_provider_leave_the_secret_of_another_checked(tmp_path: Path) -> None:
    with Simulator(limit=1) as simulator, hinted(tmp_path, simulator) as served:
        refused = httpx2.post(f"{served.url}/v1/webhooks/fal/default", json={"request_id": "r", "status": "OK"})
        assert (refused.status_code, refused.json()["code"]) == (401, "forged")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('[providers.runninghub]\ncallbacks = "hint"\ntoken = "t0ken-of-the-test"\n', 'callbacks = "hint" and no accounts'),
        ('[providers.comfyui]\ncallbacks = "hint"\nbase_url = "http://c"\n[providers.comfyui.accounts.a]\nkey = "k"\n',
         'callbacks = "hint" and no callbacks'),
        (f'[providers.runninghub]\ncallbacks = "hnt"\n[providers.runninghub.accounts.a]\nkey = "{KEY}"\n', "callbacks"),
    ],
)  # fmt: skip
def test_hints_that_gate_could_do_nothing_with_are_refused_at_the_start(tmp_path: Path, config: str, why: str) -> None:
    (tmp_path / "gate.toml").write_text(config)
    said = run_gate("serve", cwd=tmp_path)
    assert said.returncode != 0 and why in said.stderr and len(said.stderr.strip().splitlines()) == 1, said.stderr
