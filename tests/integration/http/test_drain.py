"""The stop of a server: not ready first, then answers that close their connection, then the close of the port."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from gate.coordination.shutdown import Shutdown
from gate.coordination.waiters import Waiters
from gate.runtime import graceful_stop
from gate.runtime.listener import listen
from tests.support.gate_process import Served, run_gate
from tests.support.wait import until

pytestmark = pytest.mark.anyio
LONG = {"GATE_SHUTDOWN_DELAY_SECONDS": "60"}


def answered_after_the_stop(served: Served, job_id: str) -> tuple[threading.Thread, list[httpx2.Response]]:
    """A call that waits in the queue, on a connection of its own."""
    answers: list[httpx2.Response] = []

    def ask() -> None:
        with httpx2.Client(base_url=served.url, timeout=30) as client:
            body = {"job_id": job_id, "wait_seconds": 30}
            answers.append(client.post("/v1/pools/default/acquire", json=body))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


async def test_a_drained_server_is_not_ready_and_serves_until_its_delay_is_over(tmp_path: Path) -> None:
    with Served(tmp_path, config="limit = 1\n", **LONG) as served:
        held = served.acquire(job_id="held").json()
        waiting, answers = answered_after_the_stop(served, "waits")
        await until(lambda: served.http.get("/v1/pools/default").json()["queued"] == 1, "it waits")
        for _ in range(2):  # a repeat changes nothing
            drained = served.post("/v1/admin/drain")
            assert (drained.status_code, drained.json()) == (202, {"status": "draining", "delay_seconds": 60})
            assert drained.headers["connection"] == "close"
        ready = served.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "why": "this server is about to stop"})
        assert served.http.get("/healthz").status_code == 200
        renewed = served.act(held, "renew")
        assert (renewed.status_code, renewed.headers["connection"]) == (200, "close")
        assert waiting.is_alive()
        served.process.send_signal(signal.SIGINT)  # Ctrl-C does not wait for the delay
        assert served.process.wait(20) == 0
        waiting.join(10)
    (answer,) = answers
    assert (answer.status_code, answer.json()["status"], answer.headers["connection"]) == (202, "queued", "close")


def test_only_an_admin_may_drain(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_ADMIN_KEY="an admin key of this test", **LONG) as served:
        made = run_gate("keys", "create", "t", "--role", "tool", cwd=tmp_path).stdout.strip()
        asyncio.run(until(lambda: served.http.get("/v1/pools", headers={"apikey": made}).status_code == 200, "it counts"))
        assert served.post("/v1/admin/drain").status_code == 401
        assert served.http.post("/v1/admin/drain", headers={"apikey": made}).status_code == 403
        assert served.http.get("/readyz").status_code == 200
        assert served.http.post("/v1/admin/drain", headers={"apikey": "an admin key of this test"}).status_code == 202
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n"], ids=["nothing", "half a head"])
async def test_a_stop_answers_the_request_that_is_on_its_way(tmp_path: Path, sent: bytes) -> None:
    """A proxy may not send it again: it does not know what the server has done with it."""
    with Served(tmp_path) as served:
        host, _, port = served.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(sent)
            assert served.http.get("/healthz").status_code == 200  # the connection before it is accepted too
            served.process.terminate()
            await until(lambda: refused(host, int(port)), "the port is closed")
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".removeprefix(sent))
            answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
        assert served.process.wait(20) == 0


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
async def test_no_connection_is_reset_when_the_listener_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has completed it, so its peer may have sent a request already. A later one is refused, and goes elsewhere."""
    monkeypatch.setattr(graceful_stop, "HANDSHAKE_S", 60)
    listener, shutdown = listen("127.0.0.1", 0), Shutdown()
    shutdown.delay_s = 1
    stop = graceful_stop.GracefulStop(shutdown, Waiters(), SimpleNamespace(should_exit=False), listener)  # type: ignore[arg-type]
    with listener, socket.create_connection(listener.getsockname()) as early:
        early.sendall(b"a request")
        stopping = asyncio.create_task(stop.close())
        await until(lambda: dropped(listener.getsockname()), "new connections are dropped")
        accepted = [listener.accept()[0]]
        while True:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                break
        assert accepted[0].recv(100) == b"a request"
        for one in accepted:
            one.close()
        stopping.cancel()


def dropped(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        client.settimeout(0.1)
        try:
            client.connect(address)
        except TimeoutError:
            return True
    return False


async def test_a_wait_ends_before_a_proxy_gives_up(tmp_path: Path) -> None:
    with Served(tmp_path, config="limit = 0\n", GATE_WAIT_MAX_SECONDS="1") as served:
        for answer in (
            served.acquire(job_id="a", wait_seconds=60),
            served.http.get("/v1/pools/default/jobs/a", params={"wait_seconds": 60}),
        ):
            assert answer.json()["status"] == "queued" and answer.elapsed.total_seconds() < 20
