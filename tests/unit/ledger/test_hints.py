"""What a callback that is not believed does in SQL: when its question is due, and what is kept of it."""

from __future__ import annotations

import asyncio

import pytest

from gate.coordination import hint_receiver
from gate.coordination.hint_receiver import HintReceiver
from gate.ledger import Heard, Questions
from gate.ledger.reports.provider_troubles import provider_troubles
from gate.ledger.sql import tables
from gate.ledger.transitions import hints
from gate.model.messages import AnswerState, ProviderReport
from tests.support.ledger_book import NOW, Book
from tests.unit.ledger.test_questions import ACCOUNT, SPACING_MS, bound, row, take

pytestmark = pytest.mark.anyio
SOONEST_MS = SPACING_MS // 12


@pytest.fixture
def mine(book: Book) -> Questions:
    return Questions(book.database, "me")


async def hint(book: Book, task_id: str = "task-a", pool: str = "default", outcome: str = "completed") -> None:
    report = ProviderReport(outcome, "d1", task_id, None, None, {"n": 1})  # type: ignore[arg-type]
    await book.ledger.hint(pool, "acme", report, "the body")


async def kept(book: Book) -> list[tuple[str, str | None, str | None, str]]:
    return [(one["delivery_id"], one["job_id"], one["body"], one["verdict"]) for one in await book.rows(tables.webhooks)]


async def test_the_first_question_is_due_at_once(book: Book, mine: Questions) -> None:
    job = await bound(book)
    await hint(book)
    assert await book.job() == job and len(await take(mine)) == 1


async def test_a_later_question_is_not_due_before_the_shortest_spacing_is_over(book: Book, mine: Questions) -> None:
    await bound(book)
    await hint(book)
    (question,) = await take(mine)
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", SPACING_MS))
    await hint(book)
    book.clock(NOW + SOONEST_MS - 1)
    await hint(book)
    assert await take(mine) == []
    book.clock(NOW + SOONEST_MS)
    assert len(await take(mine)) == 1


async def use(book: Book, task_id: str = "task-a", pool: str = "default") -> str:
    return (await book.reading.hint_use(pool, "acme", task_id)).value


async def test_a_read_says_which_hints_change_something(book: Book, mine: Questions) -> None:
    assert await use(book) == "early"
    await hint(book)
    assert await use(book) == "none", "the same one is kept"
    await bound(book)
    assert await use(book) == "none", "its question is due"
    (question,) = await take(mine)
    assert await use(book) == "nudge", "the answer may be older than the hint"
    await hint(book)
    assert await use(book) == "none"
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", SPACING_MS))
    assert await use(book) == "none", "the shortest spacing is not over"
    book.clock(NOW + SOONEST_MS)
    (question,) = await take(mine)
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", SPACING_MS))
    assert (await use(book), await use(book, pool="other")) == ("nudge", "none")
    await book.ledger.hear("default", "acme", ProviderReport("completed", "1", "task-a"), "{}")
    assert await use(book) == "none", "the task is over"


async def test_a_flood_of_hints_makes_few_transactions(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = book.ledger.hint

    async def counted(pool: str, provider: str, report: ProviderReport, raw: str) -> None:
        written.append(report.task_id or "")
        await write(pool, provider, report, raw)

    monkeypatch.setattr(book.ledger, "hint", counted)
    monkeypatch.setattr(hint_receiver.time, "monotonic", lambda: 1_000.0)
    receiver = HintReceiver(book.ledger, book.reading)
    await bound(book)

    async def sent(task_id: str) -> None:
        assert await receiver.hint("default", "acme", ProviderReport("completed", "d", task_id), "{}") == "hint"

    await asyncio.gather(*(sent("task-a") for _ in range(200)))
    assert written == ["task-a"]
    await asyncio.gather(*(sent(f"made-up-{number}") for number in range(200)))
    assert len(written) == 1 + hint_receiver.EARLY_PER_S * hint_receiver.BURST_S


async def test_an_answer_does_not_put_off_the_question_of_a_hint_that_came_meanwhile(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    (question,) = await take(mine)
    await hint(book)
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", SPACING_MS))
    assert (await row(book))["ask_at"] == NOW + SPACING_MS + SOONEST_MS


async def test_a_hint_makes_no_question_later(book: Book, mine: Questions) -> None:
    await bound(book)
    await hint(book)
    (question,) = await take(mine)
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", 1_000))
    await hint(book)
    assert (await row(book))["ask_at"] == NOW + 1_000


async def test_a_true_end_with_the_delivery_id_of_a_hint_is_no_repeat(book: Book) -> None:
    await bound(book)
    await hint(book)
    await hint(book, outcome="failed")
    assert await kept(book) == [("hint task-a", "a", "the body", "hint")]
    ended = await book.ledger.hear("default", "acme", ProviderReport("completed", "d1", "task-a"), "{}")
    assert ended.result == "ended"


async def test_an_early_hint_is_applied_to_no_job_and_asks_at_the_binding(book: Book, mine: Questions) -> None:
    await hint(book)
    assert [one[1:] for one in await kept(book)] == [(None, None, "hint")]
    job = await bound(book)
    assert job.status == "running" and await kept(book) == [("hint task-a", "a", None, "hint")]
    assert len(await take(mine)) == 1


async def test_early_hints_are_bounded(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "EARLY_HINTS", 3)
    await book.running()
    for number in range(20):
        await hint(book, f"made-up-{number}")
    assert len(await kept(book)) <= 3


async def test_a_hint_about_a_task_that_is_being_stopped_confirms_nothing(book: Book, mine: Questions) -> None:
    await bound(book)
    await book.ledger.end("default", "a", "cancelled", by="operator")
    await hint(book)
    (question,) = await take(mine)
    assert question.is_stopping and (await row(book))["stop"] == "owed"


async def test_nothing_is_due_after_the_end(book: Book, mine: Questions) -> None:
    await bound(book)
    await book.ledger.hear("default", "acme", ProviderReport("completed", "1", "task-a"), "{}")
    await hint(book)
    assert await mine.due_in_s([ACCOUNT]) is None


async def test_a_provider_that_sends_hints_is_not_silent(book: Book) -> None:
    await bound(book)
    await hint(book)
    await book.ledger.hear("default", "acme", ProviderReport("completed", "d1", "task-a"), '{"asked": true}')
    found = await book.database.read(lambda connection: provider_troubles(connection, 60_000_000_000_000))
    assert found.ends == {"acme": (1, 1)}
