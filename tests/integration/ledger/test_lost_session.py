"""Postgres ends a session, or is gone: the writer gets an error, the next one a new session, and the log stays quiet."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger import Database, Ledger
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import engines, job_rows
from gate.ledger.sql.statements import say
from gate.model.errors import StoreDown
from tests.support.script_lane import settings_of
from tests.support.servers import Books

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="SQLite has no sessions"),
]


@pytest.fixture
async def database(sql_url: str) -> Iterator[Database]:
    opened = Database(sql_url)
    await Ledger(opened).configure({"default": settings_of()})
    yield opened
    opened.close()


def _pid(batch: UnitOfWork) -> int:
    return batch.connection.exec_driver_sql("select pg_backend_pid()").scalar_one()


def _end(database: Database, pid: int) -> None:
    with sa.create_engine(sa.make_url(database.url).set(drivername="postgresql+psycopg")).begin() as other:
        other.exec_driver_sql("select pg_terminate_backend(%s, 5000)", (pid,))


async def test_between_two_batches(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    first = await database.write("default", "a", _pid)
    _end(database, first)
    with pytest.raises(StoreDown):
        await database.write("default", "a", _pid)
    assert await database.write("default", "a", _pid) != first
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_within_one(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def dies(batch: UnitOfWork) -> None:
        _end(database, _pid(batch))

    with pytest.raises(StoreDown):
        await database.write("default", "a", dies)
    assert await database.write("default", "a", _pid)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_nothing_more_is_asked_of_a_session_that_is_about_to_end(database: Database) -> None:
    """The driver would find out at the next question, and SQLAlchemy log a fault of ours."""

    def bye(batch: UnitOfWork) -> None:
        say(batch.connection, "do $$ begin raise exception 'bye' using errcode = '57P01'; end $$")

    first = await database.write("default", "a", _pid)
    with pytest.raises(StoreDown):
        await database.write("default", "a", bye)
    assert await database.write("default", "a", _pid) != first


async def test_a_session_that_stands_still_between_two_journeys_is_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: else it would hold the pool's row from the other servers for as long as it stands."""
    monkeypatch.setattr(engines, "IDLE_TIMEOUT_MS", 200)
    with pytest.raises(StoreDown):
        await database.write("default", "a", lambda batch: time.sleep(1))


async def test_a_row_that_is_held_is_told_as_what_it_is_however_slowly_the_rest_is_asked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres says no at once, and the driver hears it at whatever is asked next."""
    looking = job_rows.looking

    def slowly(*asked: Any) -> Any:
        time.sleep(0.3)
        return looking(*asked)

    monkeypatch.setattr(job_rows, "looking", slowly)
    with Books(database.url).held("default"), pytest.raises(StoreDown) as told:
        await database.write("default", "a", _pid)
    assert told.value.held == "pool"
