"""`gate acquire`, `claim` and `renew`: exit code 0 means that the job runs, and no other means it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.wait import until
from tests.support.warm import Forked, warm


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("acquire"), config="limit = 1\n") as served:
        yield served


@pytest.fixture
def pool(own: Served, pool: str) -> str:
    """A pool with one slot, which the job `POOL-first` holds."""
    assert own.http.put(f"/v1/pools/{pool}", json={"limit": 1}).is_success
    own.acquire(pool, job_id=f"{pool}-first")
    return pool


def waiting(own: Served, pool: str, *words: str) -> Forked:
    """`gate acquire WORDS` in a process of its own, when its job waits in the queue."""
    process = warm().start(["acquire", "--pool", pool, "--json", *words], own.folder, gate_environment())
    asyncio.run(until(lambda: queue(own, pool), "it waits", 30))
    return process


def end_of(process: Forked) -> tuple[int, str, str]:
    """The exit code, the output and the errors of a process that ends by itself."""
    assert process.stdout is not None and process.stderr is not None
    with process:
        return process.wait(30), process.stdout.read(), process.stderr.read()


def queue(own: Served, pool: str) -> list[dict[str, Any]]:
    return list(own.http.get(f"/v1/pools/{pool}").json()["queue"])


def test_acquire_exits_0_only_for_a_job_that_runs(own: Served, pool: str) -> None:
    again = run_gate("acquire", "--pool", pool, "--job-id", f"{pool}-first", cwd=own.folder)
    assert (again.returncode, again.stderr) == (0, "")
    waits = run_gate("acquire", "--pool", pool, "--job-id", f"{pool}-b", "--json", cwd=own.folder)
    assert (waits.returncode, json.loads(waits.stdout)["status"]) == (3, "queued")
    assert "waits at place 1 of 1, and must not be started yet" in waits.stderr and waits.stderr.count("\n") == 1
    run_gate("release", f"{pool}-first", "--pool", pool, cwd=own.folder)
    granted = run_gate("acquire", "--pool", pool, "--job-id", f"{pool}-b", "--json", cwd=own.folder)
    assert (granted.returncode, json.loads(granted.stdout)["status"]) == (3, "granted")
    assert f"gate claim {pool}-b" in granted.stderr


def test_wait_ends_with_the_claimed_slot(own: Served, pool: str) -> None:
    process = waiting(own, pool, "--wait", "--job-id", f"{pool}-b")
    run_gate("release", f"{pool}-first", "--pool", pool, cwd=own.folder)
    code, out, errors = end_of(process)
    assert (code, json.loads(out)["status"], errors) == (0, "running", "")


def test_wait_has_a_limit_after_which_the_job_keeps_its_place(own: Served, pool: str) -> None:
    words = ("acquire", "--pool", pool, "--job-id", f"{pool}-b", "--wait", "--wait-seconds", "0.2", "--json")
    ended = run_gate(*words, cwd=own.folder)
    assert (ended.returncode, json.loads(ended.stdout)["position"]) == (3, 1)
    assert [job["job_id"] for job in queue(own, pool)] == [f"{pool}-b"]


def test_wait_of_a_job_that_is_cancelled_exits_1(own: Served, pool: str) -> None:
    process = waiting(own, pool, "--wait", "--job-id", f"{pool}-b")
    run_gate("cancel", f"{pool}-b", "--pool", pool, "--reason", "enough", cwd=own.folder)
    code, out, errors = end_of(process)
    assert (code, json.loads(out)["status"]) == (1, "cancelled") and "is cancelled: enough" in errors


def test_interrupted_wait_cancels_a_job_without_a_name(own: Served, pool: str) -> None:
    process = waiting(own, pool, "--wait")
    process.send_signal(signal.SIGINT)
    assert end_of(process)[:2] == (130, "")
    assert queue(own, pool) == []


def test_claim_and_renew_at_the_terminal(own: Served, pool: str) -> None:
    first = ("--pool", pool, "--json")
    early = run_gate("acquire", "--job-id", f"{pool}-b", *first, cwd=own.folder)
    assert early.returncode == 3
    for verb in ("claim", "renew"):
        refused = run_gate(verb, f"{pool}-b", *first, cwd=own.folder)
        assert refused.returncode == 1 and "not_running: it waits and holds no slot yet" in refused.stderr
    run_gate("release", f"{pool}-first", *first, cwd=own.folder)
    claimed = json.loads(run_gate("claim", f"{pool}-b", *first, cwd=own.folder).stdout)
    renewed = json.loads(run_gate("renew", f"{pool}-b", "--lease-seconds", "1200", *first, cwd=own.folder).stdout)
    assert claimed["status"] == renewed["status"] == "running"
    assert renewed["lease"]["expires_at"] > claimed["lease"]["expires_at"]
    foreign = run_gate("renew", f"{pool}-b", "--lease-id", "other", *first, cwd=own.folder)
    assert foreign.returncode == 1 and "lease_lost" in foreign.stderr
    run_gate("release", f"{pool}-b", *first, cwd=own.folder)
    assert "already_ended" in run_gate("claim", f"{pool}-b", *first, cwd=own.folder).stderr
