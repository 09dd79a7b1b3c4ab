"""The stores of servers that share them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proof.proxies.gates import ADDRESSES
from tests.support.needs import missing
from tests.support.servers import Postgres, RedisServer, lacking


@pytest.fixture(scope="session")
def stores() -> Iterator[dict[str, str]]:
    """The addresses of a Valkey and a Postgres, as variables of gate."""
    if lacking("valkey", "postgres"):
        missing("several servers share a Postgres")
    # Not in pytest's own folder: each run that begins beside this one closes that to the user of Postgres.
    with tempfile.TemporaryDirectory(prefix="gate-shared-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        redis, sql = RedisServer("valkey", folder / "redis"), Postgres(folder / "postgres")
        try:
            redis.start()
            sql.start()
            yield dict(zip(ADDRESSES, (redis.url, sql.url), strict=True))
        finally:
            sql.crash()
            redis.kill()
