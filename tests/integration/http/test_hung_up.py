"""Callers that disconnect before their answer: a job that only they know ends, and its place or its slot goes to the next."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until


@pytest.fixture
def pool(served: Served) -> str:
    """A pool with three slots, all of them held."""
    name = fresh()
    assert served.http.put(f"/v1/pools/{name}", json={"limit": 3}).status_code == 201
    return name


def ask(served: Served, pool: str, whole: bool = True, **body: Any) -> socket.socket:
    """Send an acquire, with a header that the fast path leaves to the framework unless `whole`, and return its connection."""
    where, text = urlsplit(served.url), json.dumps(body)
    unusual = "" if whole else "content-encoding: identity\r\n"
    head = f"POST /v1/pools/{pool}/acquire HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n{unusual}"
    connection = socket.create_connection((where.hostname, where.port), 10)
    connection.sendall(f"{head}content-length: {len(text)}\r\n\r\n{text}".encode())
    return connection


def waiting(served: Served, pool: str) -> list[dict[str, Any]]:
    return list(served.http.get(f"/v1/pools/{pool}").json()["queue"])


def job(served: Served, pool: str, job_id: str) -> dict[str, Any]:
    return dict(served.http.get(f"/v1/pools/{pool}/jobs/{job_id}").json())


def see(true: Any, what: str) -> Any:
    return asyncio.run(until(true, what, 30))


def test_callers_that_hung_up_get_no_slot(served: Served, pool: str) -> None:
    holders = [served.acquire(pool, job_id=fresh()).json() for _ in range(3)]
    calls = [ask(served, pool, whole=n % 2 == 0, wait_seconds=60) for n in range(6)]
    see(lambda: len(waiting(served, pool)) == 6, "all six wait")
    gone = [one["job_id"] for one in waiting(served, pool)]
    for call in calls:
        call.close()
    see(lambda: not waiting(served, pool), "their places are gone")
    ends = [job(served, pool, job_id) for job_id in gone]
    assert {(one["status"], one["ended_by"], one["end_reason"]) for one in ends} == {("cancelled", "caller", "caller_gone")}
    for holder in holders:
        served.act(holder, "release", outcome="completed")
    assert [served.acquire(pool, job_id=fresh()).json()["status"] for _ in range(3)] == ["running"] * 3


def test_a_named_job_whose_caller_hung_up_keeps_its_place(served: Served, pool: str) -> None:
    holders = [served.acquire(pool, job_id=fresh()).json() for _ in range(3)]
    named, unnamed = ask(served, pool, job_id=fresh(), wait_seconds=60), ask(served, pool, wait_seconds=60)
    see(lambda: len(waiting(served, pool)) == 2, "both wait")
    named.close()
    unnamed.close()
    see(lambda: len(waiting(served, pool)) == 1, "the unnamed job has ended")
    served.act(holders[0], "release", outcome="completed")
    see(lambda: served.http.get(f"/v1/pools/{pool}").json()["granted"] == 1, "the named job has its turn")


def test_no_slot_is_kept_for_a_caller_whose_server_was_killed(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_LIMIT="1", GATE_QUEUE_SECONDS="3600") as server:
        holder = server.acquire(job_id=fresh()).json()
        call = ask(server, "default", wait_seconds=60)
        see(lambda: waiting(server, "default"), "it waits")
        server.kill()
        call.close()
        server.start()
        see(lambda: waiting(server, "default")[0]["reason"] == "absent", "no server shows its caller")
        server.act(holder, "release", outcome="completed")
        assert server.acquire(job_id=fresh()).json()["status"] == "running"
