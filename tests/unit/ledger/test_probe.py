"""When gate writes to know whether SQL takes writes: seldom while no job is live, unless the disk shows little room."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gate.ledger import ledger
from gate.ledger.sql import engines
from tests.support.ledger_book import Book

pytestmark = pytest.mark.anyio

Writes = Callable[[bool], Awaitable[bool]]


@pytest.fixture
def writes(book: Book, monkeypatch: pytest.MonkeyPatch) -> Writes:
    """Whether a look at a ledger whose last commit is more than PROVEN_S ago writes."""
    monkeypatch.setattr(ledger, "PROVEN_S", 0.0)

    async def look(at_rest: bool) -> bool:
        before = book.database._writer.wrote_at
        await book.ledger.prove(at_rest)
        return book.database._writer.wrote_at > before

    return look


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_sqlite_at_rest_is_probed_seldom(writes: Writes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await writes(False), "a job is live"
    assert not await writes(True)
    monkeypatch.setattr(ledger, "AT_REST_S", 0.0)
    assert await writes(True), "the last commit is too old"


async def test_disk_that_shows_little_room_is_probed_often_at_rest_too(
    writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ROOM_BYTES", 2**63)
    assert await writes(False)
    assert await writes(True)


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_file_that_is_gone_has_no_room(book: Book, tmp_path: Path) -> None:
    assert book.database.has_room
    (file,) = tmp_path.rglob("gate.db")
    file.rename(tmp_path / "moved.db")
    assert not book.database.has_room
    (tmp_path / "moved.db").rename(file)
    assert book.database.has_room


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_write_that_failed_is_followed_by_a_probe_at_rest_too(book: Book, writes: Writes) -> None:
    assert await writes(False) and not await writes(True)
    book.database._writer.writable = False
    assert await writes(True) and book.ledger.reached()


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_postgres_at_rest_is_probed_often(writes: Writes) -> None:
    assert await writes(True), "its disk is out of sight"
