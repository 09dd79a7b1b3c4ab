from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gate.ledger import Database
from tests.ledger.book import Book


@pytest.fixture
async def book(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Book]:
    database = Database(sql_url)
    opened = Book(database, monkeypatch)
    await opened.open()
    yield opened
    database.close()
