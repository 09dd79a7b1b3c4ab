"""The short way and the long one say the same: a request that comes whole takes the first, one that comes in pieces the second."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("short"), GATE_LIMIT="50", GATE_ACCESS_LOG="1") as made:
        yield made


def asked(served: Served, path: str, body: Any, whole: bool, *headers: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers but the date and whether the connection goes on, and body."""
    where = urlsplit(served.url)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "\r\n".join(
        [
            f"POST {path} HTTP/1.1",
            f"Host: {where.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(text)}",
            *headers,
        ]
    )
    with socket.create_connection((where.hostname, where.port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if whole:
            connection.sendall(f"{head}\r\n\r\n".encode() + text)
        else:
            connection.sendall(f"{head}\r\nExpect: 100-continue\r\n\r\n".encode())
            if connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100":  # else it is refused, whatever would come
                assert connection.recv(100).endswith(b"\r\n\r\n"), "the route is reading"
                connection.sendall(text)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        found = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in ("date", "connection")}
        return answer.status, found, json.loads(answer.read())


def test_both_ways_answer_alike(served: Served) -> None:
    job = fresh()
    jobs = f"/v1/pools/default/jobs/{job}"
    lease = {"lease_id": served.acquire(job_id=job, user="ana", credits=5, payload={"a": [1]}).json()["lease"]["lease_id"]}
    for path, body in (
        ("/v1/pools/default/acquire", {"job_id": job, "user": "ana", "credits": 5}),
        (f"{jobs}/claim", lease),
        (f"{jobs}/renew", lease | {"lease_seconds": 1}),
        (f"{jobs}/renew", {"lease_id": "of another"}),
        (f"{jobs}/release", lease | {"outcome": "failed", "error": "no GPU", "output": {"x": 1.5}}),
        (f"{jobs}/release", lease | {"outcome": "completed"}),
        ("/v1/pools/default/acquire", {"job_id": job}),
        ("/v1/pools/default/jobs/nobody/release", lease | {"outcome": "failed"}),
        ("/v1/pools/nowhere/acquire", {}),
        ("/v1/pools/default/acquire", {"credits": 5}),
        ("/v1/pools/default/acquire", {"usr": "ana"}),
        ("/v1/pools/default/acquire", {"started_by": "gate", "tool": "upscaler_jobs"}),
        ("/v1/pools/default/acquire", b'{"user": "a", "user": "b"}'),
        ("/v1/pools/default/acquire", b"{"),
        ("/v1/pools/default/acquire", b'"' + b"x" * 300_000 + b'"'),
        ("/v1/pools/default/acquire?usr=ana", {}),
    ):
        short, long = (asked(served, path, body, whole) for whole in (True, False))
        assert short == long, path
    assert short[0] == 422


def test_a_key_is_wanted_on_either(served: Served) -> None:
    for whole in (True, False):
        status, _, problem = asked(served, "/v1/pools/default/acquire", {}, whole, "X-Forwarded-For: 1.2.3.4")
        assert (status, problem["code"]) == (401, "unauthorized")


def test_either_is_in_the_access_log(served: Served) -> None:
    paths = [f"/v1/pools/default/jobs/{fresh()}/claim" for _ in range(2)]
    for path, whole in zip(paths, (True, False), strict=True):
        assert asked(served, path, {"lease_id": "x"}, whole)[0] == 404

    def logged() -> list[int]:
        lines = [json.loads(line) for line in (served.folder / "errors.log").read_text().splitlines() if "/claim" in line]
        return [line["status"] for line in lines if line["path"] in paths]

    asyncio.run(until(lambda: logged() == [404, 404], "both are written: a line may come after its answer"))
