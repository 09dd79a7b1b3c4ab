"""Two servers that start at once add the row of the same account, by a look for its questions and by their configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger import Database, Ledger, Questions
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import tables
from gate.ledger.transitions import configuration, questions
from gate.model.account import Account, Accounts
from tests.support.ledger_book import Book
from tests.support.open_transaction import open_transaction
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio
ACCOUNT = Account("acme", "first", "default", "a key", "http://acme")
LANES = {("acme", "first", stops): 9 for stops in (False, True)}
WANTED = {"default": settings_of(), "other": settings_of(limit=1)}


@pytest.fixture
def other_server(sql_url: str) -> Iterator[Database]:
    database = Database(sql_url)
    yield database
    database.close()


Change = Callable[[UnitOfWork], object]


def counted(change: Callable[..., Any], made: list[str]) -> Callable[..., Any]:
    def work(*arguments: Any) -> Any:
        made.append(change.__name__)
        return change(*arguments)

    return work


def look(batch: UnitOfWork) -> object:
    return questions.take(batch.connection, "me", [ACCOUNT], LANES, 60_000)


def configure(batch: UnitOfWork) -> object:
    return configuration.apply(batch, WANTED, Accounts([ACCOUNT]))


@pytest.mark.parametrize("first", [look, configure])
@pytest.mark.parametrize("second", [look, configure])
async def test_two_servers_that_add_the_same_account_at_once_have_it_both(
    book: Book, other_server: Database, monkeypatch: pytest.MonkeyPatch, first: Change, second: Change
) -> None:
    """Neither transaction is refused: a refused one would be made again, with all others of its commit."""
    made: list[str] = []
    for module, name in ((questions, "take"), (configuration, "apply")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), made))

    async def waits() -> bool:
        if not other_server.url.startswith("postgresql"):
            return True  # the one writer of SQLite: the second begins after the commit of the first
        query = sa.text("select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()")
        return await book.database.read(lambda connection: connection.execute(query).first() is not None)

    async with open_transaction(book.database, first):
        asking = Questions(other_server, "them").take([ACCOUNT], LANES, 60_000)
        configuring = Ledger(other_server).configure(WANTED, Accounts([ACCOUNT]))
        chosen, unused = (asking, configuring) if second is look else (configuring, asking)
        unused.close()
        added = asyncio.create_task(chosen)
        await until(waits, "it waits for the row of the first one")
    assert await added == []
    assert len(made) == 2, f"a transaction was made again: {made}"
    rows = await book.rows(tables.accounts)
    assert [(one["provider"], one["name"]) for one in rows] == [("acme", "first")]
    assert rows[0]["pool"] == ("default" if configure in (first, second) else None)
