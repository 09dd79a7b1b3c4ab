"""When gate asks a provider about a task, which server asks, and what an end owes to the provider."""

from __future__ import annotations

from typing import Any

import pytest

from gate.ledger import Heard, Question, Questions
from gate.ledger.sql import tables
from gate.model.account import Account, Accounts
from gate.model.job import Job
from gate.model.messages import AnswerState, ProviderReport, StartReply
from tests.support.ledger_book import NOW, Book, lease

pytestmark = pytest.mark.anyio
ACCOUNT = Account("acme", "first", "default", "a key", "http://acme", questions_per_second=5)
PLENTY = {("acme", "first", False): 9, ("acme", "first", True): 9}
LEASE_MS, SPACING_MS = 600_000, 60_000


@pytest.fixture
def mine(book: Book) -> Questions:
    return Questions(book.database, "me")


@pytest.fixture
def theirs(book: Book) -> Questions:
    return Questions(book.database, "them")


UNBOUND: dict[str, Any] = {"provider": None, "task_id": None, "account": None}


def late(task_id: str | None) -> StartReply:
    return StartReply(1, "acme", task_id, Accounts([ACCOUNT]))


async def bound(book: Book, job_id: str = "a", fence: int = 1, account: Account | None = ACCOUNT) -> Job:
    job = await book.running(job_id, fence, ticket=fence)
    assert job.lease_id is not None
    after = await book.ledger.bind(
        "default", job_id, "acme", f"task-{job_id}", job.lease_id, accounts=Accounts([account] if account else [])
    )
    assert after.job is not None
    return after.job


async def take(by: Questions, most: int = 9) -> list[Question]:
    return await by.take([ACCOUNT], {("acme", "first", stops): most for stops in (False, True)}, hold_ms=60_000)


async def row(book: Book, task_id: str = "task-a") -> dict[str, Any]:
    return next(one for one in await book.rows(tables.tasks) if one["task_id"] == task_id)


async def test_the_first_question_comes_a_tenth_of_the_lease_after_the_start(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS - 1)
    assert await take(mine) == [] and await mine.due_in_s([ACCOUNT]) == 0.001
    book.clock(NOW + SPACING_MS)
    (question,) = await take(mine)
    assert (question.task_id, question.questions, question.is_current, question.is_stopping) == ("task-a", 1, True, False)


