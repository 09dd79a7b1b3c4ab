"""Hostile input: a 4xx that names the field, no change in either store, and no delay for other callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from gate.http.middleware.body_limit import max_bytes
from gate.model.limits import END_BODY_MAX_BYTES
from tests.support.gate_process import Served
from tests.support.names import fresh

WORDS = ("x\x00y", "a\nb", "{}", "{x}", "x" * 5000, "'; drop table jobs; --", "\u202e", "../..", "%00", "")
NUMBERS = (float("nan"), 1e309, -1, 2**63, 2**64, 10**400, -0.5, 1e18)
OTHERS = (True, False, None, [], {}, [[]], {"a": 1})
DEEP = "[" * 20_000 + "]" * 20_000
TEXT_FIELDS = {"job_id", "user", "tool", "session", "provider", "task_id", "lease_id", "reason", "error", "outcome"}
CALLS = (b"seen_at", b"recorded")
"""Fields of `meta` that a tick writes, whatever comes over HTTP."""
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/pools/default/acquire": ("POST", {
        "job_id": "j", "user": "u", "tool": "t", "session": "s", "credits": 1, "payload": {}, "lease_seconds": 9,
        "wait_seconds": 0,
    }),
    "/v1/pools/default/jobs/held/claim": ("POST", {"lease_id": "l"}),
    "/v1/pools/default/jobs/held/renew": ("POST", {"lease_id": "l", "lease_seconds": 9}),
    "/v1/pools/default/jobs/held/release": ("POST", {"lease_id": "l", "outcome": "failed", "error": "e", "output": 1}),
    "/v1/pools/default/jobs/held/cancel": ("POST", {"reason": "r"}),
    "/v1/pools/default/jobs/held/task": ("PUT", {"provider": "p", "task_id": "t", "lease_id": "l"}),
    "/v1/pools/default/cancel": ("POST", {"session": "s"}),
    "/v1/pools/default": ("PUT", {
        "limit": 3, "lease_seconds": 9, "max_hold_seconds": 99, "claim_seconds": 9, "queue_seconds": 9, "queue_max": 9,
        "cooldown_seconds": 9, "max_active_per_user": 9, "queue_max_per_user": 9, "refusals_before_passing": 9,
        "cancel_refunds": "always",
    }),
    "/v1/pools/default/pause": ("POST", {"reason": "r"}),
}  # fmt: skip
FIELDS = [(path, field) for path, (_, body) in ROUTES.items() for field in body if field not in ("error", "output")]
"""Those that may be wrong: an end is not refused for its text."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of these tests' own, with a job that holds a slot and one that waits."""
    with Served(tmp_path_factory.mktemp("hostile"), GATE_LIMIT="1") as served:
        for job_id in ("held", "waits"):
            served.acquire(job_id=job_id, user="u", session="other")
        yield served


