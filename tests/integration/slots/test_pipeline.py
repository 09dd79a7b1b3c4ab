"""The pipe, on a real server: order, a dead connection, a server that is silent, errors by their names, TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from gate.model.errors import StoreDown
from gate.runtime.embedded_redis import EmbeddedRedis
from gate.slots import RedisConnection, Semaphore, connection
from gate.slots.connection import answering
from gate.slots.pipeline import CommandPipeline
from tests.support.script_lane import SETTINGS
from tests.support.servers import free_port
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    made = EmbeddedRedis(tmp_path_factory.mktemp("pipe"))
    made.wait()
    yield made
    made.stop()


@pytest.fixture
def people(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
async def link(server: EmbeddedRedis) -> AsyncIterator[RedisConnection]:
    made = RedisConnection(server.url)
    yield made
    await made.aclose()


async def test_what_is_asked_in_one_turn_is_answered_in_its_order(link: RedisConnection, people: redis.Redis) -> None:
    answers = await asyncio.gather(*(link.pipe.ask("INCR", "n") for _ in range(1000)))
    assert answers == list(range(1, 1001))
    clients = [client for client in people.client_list() if client["cmd"] == "incr"]
    assert len(clients) == 1, "on one connection"


async def test_a_caller_that_disconnects_leaves_the_others_their_own_answers(link: RedisConnection) -> None:
    await link.pipe.ask("SET", "a", "of a")
    going = asyncio.ensure_future(link.pipe.ask("GET", "a"))
    staying = asyncio.ensure_future(link.pipe.ask("ECHO", "of b"))
    await asyncio.sleep(0)
    going.cancel()
    assert await staying == b"of b"


async def test_a_connection_that_died_is_replaced_and_the_question_asked_once_more(
    link: RedisConnection, people: redis.Redis
) -> None:
    await link.pipe.ask("PING")
    for client in people.client_list(_type="normal"):
        if client["cmd"] == "ping":
            people.client_kill_filter(_id=client["id"])
    assert await asyncio.gather(*(link.pipe.ask("ECHO", f"{number}") for number in range(20))) == [
        f"{number}".encode() for number in range(20)
    ]


async def test_a_closed_port_is_reported_at_once() -> None:
    link = RedisConnection(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(ConnectionError):
        await link.pipe.ask("PING")
    with pytest.raises(StoreDown), answering():
        await link.pipe.ask("PING")
    await link.aclose()


async def test_a_server_that_is_silent_lets_all_go_and_is_asked_on_a_new_connection(
    link: RedisConnection, people: redis.Redis
) -> None:
    pipe = CommandPipeline(link.client.connection_pool.make_connection, reply_timeout_s=0.3)
    await pipe.ask("PING")
    people.client_pause(600)
    answers = await asyncio.gather(pipe.ask("SET", "a", 1), pipe.ask("SET", "b", 1), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TimeoutError, TimeoutError]
    people.client_unpause()
    assert await pipe.ask("PING") == b"PONG"
    pipe.part()


async def test_callers_of_a_server_that_never_greets_are_answered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, the last would wait as often as there are askers."""
    monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
    greeted = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    link = RedisConnection(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0")
    answers = await asyncio.gather(*(link.pipe.ask("PING") for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} <= {TimeoutError, ConnectionError} and greeted <= 4
    await link.aclose()
    listener.close()


async def test_an_error_has_its_name_and_the_connection_lives_on(link: RedisConnection) -> None:
    await link.pipe.ask("SET", "text", "x")
    answers = await asyncio.gather(
        link.pipe.ask("LLEN", "text"),
        link.pipe.ask("EVALSHA", "0" * 40, 0),
        link.pipe.ask("ECHO", "fine"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [ResponseError, NoScriptError, bytes]


async def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(link: RedisConnection, people: redis.Redis) -> None:
    semaphore = Semaphore(link)
    assert (await semaphore.rebuild("default", 1, SETTINGS | {"paused": 0}, [], [])).result == "loaded"
    people.script_flush()
    replies = await asyncio.gather(*(semaphore.acquire("default", 1, f"j{number}", None, None, None) for number in range(5)))
    assert sorted(reply.result for reply in replies) == ["queued", "queued", "running", "running", "running"]


async def test_what_was_asked_before_the_pipe_parts_is_answered(link: RedisConnection) -> None:
    before = asyncio.ensure_future(link.pipe.ask("ECHO", "before"))
    await until(lambda: link.pipe._stream is not None, "it is connected")
    more = [asyncio.ensure_future(link.pipe.ask("ECHO", "more")) for _ in range(3)]
    await asyncio.sleep(0)
    link.pipe.part()
    assert [await before, *[await one for one in more]] == [b"before", b"more", b"more", b"more"]
    assert await link.pipe.ask("ECHO", "after") == b"after"


@pytest.mark.skipif(
    "GATE_TEST_EVERYTHING" not in os.environ and None in (shutil.which("openssl"), shutil.which("redis-server")),
    reason="a Redis that speaks TLS",
)
async def test_it_speaks_tls_with_a_name_and_a_password(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--tls-port", str(port), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem",
         "--tls-auth-clients", "no", "--requirepass", "secret", "--save", "", "--daemonize", "no"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        link = RedisConnection(f"rediss://:secret@localhost:{port}/3?ssl_ca_certs={tmp_path / 'cert.pem'}")

        async def answers() -> bool:
            try:
                return await link.pipe.ask("PING") == b"PONG"
            except ConnectionError:
                return False

        await until(answers, "it answers")
        assert await asyncio.gather(*(link.pipe.ask("ECHO", "x" * size) for size in (1, 100, 100_000))) == [
            b"x" * size for size in (1, 100, 100_000)
        ]
        assert b"db=3" in await link.pipe.ask("CLIENT", "INFO")
        await link.aclose()
    finally:
        process.kill()
        process.wait()


async def test_a_question_that_meets_the_end_of_its_connection_goes_out_on_the_next(link: RedisConnection) -> None:
    """It was let go in the very turn in which it opened."""
    pipe, opened = link.pipe, link.pipe._opened

    def opened_and_parted(opening: asyncio.Task[Any]) -> None:
        opened(opening)
        pipe.part()
        pipe._opened = opened

    pipe._opened = opened_and_parted
    assert await asyncio.wait_for(pipe.ask("PING"), 2) == b"PONG"
