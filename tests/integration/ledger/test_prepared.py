"""The writer's statements are prepared in a session that is its own, and not behind a pooler. A migration under it does not matter."""

from __future__ import annotations

import os

import pytest

from gate.ledger.commit.unit_of_work import UnitOfWork
from tests.conftest import OpenHouse

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="SQLite keeps its statements by itself"),
]


def _kept(batch: UnitOfWork) -> tuple[int, bool, str]:
    """Statements that are prepared, whether the session is the one that was opened, and a setting."""
    query = "select (select count(*) from pg_prepared_statements), pg_backend_pid(), current_setting('enable_seqscan')"
    count, pid, seqscan = batch.connection.exec_driver_sql(query).one()
    return count, pid == batch.connection.connection.dbapi_connection.info.backend_pid, seqscan


async def test_statements_are_prepared_only_where_no_pooler_stands_in_between(open_house: OpenHouse) -> None:
    async with open_house(limit=3) as house:
        for _ in range(3):
            await house.release(await house.acquire())
        count, is_own, seqscan = await house.gate.services.ledger._database.write(house.pool, "", _kept)
        if is_own:
            assert 5 < count < 100 and seqscan == "off"
        else:
            assert (count, seqscan) == (0, "on")


async def test_a_prepared_statement_outlives_a_migration(open_house: OpenHouse) -> None:
    def adds(batch: UnitOfWork) -> None:
        for table in ("jobs", "pools", "events"):
            batch.connection.exec_driver_sql(f"alter table gate.{table} add column colour text")

    async with open_house(limit=3) as house:
        running = await house.acquire()
        await house.gate.services.ledger._database.write("", "", adds)
        assert (await house.release(running)).status == "completed"
        assert (await house.acquire()).status == "running"
