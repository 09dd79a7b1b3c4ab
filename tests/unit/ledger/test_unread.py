"""Callbacks that could not be read: each body once, never too many, and each applied to one job once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from gate.ledger import Database, Unread
from gate.ledger.admin import prune
from gate.ledger.results import Change
from gate.ledger.sql import tables
from gate.ledger.transitions import unread_callbacks
from gate.model.job import Refund
from gate.model.limits import CALLBACK_KEPT_MAX
from tests.support.ledger_book import NOW, Book

pytestmark = pytest.mark.anyio


async def keep(
    book: Book, body: bytes = b"{", pool: str = "default", task_id: str | None = "t", why: str = "no JSON"
) -> bool:
    return await book.reading.unread.keep(pool, "acme", body, body.decode(), task_id, why)


async def kept(book: Book, pool: str = "default") -> list[Unread]:
    return await book.reading.unread.pending(pool, 5000)


async def apply(book: Book, one: Unread, job_id: str = "a", outcome: str = "failed", reason: str = "I read it") -> Change:
    output = {"raw": 1} if outcome == "completed" else None
    return await book.reading.unread.apply(one, job_id, outcome, reason, "ana", output)


async def test_the_same_body_is_one_row_that_counts(book: Book) -> None:
    assert await keep(book)
    book.clock(NOW + 1)
    assert await keep(book, why="another word for it")
    assert await keep(book, b"{ ")
    row = {"task_id": "t", "body": "{", "why": "no JSON", "provider": "acme", "pool": "default"}
    row |= {"applied_at": None, "applied_by": None, "job_id": None, "outcome": None, "reason": None}
    first, second = (await book.reading.unread.page())[0]
    assert first == Unread(id=1, at=NOW, last_at=NOW + 1, times=2, **row)  # type: ignore[arg-type]
    assert (second.body, second.times) == ("{ ", 1)
    assert await keep(book, pool="other") and len(await kept(book, "other")) == 1, "each pool counts by itself"
    assert not await keep(book, pool="nowhere")


async def test_servers_that_hear_it_at_once_count_together(book: Book) -> None:
    other = Database(book.database.url)
    twin = unread_callbacks.UnreadCallbacks(other)
    at_once = [keep(book) for _ in range(10)] + [twin.keep("default", "acme", b"{", "{", "t", "why") for _ in range(10)]
    assert await asyncio.gather(*at_once) == [True] * 20
    assert [one.times for one in await kept(book)] == [20]
    other.close()


async def test_a_long_body_is_cut_and_says_so(book: Book) -> None:
    await keep(book, b"x" * (CALLBACK_KEPT_MAX + 1))
    (one,) = await kept(book)
    assert one.body == "x" * CALLBACK_KEPT_MAX + f"\n[cut here: {CALLBACK_KEPT_MAX + 1} characters came]"


async def test_a_callback_that_was_applied_is_not_dismissed(book: Book) -> None:
    await book.running()
    await keep(book)
    (one,) = await kept(book)
    assert (await apply(book, one)).result == "ended"
    assert not await book.reading.unread.dismiss(one, "a trial", "ana")
    (same,) = (await book.reading.unread.page())[0]
    assert (same.job_id, same.outcome, same.reason) == ("a", "failed", "I read it")


async def test_a_callback_that_was_dismissed_is_kept_and_not_applied(book: Book) -> None:
    await book.running()
    await keep(book)
    (one,) = await kept(book)
    assert await book.reading.unread.dismiss(one, "a trial", "ana")
    assert not await book.reading.unread.dismiss(one, "once more", "bia")
    assert (await apply(book, one)).result == "spent"
    (same,) = (await book.reading.unread.page())[0]
    assert (same.job_id, same.outcome, same.reason, same.applied_by) == (None, "dismissed", "a trial", "ana")
    assert await kept(book) == [] and await book.reading.unread.lately(0, 3) == (0, [])


async def test_each_task_is_named_once(book: Book) -> None:
    for n, task_id in enumerate(("t", "u", "t", None)):
        await keep(book, b"%d" % n, task_id=task_id)
    assert await book.reading.unread.lately(0, 3) == (4, ["acme t", "acme u"])


async def test_the_oldest_pending_callbacks_are_dropped(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_callbacks, "PENDING_MAX", 3)
    await book.running()
    await keep(book, b"0")
    (applied,) = await kept(book)
    assert (await apply(book, applied)).result == "ended"
    for n in range(1, 7):
        await keep(book, b"%d" % n)
    await keep(book, b"6", pool="other")
    assert [one.body for one in await kept(book)] == ["6", "5", "4"]
    assert [one.body for one in (await book.reading.unread.page())[0]] == ["0", "4", "5", "6", "6"]


async def test_pages_go_on_where_the_page_before_ended(book: Book) -> None:
    for n in range(5):
        await keep(book, b"%d" % n)
    rows, following = await book.reading.unread.page(0, 3)
    assert ([one.body for one in rows], following) == (["0", "1", "2"], 3)
    rows, following = await book.reading.unread.page(3, 3)
    assert ([one.body for one in rows], following) == (["3", "4"], None)


async def test_applied_it_ends_the_job_as_the_provider_does(book: Book) -> None:
    before = (await book.ledger.bind("default", (await book.running()).job_id, "acme", "t", "lease-1")).job
    await keep(book)
    (one,) = await kept(book)
    ended = await apply(book, one)
    job = await book.job()
    assert ended == Change("ended", job, before)
    assert (job.status, job.ended_by, job.end_reason, job.error, job.output) == (
        "failed", "provider", "acme task t", "I read it", None
    )  # fmt: skip
    assert job.refund == Refund(5, NOW)
    assert (await book.history())[-2:] == [
        ("failed", "provider", 1, "acme task t", NOW),
        ("callback", "operator", 1, "unread callback 1: I read it", NOW),
    ]
    (row,) = await book.rows(tables.unread_callbacks)
    mark = {"applied_at": NOW, "applied_by": "ana", "job_id": "a", "outcome": "failed", "reason": "I read it"}
    assert {name: row[name] for name in mark} == mark and await kept(book) == []


async def test_completed_it_has_an_output_and_no_refund(book: Book) -> None:
    await book.running()
    await keep(book)
    assert (await apply(book, (await kept(book))[0], outcome="completed")).result == "ended"
    job = await book.job()
    assert (job.status, job.output, job.error, job.refund) == ("completed", {"raw": 1}, None, None)


async def test_each_is_applied_once_however_many_try(book: Book) -> None:
    for n, job_id in enumerate("abc", 1):
        await book.running(job_id, n, ticket=n)
    await keep(book)
    (one,) = await kept(book)
    other = Database(book.database.url)
    twin = unread_callbacks.UnreadCallbacks(other)
    tries = [apply(book, one, job_id) for job_id in "ab"] + [twin.apply(one, "c", "failed", "I", "bob", None)]
    words = [ended.result for ended in await asyncio.gather(*tries)]
    assert sorted(words) == ["ended", "spent", "spent"]
    assert len([row for row in await book.rows(tables.ledger) if row["kind"] == "refund"]) == 1
    other.close()


async def test_where_nothing_can_be_added_nothing_is_written(book: Book) -> None:
    await book.running("done")
    await book.ledger.end("default", "done", "completed", by="operator")
    await book.queued("waits", ticket=2)
    await book.running("elsewhere", 1, pool="other")
    await keep(book)
    (one,) = await kept(book)
    before: list[Any] = [await book.rows(table) for table in (tables.jobs, tables.events, tables.unread_callbacks)]
    words = [(await apply(book, one, job_id)).result for job_id in ("done", "waits", "elsewhere", "nobody")]
    assert words == ["history", "waiting", "unknown", "unknown"]
    assert [await book.rows(table) for table in (tables.jobs, tables.events, tables.unread_callbacks)] == before
    await book.change(tables.unread_callbacks.delete())
    assert (await apply(book, one, "waits")).result == "gone"


async def test_of_an_expired_job_the_outcome_is_kept_late_and_the_refund_stands(book: Book) -> None:
    await book.expired()
    await keep(book)
    (one,) = await kept(book)
    assert (await apply(book, one, outcome="completed")).result == "late"
    job = await book.job()
    assert (job.status, job.late_outcome) == ("expired", "completed") and job.refund is not None
    assert (await apply(book, one, outcome="completed")).result == "spent"


async def test_pruned_with_its_job_or_by_its_own_age(book: Book) -> None:
    await book.running()
    for body in (b"applied", b"old", b"young"):
        await keep(book, body)
    young, old, applied = await kept(book)
    assert (await apply(book, applied)).result == "ended"
    book.clock(NOW + 100_000)
    await keep(book, b"young")
    book.clock(NOW)
    age_ms = prune.now_ms() - NOW - 50_000
    await asyncio.to_thread(prune.prune, book.database.url, age_ms)
    assert [one.id for one in (await book.reading.unread.page())[0]] == [young.id]
    assert old.id != young.id and not verify(book.database.url, None).breaches


async def test_the_newest_pending_callbacks_are_named(book: Book) -> None:
    await book.running()
    for body, task_id in ((b"1", "t1"), (b"2", None), (b"3", "t3"), (b"4", "t4")):
        await keep(book, body, task_id=task_id)
    assert await book.reading.unread.lately(NOW - 1, 2) == (4, ["acme t4", "acme t3"])
    await apply(book, (await kept(book))[0])
    assert await book.reading.unread.lately(NOW - 1, 2) == (3, ["acme t3", "acme t1"])
    assert await book.reading.unread.lately(NOW, 2) == (0, [])
