"""What SQL knows of the time in which a pool stood still, for a rebuild."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from gate.ledger.results import RebuildPlan
from gate.ledger.sql import tables
from tests.support.ledger_book import NOW, Book

pytestmark = pytest.mark.anyio
CAME = NOW - 1_000_000


async def waits(book: Book, job_id: str = "a", *, came: int = CAME, stood_ms: int = 0, ticket: int = 1) -> None:
    await book.queued(job_id, ticket=ticket)
    change = tables.jobs.update().where(tables.jobs.c.job_id == job_id).values(enqueued_at=came, stood_ms=stood_ms)
    await book.database.write("default", "", lambda batch: batch.connection.execute(change))


async def rebuilt(book: Book, away_ms: int | None = 0, epoch: int = 0, at: int = NOW) -> RebuildPlan:
    book.clock(at)
    return await book.ledger.begin_rebuild("default", "one", epoch, away_ms=away_ms)


async def paused(book: Book, at: int, until: int | None = None) -> None:
    book.clock(at)
    await book.ledger.change_pool("default", {"paused": True})
    if until is not None:
        book.clock(until)
        await book.ledger.change_pool("default", {"paused": False})


async def test_the_pauses_since_the_last_arrival_are_added_to_what_that_job_knows(book: Book) -> None:
    await waits(book, stood_ms=7_000)
    await paused(book, CAME + 100_000, CAME + 130_000)
    await paused(book, CAME + 200_000, CAME + 250_000)
    assert (await rebuilt(book)).stood_ms == 7_000 + 30_000 + 50_000


async def test_a_pause_that_began_before_the_last_arrival_counts_from_there(book: Book) -> None:
    await paused(book, CAME - 50_000)
    await waits(book, stood_ms=50_000)
    book.clock(CAME + 20_000)
    await book.ledger.change_pool("default", {"paused": False})
    assert (await rebuilt(book)).stood_ms == 70_000


async def test_a_pause_that_goes_on_counts_until_now(book: Book) -> None:
    await waits(book)
    await paused(book, NOW - 5_000)
    assert (await rebuilt(book)).stood_ms == 5_000


async def test_a_pause_from_before_the_last_arrival_that_goes_on_counts_from_there(book: Book) -> None:
    await paused(book, CAME - 50_000)
    await waits(book, stood_ms=50_000)
    assert (await rebuilt(book)).stood_ms == 50_000 + 1_000_000


async def test_the_time_without_redis_counts_once_beside_a_pause(book: Book) -> None:
    await waits(book)
    await paused(book, NOW - 20_000, NOW - 5_000)
    assert (await rebuilt(book, away_ms=10_000)).stood_ms == 20_000


async def test_a_process_that_never_called_redis_counts_from_the_last_change_of_a_live_job(book: Book) -> None:
    await waits(book)
    await waits(book, "b", came=NOW - 30_000, ticket=2)
    assert (await rebuilt(book, away_ms=None)).stood_ms == 30_000
    assert (await rebuilt(book, away_ms=None, epoch=1, at=NOW + 5_000)).stood_ms == 30_000 + 5_000, "since the last rebuild"


async def test_a_renewal_is_such_a_change(book: Book) -> None:
    await waits(book)
    await book.running("r", ticket=2)
    change = tables.jobs.update().where(tables.jobs.c.job_id == "r").values(expires_at=NOW - 10_000 + 600_000)
    await book.database.write("default", "", lambda batch: batch.connection.execute(change))
    assert (await rebuilt(book, away_ms=None)).stood_ms == 10_000


async def test_a_rebuild_keeps_what_it_found_for_the_next(book: Book) -> None:
    await waits(book)
    assert (await rebuilt(book, away_ms=10_000)).stood_ms == 10_000
    assert (await rebuilt(book, away_ms=1_000, epoch=1, at=NOW + 60_000)).stood_ms == 11_000
    row = (await book.rows(tables.pools))[0]
    assert (row["name"], row["stood_ms"], row["stood_at"]) == ("default", 11_000, NOW + 60_000)


async def test_a_pool_that_nobody_waits_for_has_stood_still_for_no_time(book: Book) -> None:
    await paused(book, NOW - 5_000)
    assert (await rebuilt(book, away_ms=None)).stood_ms == 0


async def test_an_admission_keeps_the_time_that_redis_told(book: Book) -> None:
    from gate.model.job import Request

    facts = {"epoch": 0, "ticket": 1, "at": 1_000, "lease_ms": 600_000, "lease": None}
    await book.ledger.admit("default", Request("a"), stood_ms=4_000, **facts)
    assert (await book.job("a")).stood_ms == 4_000
    assert (await book.database.read(lambda c: c.execute(sa.select(tables.jobs.c.stood_ms)).scalar())) == 4_000
