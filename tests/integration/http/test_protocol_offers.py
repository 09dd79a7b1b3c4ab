"""A request that offers to go on in another protocol is answered as if it had offered nothing, and its body stays its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gate_process import Served
from tests.support.names import fresh

H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
WEBSOCKET = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def connection(served: Served) -> Iterator[socket.socket]:
    assert served.http.put("/v1/pools/offers", json={"limit": 100}).is_success
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as made:
        yield made


def acquire(job_id: str, offer: bytes = b"", **more: Any) -> bytes:
    body = json.dumps({"job_id": job_id, "user": "ana"} | more).encode()
    return head(offer, b"content-length: %d\r\n" % len(body)) + body


def head(*lines: bytes) -> bytes:
    first = b"POST /v1/pools/offers/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return first + b"".join(lines) + b"\r\n"


def answers(connection: socket.socket, count: int) -> list[tuple[int, Any]]:
    """Status and body of so many, and that nothing comes after them."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    said, found = b"".join(iter(lambda: connection.recv(65536), b"")), []
    while said:
        top, _, rest = said.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in top.split(b"\r\n") if line.startswith(b"content-length"))
        found.append((int(top[9:12]), json.loads(rest[:length])))
        said = rest[length:]
    assert found.pop() == (200, {"status": "alive"}) and len(found) == count, found
    return found


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, b"connection: upgrade\r\nupgrade: TLS/1.0, h2c\r\n"])
def test_a_request_that_offers_another_protocol_is_a_request(connection: socket.socket, offer: bytes) -> None:
    job_id = fresh("offers")
    connection.sendall(acquire(job_id, offer))
    ((status, job),) = answers(connection, 1)
    assert status in (200, 202) and (job["job_id"], job["user"]) == (job_id, "ana")


def test_the_body_behind_an_offer_is_never_the_next_request(connection: socket.socket) -> None:
    """However it comes: byte by byte, in chunks, with others before and behind it."""
    one, two, three, four = (fresh("offers") for _ in range(4))
    for byte in acquire(one, H2C):
        connection.sendall(bytes([byte]))
    body = b'{"job_id": "%b", "user": "GET /healthz HTTP/1.1"}' % two.encode()
    chunked = head(H2C, b"transfer-encoding: chunked\r\n") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    connection.sendall(acquire(three) + chunked + acquire(four, H2C) + b"GET /readyz HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n")
    found = answers(connection, 5)
    assert [job.get("job_id") for _, job in found] == [one, three, two, four, None] and found[-1][0] == 200
    assert found[2][1]["user"] == "GET /healthz HTTP/1.1"


def test_the_body_behind_an_offer_is_none_of_its_head(connection: socket.socket) -> None:
    """A head may have 64 KiB; a body that comes with its second half may be longer."""
    job_id = fresh("offers")
    whole = acquire(job_id, H2C, payload={"text": "x" * 16_000}, x="y" * 100_000)
    connection.sendall(whole[:60])
    connection.sendall(whole[60:])
    ((status, refused),) = answers(connection, 1)
    assert (status, [one["field"] for one in refused["errors"]]) == (422, ["x"])


def test_a_body_that_is_too_large_is_so_behind_an_offer_too(connection: socket.socket) -> None:
    connection.sendall(acquire("large", H2C, x="y" * 300_000))
    assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_connect_is_had_nowhere(connection: socket.socket) -> None:
    connection.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 4")