async def test_it_comes_sooner_where_the_provider_does_not_call_back(book: Book, mine: Questions) -> None:
    await bound(book, account=Account("acme", "first", "default", "a key", "http://acme", calls_back=False))
    book.clock(NOW + SPACING_MS // 12)
    assert len(await take(mine)) == 1


async def test_no_task_is_asked_about_without_an_account(book: Book, mine: Questions) -> None:
    await bound(book, account=None)
    assert await mine.due_in_s([ACCOUNT]) is None and (await row(book))["account"] is None


async def test_a_task_that_another_has_replaced_extends_no_lease(book: Book, mine: Questions) -> None:
    job = await bound(book)
    await book.ledger.bind("default", "a", "acme", "task-b", job.lease_id or "", accounts=Accounts([ACCOUNT]))
    book.clock(NOW + SPACING_MS)
    assert {one.task_id: one.is_current for one in await take(mine)} == {"task-a": False, "task-b": True}


async def test_a_task_of_an_account_that_is_gone_is_not_due(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    assert await mine.due_in_s([Account("acme", "second", "default", "a key", "http://acme")]) is None


async def test_one_server_asks_at_a_time(book: Book, mine: Questions, theirs: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    assert len(await take(mine)) == 1 and await take(theirs) == []
    book.clock(NOW + SPACING_MS + 60_000)
    assert len(await take(theirs)) == 1


async def test_a_server_finds_its_questions_again_after_its_death(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    await take(mine)
    await mine.free([ACCOUNT])
    assert len(await take(mine)) == 1


async def test_questions_of_an_account_are_limited_over_all_servers(book: Book, mine: Questions, theirs: Questions) -> None:
    for number in range(1, 4):
        await bound(book, f"j{number}", number)
    few = Account("acme", "first", "default", "a key", "http://acme", questions_per_second=2)
    book.clock(NOW + SPACING_MS)
    assert len(await mine.take([few], PLENTY, 60_000)) == 2
    assert await theirs.take([few], PLENTY, 60_000) == []
    book.clock(NOW + SPACING_MS + 500)
    assert len(await theirs.take([few], PLENTY, 60_000)) == 1


@pytest.mark.parametrize("end", ["cancelled", "failed", "expired", "refused"])
async def test_an_end_without_the_word_of_the_provider_owes_a_stop(book: Book, mine: Questions, end: str) -> None:
    job = await bound(book)
    if end == "expired":
        await book.record(book.note("a", 1, at=700_000))
    elif end == "refused":
        await book.ledger.refuse("default", "a", job.lease_id or "", "holder")
    else:
        await book.ledger.end("default", "a", "failed" if end == "failed" else "cancelled", by="operator")
    (question,) = await take(mine)
    assert question.is_stopping and question.stop_at == NOW and not question.is_current


async def test_the_word_of_the_provider_owes_no_stop(book: Book, mine: Questions) -> None:
    await bound(book)
    await book.ledger.hear("default", "acme", ProviderReport("failed", "1", "task-a"), "{}")
    assert (await row(book))["stop"] is None and await mine.due_in_s([ACCOUNT]) is None


async def test_a_holder_with_a_result_owes_no_stop(book: Book, mine: Questions) -> None:
    job = await bound(book)
    await book.ledger.end("default", "a", "completed", by="holder", lease_id=job.lease_id)
    assert (await row(book))["stop"] is None and await mine.due_in_s([ACCOUNT]) is None


async def test_a_start_that_was_answered_too_late_owes_a_stop(book: Book, mine: Questions) -> None:
    job = await book.running()
    await book.ledger.end("default", "a", "cancelled", by="operator")
    await book.ledger.start_late("default", "a", job.lease_id or "", late("task-a"))
    (question,) = await take(mine)
    assert question.is_stopping and (await book.job()).task_id == "task-a"


async def test_a_task_that_is_named_after_the_end_of_its_job_is_refused_and_owes_a_stop(book: Book, mine: Questions) -> None:
    job = await book.running()
    ended = (await book.ledger.end("default", "a", "cancelled", by="operator")).job
    named = await book.ledger.bind("default", "a", "acme", "task-a", job.lease_id or "", accounts=Accounts([ACCOUNT]))
    assert named.result == "lost"
    (question,) = await take(mine)
    assert question.is_stopping and (await book.job())._replace(**UNBOUND) == ended, "the end stands"


async def test_a_second_task_that_is_named_after_the_end_is_stopped_and_changes_no_job(book: Book, mine: Questions) -> None:
    job = await bound(book)
    await book.ledger.end("default", "a", "completed", by="holder")
    before = await book.job()
    await book.ledger.bind("default", "a", "acme", "task-b", job.lease_id or "", accounts=Accounts([ACCOUNT]))
    assert [(one.task_id, one.is_stopping) for one in await take(mine)] == [("task-b", True)]
    assert await book.job() == before


async def test_a_start_of_a_former_lease_owes_a_stop_and_leaves_the_new_one_alone(book: Book, mine: Questions) -> None:
    job = await book.granted(tool="upscaler", starts=True)
    await book.ledger.refuse("default", "a", job.lease_id or "", "holder")
    await book.record(book.note("a", 2, lease(2)))
    before = await book.job()
    await book.ledger.start_late("default", "a", job.lease_id or "", late("task-a"))
    assert await book.job() == before and before.lease_id == "lease-2"
    (question,) = await take(mine)
    assert (question.task_id, question.lease_id, question.is_stopping) == ("task-a", "lease-1", True)


async def test_a_late_start_that_names_the_task_of_another_job_leaves_it_alone(book: Book, mine: Questions) -> None:
    await bound(book, "b", 2)
    job = await book.granted(tool="upscaler", starts=True)
    await book.ledger.end("default", "a", "cancelled", by="operator")
    before = await row(book, "task-b")
    await book.ledger.start_late("default", "a", job.lease_id or "", late("task-b"))
    assert await row(book, "task-b") == before and before["stop"] is None and (await book.job()).task_id is None


@pytest.mark.parametrize(("back_ms", "hold_ms"), [(LEASE_MS // 10, 0), (3_600_000, 0), (3_600_000, 60_000)])
async def test_a_question_is_due_at_once_after_the_clock_went_back(
    book: Book, mine: Questions, theirs: Questions, back_ms: int, hold_ms: int
) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    if hold_ms:
        assert len(await take(theirs)) == 1
    book.clock(NOW - back_ms)
    assert await mine.due_in_s([ACCOUNT]) == 0 and len(await take(mine)) == 1


async def test_questions_are_allowed_after_the_clock_went_back(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    assert len(await take(mine)) == 1
    book.clock(NOW - 3_600_000)
    assert len(await take(mine)) == 1


async def test_a_question_under_way_is_joined(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    (question,) = await take(mine)
    book.clock(NOW + SPACING_MS + 10)
    assert await book.ledger.ask("default", "a") is not None
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", 60_000))
    assert await take(mine) == [] and (await row(book))["ask_at"] == NOW + SPACING_MS + 10 + 60_000
    assert await book.ledger.ask("default", "a") is not None
    assert len(await take(mine)) == 1


async def test_an_answer_does_not_put_off_a_stop_that_came_meanwhile(book: Book, mine: Questions) -> None:
    await bound(book)
    book.clock(NOW + SPACING_MS)
    (question,) = await take(mine)
    await book.ledger.end("default", "a", "cancelled", by="operator")
    await mine.record(question, Heard(AnswerState.RUNNING, "RUNNING", 60_000))
    (stop,) = await take(mine)
    assert stop.is_stopping


async def test_stops_hold_up_no_question(book: Book, mine: Questions) -> None:
    for number in range(1, 4):
        await bound(book, f"j{number}", number)
    book.clock(NOW + SPACING_MS)
    for number in (1, 2):
        await book.ledger.end("default", f"j{number}", "cancelled", by="operator")
    slow = Account("acme", "first", "default", "a key", "http://acme", questions_per_second=1)
    assert {one.job_id for one in await mine.take([slow], PLENTY, hold_ms=60_000)} == {"j3"}


async def test_a_task_that_is_bound_again_is_asked_about_again(book: Book, mine: Questions) -> None:
    job = await bound(book)
    for task_id in ("task-b", "task-a"):
        await book.ledger.bind("default", "a", "acme", task_id, job.lease_id or "", accounts=Accounts([ACCOUNT]))
        await book.change(tables.tasks.update().where(tables.tasks.c.task_id != task_id).values(ask_at=None))
    book.clock(NOW + SPACING_MS)
    assert [(one.task_id, one.is_current) for one in await take(mine)] == [("task-a", True)]


async def test_a_renamed_account_is_asked_under_its_new_name(book: Book, mine: Questions) -> None:
    await bound(book)
    renamed = Account("acme", "main", "default", "a key", "http://acme")
    await mine.free([renamed])
    assert (await row(book))["account"] == "main" and (await book.job()).account == "main"


async def test_the_history_has_each_change_of_the_answer(book: Book, mine: Questions) -> None:
    await bound(book)
    answers: list[AnswerState | None] = [AnswerState.QUEUED, AnswerState.RUNNING, AnswerState.RUNNING, None, None]
    for number, state in enumerate(answers, 1):
        book.clock(NOW + number * SPACING_MS)
        (question,) = await take(mine)
        await mine.record(question, Heard(state, "so it says", SPACING_MS))
    said = [why for kind, _, _, why, _ in await book.history() if kind == "answer"]
    assert said == ["queued: so it says", "running: so it says", "silent: so it says"]
    assert (await row(book))["silent_since"] == NOW + 4 * SPACING_MS


async def test_a_question_that_a_person_asks_for_is_due_at_once(book: Book, mine: Questions) -> None:
    await bound(book)
    assert await take(mine) == []
    asked = await book.ledger.ask("default", "a")
    assert asked is not None and asked.job_id == "a"
    (question,) = await take(mine)
    assert question.task_id == "task-a"
    await book.queued("waits", ticket=2)
    assert await book.ledger.ask("default", "waits") is None, "it has no task"
    assert await book.ledger.ask("other", "a") is None, "it is of another pool"


async def test_the_answer_to_a_start_call_binds_the_task_to_the_account_of_its_pool(book: Book) -> None:
    await book.granted("a", 1, tool="upscaler", starts=True)
    other = Account("acme", "elsewhere", "other", "a key", "http://acme")
    reply = StartReply(1, "acme", "task-a", Accounts([other, ACCOUNT]))
    started = await book.ledger.extend(
        "default", "a", "lease-1", epoch=0, at=4_000, due=604_000, hard=3_602_000, started=reply
    )
    assert started.job is not None and started.job.account == "first"
    assert (await row(book))["account"] == "first"
