"""`gate run -- COMMAND` in processes of its own: the slot is held as long as the command runs, and no longer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.wait import until
from tests.support.warm import Forked, warm


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("run"), on_defaults=True) as served:
        yield served


@pytest.fixture
def one(own: Served, pool: str) -> str:
    """A pool with one slot."""
    assert own.http.put(f"/v1/pools/{pool}", json={"limit": 1}).is_success
    return pool


def started(served: Served, *words: str) -> Forked:
    return warm().start(["run", *words], served.folder, gate_environment())


def job_of(served: Served, pool: str, job_id: str) -> dict[str, Any]:
    return dict(served.http.get(f"/v1/pools/{pool}/jobs/{job_id}").json())


def wait_for(true: Any, what: str) -> Any:
    return asyncio.run(until(true, what, 30))


def first_line(process: Forked) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("script", "code", "status", "error"),
    [
        ("exit 0", 0, "completed", None),
        ("exit 7", 7, "failed", "exit code 7"),
        ("kill -KILL $$", 137, "failed", "exit code 137, SIGKILL"),
    ],
)
def test_outcome_and_exit_code_are_those_of_the_command(
    own: Served, one: str, script: str, code: int, status: str, error: str | None
) -> None:
    words = ("--pool", one, "--job-id", one, "--credits", "5", "--", "sh", "-c", f"echo $GATE_JOB_ID $GATE_FENCE; {script}")
    done = run_gate("run", *words, cwd=own.folder)
    job = job_of(own, one, one)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(f"{one} ")
    assert (job["status"], job["error"], job["ended_by"]) == (status, error, "holder")


def test_command_waits_for_its_slot_and_the_slot_is_renewed_while_it_runs(own: Served, one: str) -> None:
    first = own.acquire(one, job_id=f"{one}-first").json()
    os.mkfifo(own.folder / one)
    words = ("--pool", one, "--job-id", one, "--lease-seconds", "3", "sh", "-c", f"echo runs; read x < {one}")
    with started(own, *words) as process:
        wait_for(lambda: own.http.get(f"/v1/pools/{one}").json()["queued"], "it waits")
        own.act(first, "release", outcome="completed")
        assert first_line(process) == "runs"
        lease = job_of(own, one, one)["lease"]
        wait_for(lambda: job_of(own, one, one)["lease"]["expires_at"] > lease["expires_at"], "it is renewed")
        (own.folder / one).write_text("x\n")
        assert process.wait(20) == 0
    assert job_of(own, one, one)["status"] == "completed"


def test_wait_that_is_too_long_starts_nothing_and_leaves_no_job(own: Served, one: str) -> None:
    own.acquire(one, job_id=f"{one}-first")
    done = run_gate("run", "--pool", one, "--wait-seconds", "0.2", "--", "echo", "started", cwd=own.folder)
    assert (done.returncode, done.stdout) == (124, "") and "no slot within 0.2 s" in done.stderr
    assert own.http.get(f"/v1/pools/{one}").json()["queue"] == []


def test_signal_while_it_waits_cancels_the_job(own: Served, one: str) -> None:
    own.acquire(one, job_id=f"{one}-first")
    with started(own, "--pool", one, "--job-id", one, "--", "echo", "started") as process:
        wait_for(lambda: own.http.get(f"/v1/pools/{one}").json()["queued"], "it waits")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143 and first_line(process) == ""
    assert job_of(own, one, one)["status"] == "cancelled"


@pytest.mark.parametrize(
    ("number", "says", "status"), [(signal.SIGTERM, "SIGTERM", "cancelled"), (signal.SIGINT, "SIGINT", "cancelled"), (signal.SIGUSR1, "SIGUSR1", "failed")]
)  # fmt: skip
def test_signals_are_forwarded_to_the_command(own: Served, one: str, number: signal.Signals, says: str, status: str) -> None:
    script = "".join(f"trap 'echo {name}; exit 9' {name[3:]}; " for name in ("SIGTERM", "SIGINT", "SIGUSR1"))
    with started(
        own, "--pool", one, "--job-id", one, "sh", "-c", f"{script} echo runs; while :; do sleep 0.02; done"
    ) as process:
        assert first_line(process) == "runs"
        process.send_signal(number)
        assert first_line(process) == says and process.wait(20) == 9
    assert job_of(own, one, one)["status"] == status


def test_lost_lease_is_said_and_ends_the_command_with_its_children(own: Served, one: str) -> None:
    with started(own, "--pool", one, "--job-id", one, "--", "sh", "-c", "sleep 600 & echo $!; wait") as process:
        child = int(first_line(process))
        run_gate("cancel", one, "--pool", one, cwd=own.folder)
        assert process.wait(20) == 125
        assert process.stderr is not None and f"the lease of job {one} is lost" in process.stderr.read()
    wait_for(lambda: not is_alive(child), "the child of the command has ended")


def test_command_may_go_on_without_its_lease_and_is_no_success_then(own: Served, one: str) -> None:
    os.mkfifo(own.folder / "fifo")
    words = ("--pool", one, "--job-id", one, "--keep-running", "sh", "-c", "echo runs; read x < fifo; echo on")
    with started(own, *words) as process:
        assert first_line(process) == "runs"
        run_gate("cancel", one, "--pool", one, cwd=own.folder)
        assert process.stderr is not None and "goes on without it" in process.stderr.readline()
        (own.folder / "fifo").write_text("x\n")
        assert first_line(process) == "on" and process.wait(20) == 125


def test_killed_gate_is_survived_by_retry(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        os.mkfifo(tmp_path / "fifo")
        with started(
            served, "--job-id", "a", "--lease-seconds", "20", "sh", "-c", "echo runs; read x < fifo; echo on"
        ) as process:
            assert first_line(process) == "runs"
            was = served.url
            served.kill()
            (tmp_path / "fifo").write_text("x\n")  # it ends while no gate runs
            assert first_line(process) == "on"
            served.start()
            assert served.url != was and process.wait(30) == 0
        assert job_of(served, "default", "a")["status"] == "completed"


def test_job_that_runs_already_is_neither_started_nor_ended(own: Served, one: str) -> None:
    own.acquire(one, job_id=one)
    done = run_gate("run", "--pool", one, "--job-id", one, "--", "echo", "started", cwd=own.folder)
    assert (done.returncode, done.stdout) == (125, "") and "runs already" in done.stderr
    assert job_of(own, one, one)["status"] == "running"


def test_killed_gate_run_takes_its_command_with_it(own: Served, one: str) -> None:
    with started(own, "--pool", one, "--job-id", one, "--", "sleep", "600") as process:
        wait_for(lambda: job_of(own, one, one).get("status") == "running", "it runs")
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        child = int(wait_for(lambda: Path(children).read_text().split(), "it has a child")[0])
        process.kill()
        process.wait(20)
        wait_for(lambda: not is_alive(child), "the command has ended")


def test_gate_with_keys_knows_the_commands_of_its_own_machine(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, GATE_ADMIN_KEY="k" * 20) as served:
        assert served.http.get("/v1/pools").status_code == 401
        assert run_gate("run", "--", "true", cwd=tmp_path).returncode == 0
        elsewhere = run_gate("run", "--url", served.url, "--", "true", cwd=tmp_path)
        assert elsewhere.returncode == 125 and "unauthorized" in elsewhere.stderr
        assert run_gate("run", "--url", served.url, "--", "true", cwd=tmp_path, GATE_KEY="k" * 20).returncode == 0
        assert (tmp_path / ".gate" / "terminal-key").stat().st_mode & 0o777 == 0o600
        events = json.loads(run_gate("jobs", "--json", cwd=tmp_path).stdout)
        assert {job["status"] for job in events} == {"completed"}


def test_what_cannot_run_takes_no_slot(own: Served, tmp_path: Path) -> None:
    missing = run_gate("run", "nowhere-to-be-found", cwd=own.folder)
    assert (missing.returncode, missing.stderr) == (127, "gate: there is no command nowhere-to-be-found\n")
    unknown = run_gate("run", "--pool", "nowhere", "true", cwd=own.folder)
    assert unknown.returncode == 125 and "pool_unknown" in unknown.stderr
    alone = run_gate("run", "true", cwd=tmp_path)
    assert alone.returncode == 125 and "no gate runs in" in alone.stderr and not (tmp_path / ".gate").exists()


def test_a_waiting_run_asks_for_presence_so_that_a_killed_one_gets_no_slot(own: Served, one: str) -> None:
    holder = own.acquire(one, job_id=f"{one}-holder").json()
    process = started(own, "--pool", one, "--job-id", f"{one}-killed", "--", "true")
    try:
        (row,) = wait_for(
            lambda: own.sql("select presence_ms from @jobs where job_id = :job", job=f"{one}-killed"), "it waits"
        )
        assert row[0] == 15_000
    finally:
        process.kill()
        process.wait(20)
    for job in (holder, job_of(own, one, f"{one}-killed")):
        own.act(job, "cancel")


def test_a_waiting_acquire_without_a_name_asks_for_presence(own: Served, one: str) -> None:
    holder = own.acquire(one, job_id=f"{one}-holder").json()
    command = [sys.executable, "-m", "gate", "acquire", "--pool", one, "--wait"]
    process = subprocess.Popen(
        command, cwd=own.folder, env=gate_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    query = "select job_id, presence_ms from @jobs where pool = :pool and status = 'queued'"
    try:
        ((job_id, presence_ms),) = wait_for(lambda: own.sql(query, pool=one), "it waits")
        assert presence_ms == 10_000
    finally:
        process.kill()
        process.wait()
    for job in (holder, job_of(own, one, job_id)):
        own.act(job, "cancel")