def stores(served: Served) -> tuple[Any, ...]:
    """Both, to the byte; but for what the passing of time changes."""
    with redis.Redis.from_url(served.redis_url) as client:
        keys = sorted(client.scan_iter("gate:*"))
        meta = {name: value for name, value in client.hgetall("gate:{default}:meta").items() if name not in CALLS}
        dumped = [(key, client.dump(key)) for key in keys if not key.endswith(b":meta")]
    url = sa.make_url(served.sql_url)
    engine = sa.create_engine(url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg"))
    at = "" if engine.dialect.name == "sqlite" else "gate."
    with engine.connect() as connection:
        rows = [
            connection.exec_driver_sql(f"select * from {at}{table} order by 1, 2").fetchall()
            for table in ("pools", "jobs", "ledger", "events", "tasks", "keys")
        ]
    engine.dispose()
    return dumped, meta, rows


def bad_for(field: str, fine: Any) -> list[Any]:
    bad: list[Any] = [value for value in OTHERS if type(value) is not type(fine) and value is not None]
    if isinstance(fine, str):
        bad += [*NUMBERS, *(word for word in WORDS if field not in ("reason", "error") or "\x00" in word or len(word) > 4000)]
        if field in ("user", "tool", "session", "lease_id", "task_id"):
            bad = [one for one in bad if one not in ("{}", "{x}", "'; drop table jobs; --", "../..", "%00")]
    elif isinstance(fine, (int, float)) and field != "output":
        bad += [*WORDS, *(n for n in NUMBERS if not _fits(field, n)), "1"]
    elif field == "payload":
        bad += [*WORDS, *NUMBERS, {"x": "y" * 20_000}, json.loads('{"a":' * 40 + "1" + "}" * 40)]
    else:
        bad = [float("nan"), 1e309, "x" * 70_000, json.loads("[" * 40 + "]" * 40)]
    return bad


def _fits(field: str, number: float) -> bool:
    return field in ("credits", "limit", "queue_max", "max_active_per_user", "queue_max_per_user") and number == 0


def text_of(body: dict[str, Any]) -> str:
    return json.dumps(body)  # NaN and Infinity go as Python says them: no JSON, and refused


@pytest.mark.parametrize("path, field", FIELDS, ids=[f"{path.rsplit('/', 1)[-1]}-{field}" for path, field in FIELDS])
def test_each_field_of_each_route(own: Served, path: str, field: str) -> None:
    method, body = ROUTES[path]
    before = stores(own)
    for value in bad_for(field, body[field]):
        answer = send(own, method, path, text_of(body | {field: value}))
        assert answer.status_code == 422, (value, answer.text[:300])
        named = {error["field"].split(".")[0] for error in answer.json()["errors"]}
        assert named <= {field, "body"} and named, (value, answer.text[:300])
    assert stores(own) == before


@pytest.mark.parametrize("error", ["x" * 5000, "\x00", "\ud83d", 17, {"a": 1}, ["\x00"]], ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("output", [float("nan"), 1e309, "x" * 70_000, json.loads("[" * 40 + "]" * 40), {"a": "\ud83d\x00"}],
                         ids=lambda value: repr(value)[:20])  # fmt: skip
def test_a_release_is_never_refused_for_its_text(own: Served, error: Any, output: Any) -> None:
    own.http.put("/v1/pools/ends", json={"limit": 100})
    job = own.acquire("ends", job_id=fresh()).json()
    at = f"/v1/pools/ends/jobs/{job['job_id']}"
    body = {"lease_id": job["lease"]["lease_id"], "outcome": "failed", "error": error, "output": output}
    answer = send(own, "POST", f"{at}/release", json.dumps(body))
    assert answer.status_code == 200 and answer.json()["status"] == "failed", answer.text
    assert len(json.dumps(answer.json()["output"])) <= 70_000 and "\x00" not in str(own.http.get(at).json())


def test_an_end_of_several_megabytes_ends_its_job(own: Served) -> None:
    assert own.http.put("/v1/pools/large", json={"limit": 1}).is_success
    job = own.acquire("large").json()
    answer = own.act(job, "release", outcome="completed", output="x" * (END_BODY_MAX_BYTES - 1000))
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def send(served: Served, method: str, path: str, text: str | bytes) -> Any:
    return served.http.request(method, path, content=text, headers={"content-type": "application/json"})


@pytest.mark.parametrize("path", ROUTES)
def test_each_route_against_what_is_no_body_of_its(own: Served, path: str) -> None:
    method, body = ROUTES[path]
    fine = json.dumps(body)
    before = stores(own)
    wrong = {
        "unknown field": fine[:-1] + ', "surprise": 1}',
        "duplicate field": fine[:-1] + f", {fine[1:]}",
        "lone surrogate": '{"user": "\\ud800", "reason": "\\ud800", "lease_id": "\\ud800", "session": "\\ud800", "limit": "\\ud800"}',
        "no JSON": "{",
        "an array": "[]",
        "a string": '"x"',
        "a number": "17",
        "deep": DEEP,
        "deep inside": '{"payload": ' + DEEP + "}",
        "no UTF-8": b'{"user": "\xff"}',
        "NaN": "NaN",
    }
    for name, text in wrong.items():
        answer = send(own, method, path, text)
        assert answer.status_code == 422 and answer.json()["errors"], (name, answer.text[:300])
    answer = send(own, method, path, json.dumps(body | {"surprise": "x" * (max_bytes(path) + 1)}))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert stores(own) == before


@pytest.mark.parametrize("word", ["x\x00y", "a\nb", "x" * 5000, "\ud7ff", "%", "nobody"])
def test_each_name_in_a_path(own: Served, word: str) -> None:
    from urllib.parse import quote

    before = stores(own)
    name = quote(word, safe="")
    for path in (
        f"/v1/pools/{name}", f"/v1/pools/default/jobs/{name}", f"/v1/pools/{name}/jobs/held",
        f"/v1/pools/default/jobs/{name}/history", f"/v1/pools/default/jobs/{name}/events",
    ):  # fmt: skip
        assert 400 <= own.http.get(path).status_code < 500, path
    for query in ({"user": word}, {"job_id": word}, {"kind": word}, {"after": word}, {"surprise": word}):
        assert own.http.get("/v1/ledger", params=query).status_code in (200, 422), query
    assert own.http.get(f"/v1/users/{name}/active").status_code in (200, 404, 422)
    assert stores(own) == before


# ---- below HTTP


def raw(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15)


def answer_to(served: Served, *parts: bytes) -> bytes:
    with raw(served) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(65536).split(b"\r\n")[0]


def test_a_smuggled_request_is_refused(own: Served) -> None:
    head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for both in (
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"content-length: +2\r\n\r\n{}",
        b"content-length : 2\r\n\r\n{}",
    ):
        assert b" 400 " in answer_to(own, head + both), both


def test_a_head_without_end_is_cut(own: Served) -> None:
    with raw(own) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(2000):
            connection.sendall(b"x-%d: " % number + b"y" * 500 + b"\r\n")
        assert b" 431 " in connection.recv(65536)


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/pools", "/v1/pools/", "/v1/pools/default", "/v1/pools/default/jobs", "/v1/pools/default/jobs/j"]
)
def test_a_post_where_none_is_had(own: Served, path: str) -> None:
    """The short way looks at the parts of a path that has fewer."""
    assert own.http.post(path, json={}).status_code in (404, 405)


@pytest.mark.parametrize("address", ["http://[", "http://]", "http://[::1", "null", ""])
def test_an_origin_that_is_no_address_is_a_foreign_one(own: Served, address: str) -> None:
    for path in ("/v1/pools/default/pause", "/session", "/session/end", "/pools/default/do/pause"):
        refused = own.http.post(
            path, headers={"origin": address}, **({"json": {}} if "v1" in path else {"data": {"csrf": "x"}})
        )
        assert refused.status_code == 403, (path, refused.text)
    for path in ("/v1/pools", "/docs", "/", "/session"):
        host = address.removeprefix("http://") or "a.b"
        assert own.http.get(path, headers={"host": host}).status_code < 500, path
    assert not own.http.get("/v1/pools/default").json()["paused"]


def test_paths_of_the_panel_with_what_no_store_can_hold(own: Served) -> None:
    for path in ("/users/%00", "/users/a%00b", "/pools/default/jobs/%00", "/pools/default/jobs/%00/live", "/pools/default/jobs/%00/do/cancel",
                 "/pools/%00", "/find?q=%00"):  # fmt: skip
        assert 400 <= own.http.get(path).status_code < 500, path


def test_very_many_faults_are_not_all_told(own: Served) -> None:
    told = own.http.post("/v1/pools/default/acquire", json={f"x{number}": 1 for number in range(9_000)})
    assert told.status_code == 422 and told.json()["detail"].endswith("; and 8995 more") and len(told.content) < 20_000


def test_a_body_that_is_announced_too_large_is_not_asked_for(own: Served) -> None:
    head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
    with raw(own) as connection:
        connection.sendall(head + b"content-length: 999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("how", ["announced", "in chunks"])
def test_a_client_that_sends_a_body_too_large_to_its_end_reads_the_refusal(own: Served, how: str) -> None:
    head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    part, count = b"x" * 65_536, 10
    length = b"content-length: %d" % (len(part) * count) if how == "announced" else b"transfer-encoding: chunked"
    with raw(own) as connection:
        connection.sendall(head + length + b"\r\n\r\n")
        for _ in range(count):
            connection.sendall(part if how == "announced" else b"%x\r\n%b\r\n" % (len(part), part))
            assert own.http.get("/healthz").status_code == 200  # meanwhile a server that refuses at once has closed
        connection.sendall(b"" if how == "announced" else b"0\r\n\r\n")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(65536), b""))
        assert told.startswith(b"HTTP/1.1 413 ")
        assert b"HTTP/1.1 200 " in told, "the connection can be used again"


