"""`gate serve --workers N`: several processes on one port, on stores that they share."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.proof.proxies.gates import gate_on
from tests.support.gate_process import Served
from tests.support.servers import free_port
from tests.support.wait import until


def processes(served: Served) -> list[int]:
    """The children of the server."""
    found = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def test_a_dead_process_is_replaced_and_a_drain_stops_all(tmp_path: Path, stores: dict[str, str]) -> None:
    delay = {"GATE_SHUTDOWN_DELAY_SECONDS": "60"}
    with gate_on(tmp_path / "gate", stores, free_port(), "--workers", "3", **delay) as served:
        assert "serves by 3 processes" in "".join(served.said)
        first = processes(served)
        assert len(first) == 3
        os.kill(first[1], signal.SIGKILL)
        asyncio.run(until(lambda: len(set(processes(served)) - set(first)) == 1, "another one is there"))
        assert "server_process.ended" in (served.folder / "errors.log").read_text()
        for _ in range(30):  # also by connections that waited for the successor
            assert served.http.get("/healthz", headers={"connection": "close"}).status_code == 200
        assert served.acquire(job_id="after").json()["status"] == "running"
        assert served.post("/v1/admin/drain").status_code == 202
        ready = lambda: {served.http.get("/readyz", headers={"connection": "close"}).status_code for _ in range(12)}  # noqa: E731
        asyncio.run(until(lambda: ready() == {503}, "no process is ready"))
        os.kill(served.process.pid, signal.SIGINT)
        assert served.process.wait(20) == 0
        assert not [pid for pid in first if Path(f"/proc/{pid}").exists()]


def test_the_processes_end_with_their_parent(tmp_path: Path, stores: dict[str, str]) -> None:
    delay = {"GATE_SHUTDOWN_DELAY_SECONDS": "60"}
    with gate_on(tmp_path / "gate", stores, free_port(), "--workers", "2", **delay) as served:
        children = processes(served)
        served.process.kill()
        served.process.wait(20)
        asyncio.run(until(lambda: not [pid for pid in children if alive(pid)], "they have ended"))


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
