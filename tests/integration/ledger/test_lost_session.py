"""Postgres ends a session, or is gone. A call that had not begun takes a new session; another is refused, and so is nothing after it.

Nothing of it is in the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger import Database, Ledger, ledger
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import engines, job_rows
from gate.ledger.sql.statements import say
from gate.model.errors import StoreDown
from tests.conftest import OpenHouse
from tests.support.script_lane import settings_of
from tests.support.servers import Books
from tests.support.wait import until

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


def _end_all(url: str) -> None:
    """End every session of this database but our own, as a restart, a failover or a pooler does."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    others = "datname = current_database() and pid <> pg_backend_pid()"
    with engine.begin() as own:
        own.exec_driver_sql(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {others}").all()


async def test_a_session_that_ended_between_two_batches_fails_no_write(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    first = await database.write("default", "a", _pid)
    _end(database, first)
    assert await database.write("default", "a", _pid) != first
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_session_that_the_idle_timeout_ended_fails_no_write(database: Database) -> None:
    def expires(batch: UnitOfWork) -> int:
        batch.connection.exec_driver_sql("set idle_session_timeout = 1")
        return _pid(batch)

    first = await database.write("default", "a", expires)
    of_first = sa.text("select count(*) from pg_stat_activity where pid = :pid")

    async def has_ended() -> bool:
        return not await database.read(lambda connection: connection.execute(of_first, {"pid": first}).scalar())

    await until(has_ended, "Postgres has ended the session")
    assert await database.write("default", "a", _pid) != first


async def test_every_call_after_all_sessions_ended_is_answered(open_house: OpenHouse) -> None:
    async with open_house(limit=12) as house:
        running = await house.acquire()
        _end_all(house.sql_url)
        assert (await house.release(running)).status == "completed"
        _end_all(house.sql_url)
        jobs = await asyncio.gather(*(house.acquire() for _ in range(12)))
        assert [job.status for job in jobs] == ["running"] * 12
        _end_all(house.sql_url)
        pages = await asyncio.gather(*(house.gate.services.ledger.entries() for _ in range(12)))
        assert len(pages) == 12


async def test_a_change_whose_session_ends_under_it_is_not_taken_to_a_new_session_unseen(database: Database) -> None:
    """The first attempt and the one alone: no third, which would be of a batch that had begun."""
    runs = []

    def dies(batch: UnitOfWork) -> None:
        runs.append(_pid(batch))
        _end(database, runs[-1])

    with pytest.raises(StoreDown):
        await database.write("default", "a", dies)
    assert len(runs) == 2


async def test_a_server_that_became_read_only_is_left_for_the_one_that_answers_now(database: Database) -> None:
    """A standby after a failover: its session lives on, and the address leads elsewhere by now."""

    def as_a_standby(batch: UnitOfWork) -> int:
        batch.connection.exec_driver_sql("set default_transaction_read_only = on")
        return _pid(batch)

    first = await database.write("default", "a", as_a_standby)
    assert await database.write("default", "a", _pid) != first


async def test_a_statement_that_finds_its_server_read_only_leaves_it(database: Database) -> None:
    """It is the first that writes, within a transaction that has begun."""

    def as_a_standby(batch: UnitOfWork) -> int:
        batch.connection.exec_driver_sql("set default_transaction_read_only = on")
        return _pid(batch)

    def changes(batch: UnitOfWork) -> int:
        batch.connection.execute(sa.text("update gate.pools set paused = paused"))
        return _pid(batch)

    first = await database.write("", "", as_a_standby)
    assert await database.write("", "", changes) != first


async def test_a_database_that_became_read_only_is_known_by_a_write_of_gates_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PROVEN_S", 0)

    def read_only(switch: str) -> None:
        engine = sa.create_engine(sa.make_url(database.url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
        with engine.begin() as own:
            own.exec_driver_sql("set transaction read write")
            own.exec_driver_sql(f'alter database "{engine.url.database}" set default_transaction_read_only = {switch}')
        _end_all(database.url)

    written = Ledger(database)
    await written.prove()
    read_only("on")
    with pytest.raises(StoreDown) as told:
        await written.prove()
    assert told.value.refuses and not written.reached()
    read_only("off")
    await written.prove()
    assert written.reached()


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
    look = job_rows.LOOK.ask

    def slowly(*asked: Any) -> Any:
        time.sleep(0.3)
        return look(*asked)

    monkeypatch.setattr(job_rows.LOOK, "ask", slowly)
    with Books(database.url).held("default"), pytest.raises(StoreDown) as told:
        await database.write("default", "a", _pid)
    assert told.value.held == "pool"
