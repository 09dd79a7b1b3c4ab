"""What the ledger says of work that is not done, for doctor: each query tells what it counts from what lies beside it."""

from __future__ import annotations

import pytest

from gate.ledger import Deliveries
from gate.ledger.reports.backlog import LineLength
from gate.model.messages import DeliveryResult
from tests.support.ledger_book import NOW, Book

pytestmark = pytest.mark.anyio
PLENTY = {("upscaler", "start"): 9, ("poser", "start"): 9}


async def test_a_line_is_as_long_as_the_jobs_that_wait_and_those_that_waited_too_long(book: Book) -> None:
    await book.running("runs", 1)
    await book.queued("waits", ticket=2)
    await book.queued("over", ticket=3)
    await book.queued("own", ticket=4, queue_ms=1_000)
    await book.running("ended", 5, pool="other", ticket=5)
    await book.ledger.end("other", "ended", "completed", by="operator")
    await book.record(book.note("over", 0, at=NOW - 500), book.note("own", 0, at=NOW - 500))
    assert await book.reading.backlog.lines(1_000) == {"default": LineLength(1, 1)}
    assert await book.reading.backlog.lines(400) == {"default": LineLength(1, 0)}


async def test_users_are_counted_by_pool_and_jobs_without_one_are_not(book: Book) -> None:
    for number, user in enumerate(("ana", "bob", "ana")):
        await book.running(f"j{number}", number + 1, ticket=number + 1, user=user)
    await book.queued("of no user", ticket=9, user=None)
    await book.queued("elsewhere", pool="other", user=None)
    assert await book.reading.backlog.users_lately() == {"default": 2}


async def test_a_tool_is_down_when_its_last_start_call_of_late_says_so(book: Book) -> None:
    mine = Deliveries(book.database, "me")
    for number, tool in enumerate(("upscaler", "poser")):
        await book.granted(tool, number + 1, tool=tool, starts=True, ticket=number + 1)
    for call in await mine.take({"start": 10_000}, PLENTY):
        down = call.job_id == "upscaler"
        await mine.close(call, DeliveryResult.TOOL_DOWN if down else DeliveryResult.DELIVERED, "HTTP 404" if down else None)
    assert await book.reading.backlog.tools_down(1_000) == {"upscaler": "HTTP 404"}
    book.clock(NOW + 1_000)
    assert await book.reading.backlog.tools_down(1_000) == {}


async def test_a_tool_without_an_address_is_named_by_what_it_leaves_unstarted(book: Book) -> None:
    await book.queued("waits", tool="poser", starts=True)
    await book.queued("by hand", tool="poser", ticket=2)
    await book.queued("known", tool="upscaler", starts=True, ticket=3)
    await book.granted("unclaimed", 4, tool="cutter", ticket=4)
    await book.record(book.note("unclaimed", 4, at=NOW))
    unstarted = book.reading.backlog.unstarted
    assert await unstarted(["upscaler"], 1_000) == {"poser": (1, 0), "cutter": (0, 1)}
    await book.running("started", 5, tool="cutter", ticket=5)
    assert await unstarted(["upscaler"], 1_000) == {"poser": (1, 0)}
