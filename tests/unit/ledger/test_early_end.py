"""Ends before an admission, as SQL decides between the two."""

from __future__ import annotations

import pytest

from gate.ledger import results
from gate.model.errors import PoolUnknown
from gate.model.job import Request
from tests.support.ledger_book import Book

pytestmark = pytest.mark.anyio
REQUEST = Request("a", user="ana", tool="upscaler_jobs", credits=5)


async def end(book: Book) -> results.Change:
    return await book.ledger.end_unadmitted("default", REQUEST, "failed", by="caller", error="the upload failed")


async def kinds(book: Book) -> list[str]:
    entries, _ = await book.reading.entries(job_id="a")
    return [entry.kind for entry in entries]


async def test_an_end_before_the_admission_is_one_charge_and_one_refund(book: Book) -> None:
    ended = await end(book)
    assert ended.result == "ended" and ended.job is not None
    assert (ended.job.status, ended.job.ticket) == ("failed", 0), "it never had a place"
    assert await kinds(book) == ["charge", "refund"]
    assert (await book.admit(user="ana", tool="upscaler_jobs")).result == "ended", "the admission comes too late"
    assert await kinds(book) == ["charge", "refund"]


@pytest.mark.parametrize("how", ["queued", "running"])
async def test_an_end_after_the_admission_changes_nothing(book: Book, how: str) -> None:
    job = await (book.queued() if how == "queued" else book.running())
    ended = await end(book)
    assert (ended.result, ended.job) == ("already", job)
    assert await book.job() == job
    assert await kinds(book) == ["charge"]


async def test_an_early_end_in_an_unknown_pool_is_refused_whatever_its_lease(book: Book) -> None:
    for lease_ms in (None, 1_000):
        with pytest.raises(PoolUnknown):
            await book.ledger.end_unadmitted("nowhere", REQUEST._replace(lease_ms=lease_ms), "failed", by="caller")
