"""What gate owes to tools: one row a change, taken by one server at a time, in order, until it is done or given up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gate.ledger import Deliveries, Delivery
from gate.ledger.reports.backlog import Pending
from gate.ledger.sql import tables
from gate.ledger.transitions import deliveries
from gate.model.job_json import job_body, moment
from gate.model.messages import DeliveryResult
from tests.support.ledger_book import NOW, Book, lease

pytestmark = pytest.mark.anyio
HOLD_MS = {"event": 10_000, "start": 60_000}
EVENTS, STARTS = ("upscaler", "event"), ("upscaler", "start")
PLENTY = {EVENTS: 9, STARTS: 9}


@pytest.fixture
def mine(book: Book) -> Deliveries:
    return Deliveries(book.database, "me")


@pytest.fixture
def theirs(book: Book) -> Deliveries:
    return Deliveries(book.database, "them")


async def rows(book: Book, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in await book.rows(tables.deliveries)]


def made(taken: list[Delivery]) -> list[tuple[str, str]]:
    return [(one.job_id, one.type) for one in taken]


async def test_each_change_is_owed_whole_to_a_tool_that_wants_events(book: Book) -> None:
    await book.queued("quiet", tool="upscaler", ticket=1)
    first = await book.queued("a", tool="upscaler", ticket=5, tells=True)
    await book.running("r", 9, ticket=2)
    await book.queued("b", tool="upscaler", ticket=3, tells=True, starts=True)
    await book.record(book.note("b", 10, lease(10)))
    names = (
        "job_id",
        "tool",
        "kind",
        "type",
        "fence",
        "at",
        "due_at",
        "attempts",
        "taken_by",
        "taken_until",
        "done_at",
        "error",
    )
    free = (0, 0, None, None, None, None)
    assert await rows(book, *names) == [
        ("a", "upscaler", "event", "job.queued", 0, 1_000, *free),
        ("b", "upscaler", "event", "job.queued", 0, 1_000, *free),
        ("b", "upscaler", "event", "job.granted", 10, 2_000, *free),
        ("b", "upscaler", "start", "job.start", 10, 2_000, *free),
    ]
    ids = [name for (name,) in await rows(book, "webhook_id")]
    assert len(set(ids)) == 4 and all(name.startswith("msg_") and len(name) == 36 for name in ids)
    bodies = [json.loads(body) for (body,) in await rows(book, "body")]
    placed = job_body(first) | {"position": 2, "queue_length": 2}
    assert bodies[0] == {"type": "job.queued", "timestamp": moment(1_000), "data": placed}
    assert (bodies[1]["data"]["position"], bodies[1]["data"]["queue_length"]) == (2, 3)
    granted = job_body(await book.job("b"))
    assert bodies[2] == {"type": "job.granted", "timestamp": moment(2_000), "data": granted}
    assert bodies[3] == {"type": "job.start", "timestamp": moment(2_000), "data": granted}
    assert granted["position"] is None


async def test_an_end_and_a_refusal_are_told_at_their_time(book: Book) -> None:
    await book.running(tool="upscaler", tells=True)
    await book.ledger.refuse("default", "a", "lease-1", "holder")
    await book.ledger.end("default", "a", "cancelled", by="operator")
    assert await rows(book, "type", "at") == [("job.running", 1_000), ("job.queued", NOW), ("job.cancelled", NOW)]


async def test_a_taken_call_belongs_to_one_server_until_its_time_is_over(
    book: Book, mine: Deliveries, theirs: Deliveries
) -> None:
    await book.granted(tool="upscaler", starts=True)
    (row,) = await book.rows(tables.deliveries)
    (taken,) = await mine.take(HOLD_MS, PLENTY)
    assert taken == Delivery(
        row["id"], row["webhook_id"], "a", "default", "upscaler", "start", "job.start", row["body"], 1, "lease-1"
    )
    assert taken.lane == STARTS
    assert await rows(book, "taken_by", "taken_until", "attempts") == [("me", NOW + 60_000, 1)]
    book.clock(NOW + 59_999)
    assert await theirs.take(HOLD_MS, PLENTY) == []
    book.clock(NOW + 60_000)
    (again,) = await theirs.take(HOLD_MS, PLENTY)
    assert (again.attempts, again.webhook_id, again.body) == (2, taken.webhook_id, taken.body)
    assert await rows(book, "taken_by", "taken_until", "attempts") == [("them", NOW + 120_000, 2)]


async def test_events_of_a_job_go_one_by_one_and_no_more_than_there_is_room_for(book: Book, mine: Deliveries) -> None:
    for number, job_id in enumerate("abc"):
        await book.queued(job_id, tool="upscaler", ticket=number + 1, tells=True)
    await book.queued("d", tool="other", ticket=4, tells=True)
    await book.ledger.end("default", "a", "cancelled", by="operator")
    assert await mine.take(HOLD_MS, {EVENTS: 0}) == [] == await mine.take(HOLD_MS, {})
    two = await mine.take(HOLD_MS, {EVENTS: 2})
    assert made(two) == [("a", "job.queued"), ("b", "job.queued")] and two[0].lease_id is None
    assert made(await mine.take(HOLD_MS, {("other", "event"): 1})) == [("d", "job.queued")]
    assert made(await mine.take(HOLD_MS, {EVENTS: 1})) == [("c", "job.queued")]
    assert await mine.take(HOLD_MS, PLENTY) == [], "what came later of a job waits for what came before"
    await mine.close(two[0], DeliveryResult.DELIVERED)
    assert made(await mine.take(HOLD_MS, PLENTY)) == [("a", "job.cancelled")]


async def test_a_start_whose_grant_is_no_more_is_over(book: Book, mine: Deliveries) -> None:
    await book.granted("a", 1, tool="upscaler", starts=True)
    await book.granted("b", 2, tool="upscaler", starts=True, ticket=2)
    await book.ledger.refuse("default", "a", "lease-1", "holder")
    await book.ledger.refuse("default", "b", "lease-2", "holder")
    await book.record(book.note("b", 3, lease(3)))
    await book.change(tables.deliveries.update().where(tables.deliveries.c.job_id == "a").values(error="e"))
    assert await mine.take(HOLD_MS, PLENTY) == [], "neither of the first two; the third waited for them"
    (taken,) = await mine.take(HOLD_MS, PLENTY)
    assert (taken.job_id, taken.lease_id) == ("b", "lease-3")
    assert await rows(book, "job_id", "result", "error", "done_at", "attempts") == [
        ("a", "over", "e", NOW, 0), ("b", "over", None, NOW, 0), ("b", None, None, None, 1),
    ]  # fmt: skip


async def test_what_is_done_is_done_once_and_its_body_is_gone(book: Book, mine: Deliveries) -> None:
    await book.queued("a", tool="upscaler", tells=True)
    await book.queued("b", tool="upscaler", tells=True, ticket=2)
    (taken, _) = await mine.take(HOLD_MS, PLENTY)
    await mine.close(taken, DeliveryResult.REFUSED, "e")
    await mine.close(taken, DeliveryResult.DELIVERED)
    names = ("done_at", "result", "error", "taken_by", "taken_until")
    assert (await rows(book, *names))[0] == (NOW, "refused", "e", None, None)
    assert [body is None for (body,) in await rows(book, "body")] == [True, False]


async def test_a_call_is_due_at_once_when_the_clock_was_set_back_since_it_was_put_off(book: Book, mine: Deliveries) -> None:
    await book.queued("a", tool="upscaler", tells=True)
    (taken,) = await mine.take(HOLD_MS, PLENTY)
    assert await mine.put_off(taken, 360_000, "e") is True
    assert await mine.take(HOLD_MS, PLENTY) == []
    book.clock(NOW - 3_600_000)
    assert made(await mine.take(HOLD_MS, PLENTY)) == made([taken])


async def test_what_failed_is_due_again_later_until_a_day_is_over(book: Book, mine: Deliveries, theirs: Deliveries) -> None:
    await book.queued("a", tool="upscaler", tells=True)
    await book.queued("b", tool="upscaler", tells=True, ticket=2)
    await book.change(tables.deliveries.update().values(at=NOW))
    taken, other = await mine.take(HOLD_MS, PLENTY)
    assert await theirs.put_off(taken, 5_000, "e") is True, "who does not hold it changes nothing"
    assert await rows(book, "taken_by", "error", "due_at") == [("me", None, 0)] * 2
    assert await mine.put_off(taken, 5_000, "e") is True
    assert await rows(book, "taken_by", "taken_until", "error", "due_at") == [
        (None, None, "e", NOW + 5_000), ("me", NOW + 10_000, None, 0),
    ]  # fmt: skip
    book.clock(NOW + 4_999)
    assert await mine.take(HOLD_MS, PLENTY) == []
    book.clock(NOW + 5_000)
    assert made(await mine.take(HOLD_MS, PLENTY)) == [("a", "job.queued")]
    book.clock(NOW + deliveries.GIVE_UP_MS)
    assert await mine.put_off(taken, 1, "late") is True
    assert await mine.put_off(other, 1, "late") is True
    book.clock(NOW + deliveries.GIVE_UP_MS + 1)
    await mine.take(HOLD_MS, PLENTY)
    assert await mine.put_off(taken, 1, "too late") is False
    assert (await rows(book, "result", "error", "body", "taken_by"))[0] == ("given_up", "too late", None, None)
    assert await mine.put_off(taken, 1, "again") is True, "what is done stays so"
    assert (await rows(book, "result", "error"))[0] == ("given_up", "too late")


async def test_a_server_that_comes_back_frees_only_what_it_held(book: Book, mine: Deliveries, theirs: Deliveries) -> None:
    for number, job_id in enumerate("abc"):
        await book.queued(job_id, tool="upscaler", tells=True, ticket=number + 1)
    (done,) = await mine.take(HOLD_MS, {EVENTS: 1})
    await mine.take(HOLD_MS, {EVENTS: 1})
    await theirs.take(HOLD_MS, {EVENTS: 1})
    await mine.close(done, DeliveryResult.DELIVERED)
    await mine.free()
    assert await rows(book, "taken_by", "taken_until") == [(None, None), (None, None), ("them", NOW + 10_000)]


async def test_what_is_owed_is_counted_by_pool_with_the_oldest_and_the_last_error(book: Book, mine: Deliveries) -> None:
    owing = book.reading.backlog
    assert await owing.calls("default") == Pending(0, 0, None, None) == await owing.refunds("default")
    for number, job_id in enumerate("abcd"):
        await book.queued(job_id, tool="upscaler", tells=True, ticket=number + 1)
    await book.queued("o", tool="other", tells=True, pool="other")
    for number, one in enumerate(await mine.take(HOLD_MS, PLENTY | {("other", "event"): 9})):
        if one.job_id != "d":
            await mine.put_off(one, 1_000, f"error of {one.job_id}")
            when = tables.deliveries.update().where(tables.deliveries.c.id == one.id)
            await book.change(when.values(at=9_000 - number))
    assert await owing.calls("default") == Pending(3, 0, min((await rows(book, "at"))[:3])[0], "error of a")
    assert (await owing.calls("other")).error == "error of o"
    assert await owing.calls_by_tool() == {"upscaler": 4, "other": 1}
    await owing.hurry()
    assert {due for (due,) in await rows(book, "due_at")} == {0}
    for one in await mine.take(HOLD_MS, PLENTY):
        await mine.close(one, DeliveryResult.DELIVERED, "once")
    await book.change(
        tables.deliveries.update().where(tables.deliveries.c.result == DeliveryResult.DELIVERED).values(due_at=7)
    )
    await owing.hurry()
    assert sorted({due for (due,) in await rows(book, "due_at")}) == [0, 7], "what is done is not hurried"
    assert (await owing.calls_by_tool())["other"] == 1


async def test_refunds_that_are_owed_are_counted_by_pool(book: Book) -> None:
    owing = book.reading.backlog
    for number, (job_id, pool) in enumerate((("a", "default"), ("b", "default"), ("c", "other"))):
        await book.running(job_id, number + 1, pool=pool, settles=True)
        book.clock(NOW - number)
        await book.ledger.end(pool, job_id, "failed", by="operator")
    assert await owing.refunds("default") == Pending(2, 10, NOW - 1, None)
    await book.change(tables.owed.update().values(error="closed", due_at=5))
    assert await owing.refunds("other") == Pending(1, 5, NOW - 2, "closed")
    await owing.hurry()
    assert {row["due_at"] for row in await book.rows(tables.owed)} == {0}


async def test_bindings_that_are_missing_and_refusals_are_counted_of_late_only(book: Book) -> None:
    from gate.ledger.transitions.inbox import KEPT_MS
    from gate.model.messages import ProviderReport

    owing = book.reading.backlog
    await book.ledger.hear("default", "acme", ProviderReport("completed", "d1", "t1"), "")
    await book.ledger.hear("default", "acme", ProviderReport("completed", "d2", None, "nobody"), "")
    await book.ledger.hear("default", "acme", ProviderReport("completed", "d3", "t2"), "")
    assert await owing.bindings(1) == (2, ["acme t2"])
    book.clock(NOW + KEPT_MS)
    assert await owing.bindings(1) == (0, [])
    book.clock(NOW)
    for number, outcome in enumerate(("completed", "failed", "cancelled", "refused", "refused", "refused")):
        await book.running(f"j{number}", number + 1, ticket=number + 1)
        if outcome == "refused":
            await book.ledger.refuse("default", f"j{number}", f"lease-{number + 1}", "holder")
        else:
            await book.ledger.end("default", f"j{number}", outcome, by="operator")
    lately = await owing.by_pool(1_000)
    assert [(pool, one.refused, one.ran) for pool, one in lately.items()] == [("default", 3, 2)]
    assert await owing.by_pool(0) == {}
