"""Slots that are open when their client is closed, their process is ended, or their process is forked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gate.client import AsyncGate, Gate, GateError, LeaseLost
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.paths import ROOT
from tests.support.wait import until


@pytest.mark.anyio
async def test_error_in_gather_ends_the_slots_of_the_other_tasks(gate: AsyncGate, server: Served) -> None:
    held, waiting, busy = fresh(), fresh(), await gate.acquire("one")
    inside, queued = asyncio.Event(), asyncio.Event()

    async def hold(own: AsyncGate) -> None:
        async with own.slot(job_id=held, credits=3):
            inside.set()
            await asyncio.Event().wait()

    async def wait(own: AsyncGate) -> None:
        async with own.slot("one", job_id=waiting, on_position=lambda *_: queued.set()):
            raise AssertionError("there was no room")

    async def fail() -> None:
        await inside.wait()
        await queued.wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with AsyncGate(server.url) as own:
            await asyncio.gather(hold(own), wait(own), fail())
    job = await gate.job("default", held)
    assert (job.status, job.ended_by, job.error, job.refund and job.refund.amount) == (
        "cancelled", "holder", "the client was closed", 3,
    )  # fmt: skip
    assert (await gate.job("one", waiting)).status == "cancelled"
    await gate.cancel("one", busy.job_id)


@pytest.mark.anyio
async def test_close_inside_the_body_releases_its_slot(gate: AsyncGate, server: Served) -> None:
    own = AsyncGate(server.url)
    with pytest.raises(LeaseLost, match="the client was closed"):
        async with own.slot() as lease:
            await own.aclose()
            assert lease.lost.is_set()
            assert (await gate.job("default", lease.job_id)).status == "cancelled"
    with pytest.raises(GateError, match="closed"):
        await own.pool()


def test_close_releases_the_slots_of_other_threads(plain: Gate, server: Served) -> None:
    inside = threading.Event()
    busy, held, waiting = plain.acquire("one"), fresh(), fresh()

    def hold(own: Gate) -> str:
        with own.slot(job_id=held) as lease:
            inside.set()
            assert lease.lost.wait(10)
            lease.fail("told to stop")
        return lease.job.status

    def wait(own: Gate) -> None:
        with own.slot("one", job_id=waiting):
            raise AssertionError("there was no room")

    with ThreadPoolExecutor(2) as threads:
        with Gate(server.url) as own:
            holder, waiter = threads.submit(hold, own), threads.submit(wait, own)
            assert inside.wait(10)
            _until(lambda: plain.pool("one").queued == 1)
        assert holder.result(10) == "failed"
        assert isinstance(waiter.exception(10), GateError)
    assert (plain.job("default", held).error, plain.job("one", waiting).status) == ("told to stop", "cancelled")
    plain.cancel("one", busy.job_id)


def test_close_inside_the_body_of_a_thread_releases_its_slot(plain: Gate, server: Served) -> None:
    own = Gate(server.url)
    with pytest.raises(LeaseLost, match="the client was closed"), own.slot() as lease:
        own.close()
        assert plain.job("default", lease.job_id).status == "cancelled"


def _until(true: object) -> None:
    asyncio.run(until(true, "the condition holds"))  # type: ignore[arg-type]


WORKER = """
import sys, threading, time
from gate.client import Gate
url, how = sys.argv[1:]
gate = Gate(url)
def work(job_id):
    with gate.slot(job_id=job_id, credits=2):
        print("inside", flush=True)
        time.sleep(60)
def main(job_id):
    with gate.slot(job_id=job_id, credits=2):
        print("inside", flush=True)
        time.sleep(60)
job_id = sys.stdin.readline().strip()
if how == "main":
    main(job_id)
elif how == "daemon":
    threading.Thread(target=main, args=[job_id], daemon=True).start()
    time.sleep(60)
else:
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how, code", [("main", 143), ("daemon", 143), ("idle", -signal.SIGTERM)])
def test_sigterm_of_a_worker_releases_its_slot(plain: Gate, server: Served, how: str, code: int) -> None:
    job_id = fresh()
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, server.url, how], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        print(job_id, file=worker.stdin, flush=True)
        assert worker.stdout.readline() == "inside\n"
        worker.terminate()
        worker.terminate()  # some supervisors send it to the group, and once more
        assert worker.wait(10) == code
    if how != "idle":
        job = plain.job("default", job_id)
        assert (job.status, job.ended_by, job.refund and job.refund.amount) == ("cancelled", "holder", 2)


@pytest.fixture
def shared(server: Served) -> Iterator[Gate]:
    """A client with an open connection, as a server that forks its workers would have."""
    with Gate(server.url) as gate:
        gate.pool()
        yield gate


def test_client_shared_over_fork_answers_each_child_about_its_own_job(shared: Gate, plain: Gate) -> None:
    children = [_child(shared, worker) for worker in range(4)]
    results = [_result(*child) for child in children]
    assert [result for result in results if result["wrong"] or result["errors"]] == []
    assert sum(result["right"] for result in results) == 4 * 10
    shared.pool()


def _child(gate: Gate, worker: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, json.dumps(_acquire_some(gate, worker)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    return pid, reading


def _acquire_some(gate: Gate, worker: int) -> dict[str, int]:
    count = {"right": 0, "wrong": 0, "errors": 0}
    prefix = fresh()
    for n in range(10):
        job_id = f"{prefix}-{worker}-{n}"
        try:
            job = gate.acquire("wide", job_id=job_id)
            gate.cancel("wide", job_id)
        except GateError:
            count["errors"] += 1
        else:
            count["right" if job.job_id == job_id else "wrong"] += 1
    return count


def _result(pid: int, reading: int) -> dict[str, int]:
    with os.fdopen(reading) as file:
        result: dict[str, int] = json.loads(file.read() or '{"right": 0, "wrong": 0, "errors": 1}')
    os.waitpid(pid, 0)
    return result


def test_child_that_leaves_the_body_of_its_parent_does_not_release_the_slot(shared: Gate, plain: Gate) -> None:
    slot = shared.slot()
    with slot as lease:
        if (pid := os.fork()) == 0:
            try:
                slot.__exit__(None, None, None)
                shared.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert plain.job("default", lease.job_id).status == "running"
    assert lease.job.status == "completed"


def test_slot_has_a_short_lease_that_it_renews(plain: Gate) -> None:
    began = time.time()
    with plain.slot() as lease:
        assert 30 < lease.expires_at.timestamp() - began < 90, "a worker that dies holds its slot for a minute"
    with plain.slot(lease_seconds=None) as lease:
        assert lease.expires_at.timestamp() - began > 500, "the pool's"
