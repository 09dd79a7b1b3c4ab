"""One gate for the tests of the client, with pools for what they are about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from gate.client import AsyncGate, Gate
from gate.diagnostics.verify import verify
from tests.support.gate_process import Served

CONFIG = """
queue_seconds = 30
[pools.one]
limit = 1
cooldown_seconds = 0.5
[pools.brief]
lease_seconds = 2
[pools.impatient]
limit = 1
queue_seconds = 0.5
[pools.capped]
max_active_per_user = 1
[pools.small]
limit = 1
queue_max = 1
[pools.wide]
limit = 100
[pools.shared]
limit = 1
queue_max_per_user = 1
[pools.short]
max_hold_seconds = 1
"""


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("client"), config=CONFIG) as running:
        yield running
        assert not verify(running.sql_url, running.redis_url).breaches


@pytest.fixture
async def gate(server: Served) -> AsyncIterator[AsyncGate]:
    async with AsyncGate(server.url) as client:
        yield client


@pytest.fixture
def plain(server: Served) -> Iterator[Gate]:
    with Gate(server.url) as client:
        yield client


@pytest.fixture
def operator(server: Served) -> Iterator[redis.Redis]:
    """What an operator with redis-cli can do."""
    with redis.Redis.from_url(server.redis_url, decode_responses=True) as client:
        yield client
