"""The servers that tests share, and the checks that every test with a gate ends with."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from gate.diagnostics.verify import verify
from gate.ledger.commit import inline_commit
from gate.runtime.embedded_redis import EmbeddedRedis
from gate.runtime.wiring import open_gate
from tests.support.clock import Clock
from tests.support.gate_in_process import House
from tests.support.gate_process import Served
from tests.support.script_lane import SETTINGS, Fake, LineOfPool, settings_of
from tests.support.stores import fresh_database, migrated_database, other_redis

LONG = (
    "test_a_start_slower_than_its_answer",
    "test_everything_moves",
    "test_the_guide_can_be_played",
    "test_no_job_is_lost_and_the_limit_holds",
    "test_nothing_serious_is_found",
    "test_pairs_of_all_who_need",
    "test_its_commands_can_be_played",
    "test_each_is_answered_at_the_terminal_and_in_the_panel",
    "test_plots_are_written",
    "test_with_a_server_and_without",
    "test_half_a_request_behind_another",
    "test_seven_workers_on_three_slots",
    "test_who_says_nothing_is_cut",
    "test_who_sends_ahead_is_not_cut",
    "test_each_refusal_is_named",
    "test_a_rolling_restart_fails_no_call",
)
"""Tests of half a minute and more. They begin first: one that begins last keeps a whole run waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first, in equal shares: each worker begins with an equal part of the list."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.name.startswith(LONG)]
    others = [item for item in items if not item.name.startswith(LONG)]
    items[:] = [item for n in range(workers) for item in (*long[n::workers], *others[n::workers])]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Valkey, one for the whole run; every test has a pool of its own on it. GATE_TEST_REDIS_SERVER names
    the program of another server.
    """
    server = EmbeddedRedis(tmp_path_factory.mktemp("valkey"), other_redis())
    server.wait()
    yield server.url
    server.stop()


@pytest.fixture
def pool() -> str:
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def people(valkey: str) -> Iterator[redis.Redis]:
    """What an operator has at the terminal: redis-cli, as a client."""
    with redis.Redis.from_url(valkey, decode_responses=True) as client:
        yield client


@pytest.fixture(params=[pytest.param("valkey", marks=pytest.mark.server), "fakeredis"])
async def line(request: pytest.FixtureRequest, pool: str) -> AsyncIterator[LineOfPool]:
    """One pool's scripts under a clock that the test turns: on real Valkey, and on the fast lane beside it."""
    fake = request.param == "fakeredis"
    client = Fake() if fake else redis.asyncio.Redis.from_url(request.getfixturevalue("valkey"))
    made = LineOfPool(client, pool, Clock(), fake)
    await made.load(**SETTINGS)
    yield made
    await made.sweep_up()
    await client.aclose()


OpenHouse = Callable[..., contextlib.AbstractAsyncContextManager[House]]


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of who commits to SQLite, or of how: a disk that is slow today makes it the thread."""
    monkeypatch.setattr(inline_commit, "SLOW_S", math.inf)


@pytest.fixture
def sql_url(tmp_path: Path) -> Iterator[str]:
    """A database of the test's own: a SQLite file, or one on the Postgres that GATE_TEST_POSTGRES_URL names."""
    with fresh_database(tmp_path, like=migrated_database()) as url:
        yield url


@pytest.fixture
def open_house(valkey: str, pool: str, sql_url: str, people: redis.Redis) -> Iterator[OpenHouse]:
    """Opens a gate (a server's inside, without HTTP) on real stores, as often as a test wants: `open_house(limit=1)`."""

    @contextlib.asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[House]:
        async with open_gate(valkey, sql_url, {pool: settings_of(**settings)}) as gate:
            yield House(gate, pool, valkey, sql_url, people)

    yield opened
    keys = set(people.scan_iter(f"gate:{{{pool}}}:*"))
    allowed = {f"gate:{{{pool}}}:{role}" for role in ("slots", "queue", "jobs", "outbox", "meta", "users")}
    assert keys <= allowed, f"keys that the protocol does not know: {keys - allowed}"
    assert all(people.ttl(key) == -1 for key in keys), "no key ever carries EXPIRE"
    people.delete(*allowed)


@pytest.fixture
async def house(open_house: OpenHouse) -> AsyncIterator[House]:
    """A gate with three slots. Whatever the test did, the two stores agree afterwards."""
    async with open_house() as opened:
        yield opened
        await opened.settled()
        report = verify(opened.sql_url, opened.redis_url)
        assert not report.breaches, report.breaches


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real `gate serve`, started as people start it, with pools for tests to use up."""
    config = "[pools.capped]\nmax_active_per_user = 1\n[pools.small]\nlimit = 1\nqueue_max = 1\n"
    config += "[pools.shared]\nlimit = 1\nqueue_max_per_user = 1\n"
    with Served(tmp_path_factory.mktemp("served"), config=config) as running:
        yield running
        assert not verify(running.sql_url, running.redis_url).breaches
