"""A follower of a feed reads every row, whatever is committed at the same time, and in whatever order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from gate.ledger import Database, Ledger, LedgerQueries
from gate.ledger.commit import feed
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.reports.counters import EventCounters
from gate.ledger.sql.tables import ledger, unread_callbacks
from gate.model.job import Request
from tests.support.ledger_book import Book, lease
from tests.support.open_transaction import open_transaction
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio

Page = Callable[[int], Awaitable[tuple[list[Any], int | None]]]


class Follower:
    """Pages through a feed as a client does: after the newest row that it has read."""

    def __init__(self, page: Page) -> None:
        self._page, self.read = page, list[int]()

    async def catch_up(self) -> list[int]:
        following: int | None = 1
        while following is not None:
            rows, following = await self._page(self.read[-1] if self.read else 0)
            self.read += [row.id for row in rows]
        return self.read


@pytest.fixture
async def other(book: Book) -> AsyncIterator[Database]:
    """The database as a second server has it."""
    database = Database(book.database.url)
    yield database
    database.close()


@pytest.fixture
def follower(book: Book) -> Follower:
    return Follower(lambda after: book.reading.entries(after=after, most=20))


@pytest.fixture
def is_postgres(book: Book) -> bool:
    return book.database.url.startswith("postgresql")


def charge(job_id: str) -> Callable[[UnitOfWork], None]:
    return lambda batch: batch.book(job_id, "ana", "default", "charge", 5, 1_000)


async def test_follower_of_the_ledger_misses_no_row_of_two_servers(book: Book, other: Database, follower: Follower) -> None:
    pools = [f"p{number}" for number in range(4)]
    await book.ledger.configure({name: settings_of(limit=1_000) for name in pools})
    numbers = itertools.count(1)

    async def caller(server: Ledger, pool: str) -> None:
        for number in itertools.islice(numbers, 150):
            wanted = Request(f"job-{number}", user="ana", credits=5)
            facts = {"epoch": 0, "ticket": number, "at": 1_000, "lease_ms": 600_000}
            await server.admit(pool, wanted, lease=lease(number), **facts)
            await server.end(pool, wanted.job_id, "failed", by="holder", lease_id=f"lease-{number}")

    servers = ((book.ledger, pools[:2]), (Ledger(other), pools[2:]))
    callers = [asyncio.create_task(caller(server, pool)) for server, some in servers for pool in some]
    while not all(task.done() for task in callers):
        await follower.catch_up()
    await asyncio.gather(*callers)
    written = [row["id"] for row in await book.rows(ledger)]
    assert len(written) == 1_200 and await follower.catch_up() == written


async def test_page_ends_before_the_row_of_an_open_transaction(
    book: Book, other: Database, follower: Follower, is_postgres: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "OPEN_S", 0.1)
    await book.queued("early")
    await book.queued("late", credits=0)
    assert len(await follower.catch_up()) == 1
    async with open_transaction(other, charge("late")):
        committed = asyncio.create_task(book.queued("new"))  # on SQLite after the other one
        if is_postgres:
            await committed
        with capture_logs() as logs:
            assert len(await follower.catch_up()) == 1
            assert len(await follower.catch_up()) == 1
        held_back = [{"event": "feed.held_back", "feed": "ledger", "after": follower.read[-1], "log_level": "warning"}]
        assert logs == (held_back if is_postgres else []), "one line, however often a client asks"
        own, following = await book.reading.entries(job_id="new")
        assert (len(own), following) == (is_postgres, None), "the rows of one job are in order"
    await committed
    assert await follower.catch_up() == [row["id"] for row in await book.rows(ledger)] and len(follower.read) == 3


async def test_page_waits_for_the_transactions_that_are_open(book: Book, other: Database, is_postgres: bool) -> None:
    """So a caller finds the row of its own change, though another server is about to commit."""
    await book.queued("late", credits=0)
    async with open_transaction(other, charge("late")) as held:
        committed = asyncio.create_task(book.queued("own"))
        if is_postgres:
            await committed
        asked = asyncio.create_task(book.reading.entries(user="ana"))
        asyncio.get_running_loop().call_later(0.05, held.end)
        rows, _ = await asked
        assert [row.job_id for row in rows] == (["late", "own"] if is_postgres else [])
    await committed


async def test_long_transaction_of_another_application_holds_no_page_back(book: Book, follower: Follower) -> None:
    url = sa.make_url(book.database.url)
    sqlite = url.get_backend_name() == "sqlite"
    foreign = sa.create_engine(
        url.set(drivername="sqlite+pysqlite" if sqlite else "postgresql+psycopg"), poolclass=sa.NullPool
    )
    with foreign.connect() as connection:
        if sqlite:
            connection.exec_driver_sql("select count(*) from jobs")
        else:
            connection.exec_driver_sql("create temporary table theirs (n bigint)")  # it has an id of a transaction now
        await book.queued("a")
        assert len(await follower.catch_up()) == 1
        connection.rollback()
    foreign.dispose()


async def test_follower_of_unread_callbacks_misses_none(
    book: Book, other: Database, is_postgres: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "OPEN_S", 0.1)
    follower = Follower(book.reading.unread.page)
    facts = {"at": 1, "last_at": 1, "times": 1, "provider": "acme", "pool": "other", "body": "{", "why": "no JSON"}
    late = unread_callbacks.insert().values(hash="late", **facts)
    async with open_transaction(other, lambda batch: batch.connection.execute(late)):
        kept = asyncio.create_task(book.reading.unread.keep("default", "acme", b"{", "{", "t", "no JSON"))
        if is_postgres:
            await kept
        assert await follower.catch_up() == []
    await kept
    assert len(await follower.catch_up()) == 2


async def test_counters_count_events_that_are_committed_after_newer_ones(
    book: Book, other: Database, is_postgres: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "OPEN_S", 0.1)
    counting = EventCounters(book.database)
    await book.running("late")
    await counting.begin()

    def writes(batch: UnitOfWork) -> None:
        batch.event("default", "late", "late", "holder", 1_000)
        batch.event("default", "late", "refunded", "owner", 1_000, why="7")

    async with open_transaction(other, writes):
        committed = asyncio.create_task(book.queued("new", pool="other"))
        if is_postgres:
            await committed
        await counting.count()
        assert not counting.pools
    await committed
    for _ in range(2):
        await counting.count()
        late, new = counting.pools["default"], counting.pools["other"]
        assert (late.late, late.refunds, late.credits, new.admitted["queued"]) == (1, 1, 7, 1)


async def test_feed_of_a_ledger_without_rows_is_empty(book: Book) -> None:
    reading = LedgerQueries(book.database)
    assert await reading.entries() == ([], None) and await reading.unread.page() == ([], None)
