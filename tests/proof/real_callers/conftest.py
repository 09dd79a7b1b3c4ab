"""The house around gate, opened by each test as it wants it; a Postgres of the tests' own, and a database of its own for each test."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from tests.proof.real_callers.judge import judge
from tests.proof.real_callers.scene import Scene, opened
from tests.support.needs import missing
from tests.support.servers import Postgres, lacking
from tests.support.wait import until

SETTINGS = {"lease_seconds": 600, "claim_seconds": 10, "cooldown_seconds": 0.5}
OpenScene = Callable[..., contextlib.AbstractAsyncContextManager[Scene]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if "postgres" in lacking("embedded", "postgres"):
        missing("needs Postgres: the owner's functions live there")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user
        server = Postgres(Path(folder) / "postgres")
        server.start()
        yield server
        server.crash()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    url = sa.make_url(postgres.url)
    admin = sa.create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"t_{secrets.token_hex(8)}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"drop database {name} with (force)")
    admin.dispose()


@pytest.fixture
def open_scene(tmp_path: Path, postgres_url: str) -> OpenScene:
    """`open_scene({"lease_seconds": 2}, callback="lost")`: settings of gate, and what becomes of tasks. Whatever the test did, it
    all comes to rest, and every book says the same.
    """

    @contextlib.asynccontextmanager
    async def made(settings: dict[str, float] | None = None, **plan: Any) -> AsyncIterator[Scene]:
        with opened(tmp_path, SETTINGS | (settings or {}), postgres_url, **plan) as scene:
            yield scene
            await until(lambda: not scene.unsettled(), "nothing is on its way any more", 30)
            assert judge(scene) == []
            assert verify(scene.server.sql_url, scene.server.redis_url).breaches == []

    return made
