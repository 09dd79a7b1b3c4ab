"""Reports are read from a replica, and from the primary while the replica is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from gate.ledger.commit.readers import Readers, Replica
from gate.ledger.sql.engines import engine
from gate.model.errors import StoreDown
from tests.support.stores import fresh_database, migrated_database

pytestmark = pytest.mark.anyio


def _answers(connection: Connection) -> int:
    return int(connection.execute(sa.text("select 7")).scalar_one())


def _which_database(connection: Connection) -> str:
    return str(connection.engine.url.database)


@pytest.fixture
def primary(sql_url: str) -> Iterator[Readers]:
    made = Readers(engine(sql_url, writes=False))
    yield made
    made.close()


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[str]:
    with fresh_database(tmp_path / "copy", like=migrated_database()) as url:
        yield url


def _database(url: str) -> str:
    return str(sa.make_url(url).database)


async def test_a_replica_that_answers_is_asked(primary: Readers, copy: str) -> None:
    replica = Replica(engine(copy, writes=False), primary)
    try:
        assert await replica.read(_which_database) == _database(copy)
    finally:
        replica.close()


async def test_the_primary_is_asked_while_the_replica_is_away_and_the_log_says_so_once(
    primary: Readers, sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "away"
    replica = Replica(engine(f"sqlite:///{folder / 'gate.db'}", writes=False), primary)
    try:
        with capture_logs() as logs:
            assert [await replica.read(_which_database) for _ in range(3)] == [_database(sql_url)] * 3
            folder.mkdir()
            assert await replica.read(_which_database) == _database(sql_url), "it is left alone for a while"
            monkeypatch.setattr(replica, "_away_until", 0)
            assert await replica.read(_answers) == 7
        assert [one["event"] for one in logs] == ["replica.away", "replica.back"]
    finally:
        replica.close()


async def test_a_query_that_the_replica_refuses_is_run_on_the_primary(primary: Readers, tmp_path: Path) -> None:
    """It lags behind a migration."""
    replica = Replica(engine(f"sqlite:///{tmp_path / 'empty.db'}", writes=False), primary)
    at = "" if primary._engine.dialect.name == "sqlite" else "gate."
    try:
        assert await replica.read(lambda c: c.exec_driver_sql(f"select count(*) from {at}jobs").scalar()) == 0
    finally:
        replica.close()


async def test_when_both_are_away_the_caller_is_told(tmp_path: Path) -> None:
    away = [engine(f"sqlite:///{tmp_path / 'no' / name}", writes=False) for name in ("a.db", "b.db")]
    primary = Readers(away[0])
    replica = Replica(away[1], primary)
    try:
        with pytest.raises(StoreDown):
            await replica.read(_answers)
    finally:
        replica.close()
        primary.close()