def test_a_body_without_end_is_cut(own: Served) -> None:
    head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with raw(own) as connection, pytest.raises(ConnectionError):
        connection.sendall(head)
        for _ in range(1000):
            connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")


def test_trailers_without_end_are_cut(own: Served) -> None:
    before = memory(own)
    with raw(own) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        for _ in range(20_000):
            connection.sendall(b"a: b\r\n" * 1000)
    assert memory(own) - before < 50 * 2**20


def test_a_silent_connection_is_closed_and_a_served_one_is_not(own: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with raw(own) as silent, raw(own) as slow:
        slow.sendall(b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n")
        slow.sendall(b"content-type: application/json\r\n\r\n{")
        waits = own.http.get("/v1/pools/default/jobs/waits", params={"wait_seconds": 12})
        assert waits.status_code == 200 and time.monotonic() - began > 11.5, "a long poll is no slow request"
        assert b" 408 " in silent.recv(1000)
        assert b" 408 " in slow.recv(65536)


def test_a_pipelined_request_is_not_cut_while_an_earlier_one_waits(own: Served) -> None:
    began = time.monotonic()
    with raw(own) as ahead:
        ahead.settimeout(30)
        ahead.sendall(b"GET /v1/pools/default/jobs/waits?wait_seconds=12 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert own.http.get("/healthz").status_code == 200  # what was sent is read by now
        ahead.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /hea")
        assert own.http.get("/healthz").status_code == 200  # what was sent is read by now
        ahead.sendall(b"lthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        said = b"".join(iter(lambda: ahead.recv(65536), b""))
    assert time.monotonic() - began > 11.5
    assert said.count(b"HTTP/1.1 200 OK") == 3 and b" 408 " not in said


def test_half_a_request_behind_another_is_cut_after_its_answer(own: Served) -> None:
    with raw(own) as ahead:
        ahead.settimeout(40)
        ahead.sendall(b"GET /v1/pools/default/jobs/waits?wait_seconds=12 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert own.http.get("/healthz").status_code == 200  # what was sent is read by now
        ahead.sendall(b"GET /hea")
        said = b"".join(iter(lambda: ahead.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 200 OK" not in said[1:]


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x\r\n\r\n0\r\n"]
)
def test_garbage_behind_a_request_is_told_behind_its_answer(own: Served, garbage: bytes) -> None:
    with raw(own) as ahead:
        for _ in range(2):
            ahead.sendall(b"GET /v1/pools/default/jobs/waits?wait_seconds=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert own.http.get("/healthz").status_code == 200  # what was sent is read by now
        ahead.sendall(garbage)
        ahead.sendall(b"nor this\r\n\r\n")
        said = b"".join(iter(lambda: ahead.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+) ", said) == [b"200", b"200", b"400"]


def memory(served: Served) -> int:
    """Bytes that the process holds."""
    pages = Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_five_hundred_slow_bodies_and_one_without_end_hold_no_memory(own: Served) -> None:
    """Other callers do not wait meanwhile."""
    before = memory(own)

    async def slow(stop: asyncio.Event) -> None:
        host, port = own.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ncontent-length: 250000\r\n"
        writer.write(head + b"content-type: application/json\r\n\r\n" + b"[" * 60_000)
        await stop.wait()
        writer.close()

    async def endless() -> int:
        """A chunked body of a gigabyte, as far as it is taken."""
        host, port = own.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/pools/default/acquire HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        writer.write(head + b"content-type: application/json\r\n\r\n")
        chunk, sent = b"100000\r\n" + b"x" * 0x100000 + b"\r\n", 0
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                writer.write(chunk)
                await writer.drain()
                sent += 1
        return sent

    async def play() -> tuple[int, float]:
        stop = asyncio.Event()
        clients = [asyncio.create_task(slow(stop)) for _ in range(500)]
        sent = await endless()
        began = time.monotonic()
        for _ in range(20):
            answer = await asyncio.to_thread(own.http.get, "/v1/pools/default")
            assert answer.status_code == 200
        took = time.monotonic() - began
        grown = memory(own) - before
        stop.set()
        await asyncio.gather(*clients)
        assert grown < 50 * 2**20, f"{grown / 2**20:.0f} MB more"
        return sent, took

    sent, took = asyncio.run(play())
    assert sent < 1024, "it was cut"
    assert took < 20, "others are served"
