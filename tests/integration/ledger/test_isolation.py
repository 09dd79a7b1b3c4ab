"""`serializable` is the default of the database. gate's own transactions are not, and no call is refused for it."""

from __future__ import annotations

import asyncio
import os

import pytest
import sqlalchemy as sa

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import engines
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House
from tests.support.names import fresh

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="SQLite has one isolation"),
]
SHOW = "show transaction_isolation"


@pytest.fixture
def serializable(sql_url: str) -> str:
    engine = engines.postgres(sql_url, {}, isolation="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'alter database "{engine.url.database}" set default_transaction_isolation = serializable')
        named = "datname = current_database() and pid <> pg_backend_pid()"
        connection.exec_driver_sql(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {named}")
    engine.dispose()
    return sql_url


async def test_transactions_that_write_do_not_take_the_default_of_the_database(
    serializable: str, open_house: OpenHouse
) -> None:
    async with open_house(limit=2) as house:
        database = house.gate.services.ledger._database

        def isolation(batch: UnitOfWork) -> str:
            return str(batch.connection.execute(sa.text(SHOW)).scalar_one())

        assert await database.write(house.pool, "", isolation) == "read committed"
    for made in (engines.engine(serializable, writes=True), engines.postgres(serializable, {})):
        with made.begin() as connection:
            assert connection.execute(sa.text(SHOW)).scalar_one() == "read committed"
        made.dispose()
    made = engines.postgres(serializable, {}, isolation=None)
    with made.begin() as connection:
        assert connection.execute(sa.text(SHOW)).scalar_one() == "serializable", (
            "the owner's functions have what they count on"
        )
    made.dispose()


async def _pairs(house: House) -> None:
    for _ in range(15):
        await house.release(await house.acquire(fresh()))


async def test_two_servers_are_not_refused_for_each_others_commits(serializable: str, open_house: OpenHouse) -> None:
    async with open_house(limit=10) as one, open_house(limit=10) as other:
        await asyncio.gather(*(_pairs(house) for house in (one, other) * 3))
