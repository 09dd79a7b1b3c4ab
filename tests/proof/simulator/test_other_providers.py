"""One job of each other provider, end to end: a real gate asks a stand-in about its task, and stops it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.stand_in import Call, StandIn
from tests.support.wait import until
from tests.unit.providers.examples import ALL
from tests.unit.providers.examples.shape import KEY

pytestmark = pytest.mark.anyio


class Other(NamedTuple):
    """A provider as its documentation has it: paths of a question, of its further request, and of a stop, and the header of the key."""

    name: str
    ask: str
    further: str | None
    stop: str
    method: str
    header: str
    stop_reply: str


def others() -> Iterator[Other]:
    task = {name: examples.task_id for name, examples in ALL.items()}
    replicate = f"/v1/predictions/{task['replicate']}"
    yield Other("replicate", replicate, None, f"{replicate}/cancel", "POST", f"Bearer {KEY}", "still running")
    fal = f"/fal-ai/fast-sdxl/requests/{task['fal'].rpartition('/')[2]}"
    yield Other("fal", f"{fal}/status", fal, f"{fal}/cancel", "PUT", f"Key {KEY}", "asked of the runner")
    comfyui = task["comfyui"]
    stop = f"/api/jobs/{comfyui}/cancel"
    yield Other("comfyui", f"/history/{comfyui}", "/queue", stop, "POST", f"Bearer {KEY}", "accepted")


each = pytest.mark.parametrize("other", list(others()), ids=lambda other: other.name)


@contextlib.contextmanager
def asking(folder: Path, other: Other) -> Iterator[tuple[StandIn, Served]]:
    with StandIn(other.name, other.ask, other.stop, other.stop_reply) as provider:
        config = f'lease_seconds = 6\nlimit = 1\n[providers.{other.name}]\nbase_url = "{provider.url}"\ncallbacks = false\n'
        config += f'questions_per_second = 100\n[providers.{other.name}.accounts.primary]\nkey = "{KEY}"\n'
        with Served(folder, config=config) as served:
            yield provider, served


def look(served: Served, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()
    return found


def start(served: Served, other: Other) -> dict[str, Any]:
    job: dict[str, Any] = served.acquire(job_id=fresh(), credits=5).json()
    body = {"provider": other.name, "task_id": ALL[other.name].task_id, "lease_id": job["lease"]["lease_id"]}
    bound = served.http.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body)
    assert bound.status_code == 200, bound.text
    return job


@each
async def test_job_is_asked_about_while_it_runs_and_completed_with_its_output(tmp_path: Path, other: Other) -> None:
    with asking(tmp_path, other) as (provider, served):
        job = start(served, other)
        await until(lambda: look(served, job)["task"]["state"] == "running", "gate has asked")
        provider.ask = "completed"
        await until(lambda: look(served, job)["status"] == "completed", "gate has asked again")
        found = look(served, job)
        assert found["output"] == ALL[other.name].ask["completed"].output and found["refund"] is None
        assert (found["task"]["account"], found["ended_by"]) == ("primary", "provider")
        assert {call.authorization for call in provider.calls} == {other.header}
        paths = {other.ask, other.further} - {None}
        assert {call.method for call in provider.calls} == {"GET"} and {call.path for call in provider.calls} == paths


@each
async def test_cancelled_job_is_stopped_at_its_provider_before_the_next_gets_the_slot(tmp_path: Path, other: Other) -> None:
    with asking(tmp_path, other) as (provider, served):
        job = start(served, other)
        waiter = served.acquire(job_id=fresh()).json()
        assert served.http.post(f"/v1/pools/default/jobs/{job['job_id']}/cancel").json()["status"] == "cancelled"
        await until(lambda: look(served, waiter)["status"] == "granted", "the task is stopped")
        assert Call(other.method, other.stop, other.header) in provider.calls
        await until(lambda: look(served, job)["task"]["stop"] == "confirmed", "the stop is recorded")
        found = look(served, job)
        assert (found["status"], found["refund"]["amount"], found["task"]["state"]) == ("cancelled", 5, "ended")
        assert served.http.get("/v1/pools/default").json()["draining"] == 0


@each
async def test_failure_that_the_provider_names_is_refunded_with_its_reason(tmp_path: Path, other: Other) -> None:
    with asking(tmp_path, other) as (provider, served):
        provider.ask = "failed"
        job = start(served, other)
        await until(lambda: look(served, job)["status"] == "failed", "gate has asked")
        found = look(served, job)
        assert (found["error"], found["refund"]["amount"]) == (ALL[other.name].ask["failed"].error, 5)


@each
async def test_key_that_the_provider_refuses_ends_no_job(tmp_path: Path, other: Other) -> None:
    with asking(tmp_path, other) as (provider, served):
        provider.ask = "bad key"
        job = start(served, other)
        first = job["lease"]["expires_at"]
        await until(lambda: look(served, job)["lease"]["expires_at"] > first, "its lease is extended without an answer")
        provider.ask = "completed"
        await until(lambda: look(served, job)["status"] == "completed", "the key is accepted again")
