"""What providers said: each once, whole, with the job that it is about, and whichever of callback and binding comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gate.ledger.results import Change
from gate.ledger.sql import tables
from gate.ledger.transitions import deliveries, inbox
from gate.model.errors import PoolUnknown
from gate.model.job import Refund
from gate.model.limits import CALLBACK_KEPT_MAX
from gate.model.messages import ProviderReport, StartReply
from tests.support.ledger_book import NOW, Book

pytestmark = pytest.mark.anyio


def said(
    delivery_id: str = "d1", task_id: str | None = "t", job_id: str | None = None, outcome: str = "completed"
) -> ProviderReport:
    return ProviderReport(outcome, delivery_id, task_id, job_id, "e" if outcome == "failed" else None, {"n": 1} if outcome == "completed" else None)  # type: ignore[arg-type]  # fmt: skip


async def hear(book: Book, one: ProviderReport, pool: str = "default", provider: str = "acme", raw: str = "raw") -> Change:
    return await book.ledger.hear(pool, provider, one, raw)


async def bind(book: Book, task_id: str = "t", job_id: str = "a", fence: int = 1, provider: str = "acme") -> Change:
    return await book.ledger.bind("default", job_id, provider, task_id, f"lease-{fence}")


async def verdicts(book: Book) -> list[tuple[str, str | None, str]]:
    return [(row["delivery_id"], row["job_id"], row["verdict"]) for row in await book.rows(tables.webhooks)]


async def test_a_binding_is_of_the_lease_it_was_made_under(book: Book) -> None:
    before = await book.running()
    bound = await bind(book)
    job = before._replace(provider="acme", task_id="t")
    assert bound == Change("bound", job, job) and await book.job() == job
    (row,) = await book.rows(tables.tasks)
    assert {name: value for name, value in row.items() if value} == {
        "provider": "acme", "task_id": "t", "job_id": "a", "lease_id": "lease-1", "at": NOW,
    }  # fmt: skip
    assert (await book.history())[1:] == [("task", "holder", 1, "acme t", NOW)]
    assert await bind(book) == Change("repeat", job)
    second = await bind(book, "t2")
    assert second.result == "bound" and (await book.job()).task_id == "t2"
    assert (await bind(book)).result == "bound" and (await book.job()).task_id == "t", "and back again, under the same row"
    assert len(await book.rows(tables.tasks)) == 2
    await book.running("b", 2)
    assert await bind(book, "t", "b", 2) == Change("taken", await book.job("b"))
    assert (await bind(book, "t", "b", 2, "other")).result == "bound", "each provider counts by itself"
    assert await bind(book, "t3", "nobody") == Change("lost")
    assert await bind(book, "t3", "a", 2) == Change("lost", await book.job())
    assert await book.ledger.bind("other", "a", "acme", "t3", "lease-1") == Change("lost")
    granted = await book.granted("g", 3)
    assert await bind(book, "t4", "g", 3) == Change("lost", granted), "it has not started"


async def test_what_a_provider_says_of_its_task_ends_it_and_is_kept_whole(book: Book) -> None:
    await book.running()
    before = (await bind(book)).job
    ended = await hear(book, said(outcome="failed"))
    job = await book.job()
    assert ended == Change("ended", job, before)
    assert (job.status, job.ended_by, job.end_reason, job.error, job.ended_at) == (
        "failed",
        "provider",
        "acme task t",
        "e",
        NOW,
    )
    assert job.refund == Refund(5, NOW) and job.output is None
    row = {
        "id": 1, "at": NOW, "provider": "acme", "delivery_id": "d1", "pool": "default", "task_id": "t", "job_id": "a",
        "outcome": "failed", "error": "e", "output": None, "error_kind": None, "body": "raw", "verdict": "ended",
    }  # fmt: skip
    assert await book.rows(tables.webhooks) == [row]
    assert await hear(book, said(outcome="failed")) == Change("repeat")
    assert await hear(book, said("d2")) == Change("history", job, job)
    assert (await book.rows(tables.webhooks))[1:] == [
        row
        | {"id": 2, "delivery_id": "d2", "outcome": "completed", "error": None, "output": '{"n": 1}', "verdict": "history"}
    ]
    assert (await book.history())[2:] == [
        ("failed", "provider", 1, "acme task t", NOW),
        ("callback", "acme", None, "completed", NOW),
    ]


async def test_a_task_that_failed_keeps_its_costs_as_an_output(book: Book) -> None:
    await book.running()
    await bind(book)
    costs = {"coins": 2, "usage": {"consumeCoins": "2"}}
    ended = await hear(book, replace(said(outcome="failed"), output=costs))
    job = await book.job()
    assert (ended.result, job.status, job.error, job.output, job.refund) == ("ended", "failed", "e", costs, Refund(5, NOW))


async def test_a_job_named_by_its_id_is_ended_by_its_provider_or_where_it_has_none(book: Book) -> None:
    await book.running()
    named = said(task_id=None, job_id="a")
    assert (await hear(book, replace(named, job_id="nobody"))).result == "history"
    assert (await hear(book, named, pool="other")).result == "history", "it is not of that pool"
    ended = await hear(book, replace(named, delivery_id="d2"))
    assert ended.result == "ended" and ended.job is not None
    assert (ended.job.end_reason, ended.job.output) == ("acme", {"n": 1})
    await book.running("b", 2)
    await bind(book, "t", "b", 2, "other")
    assert (await hear(book, said("d3", None, "b"))).result == "history"
    assert await verdicts(book) == [
        ("d1", "nobody", "history"),
        ("d1", "a", "history"),
        ("d2", "a", "ended"),
        ("d3", "b", "history"),
    ]
    assert (await book.history("b"))[-1] == ("callback", "acme", None, "completed, of an earlier task", NOW)
    assert (await hear(book, said("d4", None, "b"), provider="other")).result == "ended"


async def test_an_earlier_task_has_no_say_and_is_history(book: Book) -> None:
    await book.running()
    await bind(book, "t1")
    await bind(book, "t2")
    job = await book.job()
    assert await hear(book, said(task_id="t1")) == Change("history", job, job)
    assert (await book.history())[-1] == ("callback", "acme", None, "completed, of an earlier task", NOW)
    assert await hear(book, said("d2", "t1"), pool="other") == Change("history"), "known, and not there"
    assert (await hear(book, said("d3", "t2"))).result == "ended"


async def test_after_the_expiry_it_is_late_once(book: Book) -> None:
    await book.running()
    await bind(book)
    await book.record(book.note("a", 1, at=700_000))
    before = await book.job()
    late = await hear(book, said())
    assert late == Change("late", before._replace(late_outcome="completed", late_output=said().output), before)
    assert (await book.history())[-1] == ("late", "acme", 1, "completed", NOW)
    assert (await hear(book, said("d2"))).result == "history"
    await book.queued("w")
    await book.record(book.note("w", 0))
    assert (await hear(book, said("d3", None, "w"))).result == "history", "who never had a slot did no work"


async def test_a_waiter_is_not_ended_by_a_callback(book: Book) -> None:
    waiter = await book.queued()
    assert await hear(book, said(task_id=None, job_id="a")) == Change("history", waiter, waiter)
    assert (await book.history())[-1] == ("callback", "acme", None, "completed", NOW)


async def test_what_came_before_its_binding_happens_then_in_the_order_it_came(book: Book) -> None:
    assert await hear(book, said("d1", outcome="failed")) == Change("waits")
    assert await hear(book, said("d2")) == Change("waits")
    for number, (pool, provider, task_id) in enumerate(
        (("other", "acme", "t"), ("default", "else", "t"), ("default", "acme", "u"))
    ):
        await hear(book, said(f"x{number}", task_id), pool, provider)
    before = await book.running()
    ended = await bind(book)
    assert ended == Change("ended", await book.job(), before._replace(provider="acme", task_id="t"))
    assert ended.job is not None and (ended.job.status, ended.job.error, ended.job.end_reason) == (
        "failed",
        "e",
        "acme task t",
    )
    assert ended.job.ended_by == "provider"
    assert await verdicts(book) == [
        ("d1", "a", "ended"), ("d2", "a", "history"), ("x0", None, "waits"), ("x1", None, "waits"), ("x2", None, "waits"),
    ]  # fmt: skip


async def test_an_output_that_waited_is_the_jobs(book: Book) -> None:
    await hear(book, said())
    await book.running()
    ended = await bind(book)
    assert ended.job is not None and (ended.job.status, ended.job.output, ended.job.error) == ("completed", {"n": 1}, None)


async def test_a_callback_waits_a_week_and_not_a_moment_longer(book: Book) -> None:
    await hear(book, said("d1", "t1"))
    book.clock(NOW + 1)
    await hear(book, said("d2", "t2"))
    await book.running()
    book.clock(NOW + inbox.KEPT_MS)
    assert (await bind(book, "t1")).result == "bound"
    assert (await bind(book, "t2")).result == "ended"


async def test_of_a_body_no_more_is_kept_than_there_is_room_for(book: Book) -> None:
    await book.running()
    job = await book.job()
    await hear(book, said("d0", None, "nobody"), raw="x" * (CALLBACK_KEPT_MAX + 1))
    await book.ledger.end("default", "a", "completed", by="operator")
    for number in range(inbox.RAW_OF_A_JOB + 2):
        await hear(book, said(f"n{number}", None, job.job_id))
    bodies = [row["body"] for row in await book.rows(tables.webhooks)]
    assert len(bodies.pop(0)) == CALLBACK_KEPT_MAX
    assert bodies == ["raw"] * inbox.RAW_OF_A_JOB + [None, None]
    assert len(await book.history()) == 2 + inbox.RAW_OF_A_JOB, "nor is it history any more"


async def test_a_pool_that_is_none_hears_nothing(book: Book) -> None:
    with pytest.raises(PoolUnknown):
        await hear(book, said(), pool="nowhere")


async def start_call(book: Book, **answered: str) -> Change:
    """A granted job whose start call a tool has answered."""
    await book.granted(tool="upscaler", starts=True)
    (row,) = await book.rows(tables.deliveries)
    started = StartReply(row["id"], **answered)
    return await book.ledger.extend("default", "a", "lease-1", epoch=0, due=700_000, at=4_000, started=started)


async def call(book: Book) -> tuple[str | None, str | None, int | None]:
    (row,) = await book.rows(tables.deliveries)
    return row["result"], row["error"], row["done_at"]


async def test_a_start_that_was_answered_without_a_task_is_done(book: Book) -> None:
    extended = await start_call(book)
    assert extended.job == await book.job() and (await book.job()).status == "running"
    assert await call(book) == ("delivered", None, NOW)
    assert (await book.history())[2:] == [("running", "tool", 1, None, 4_000)]


async def test_a_task_without_a_provider_is_only_written_down(book: Book) -> None:
    extended = await start_call(book, task_id="t")
    assert extended.job is not None and (extended.job.status, extended.job.task_id) == ("running", None)
    assert (await book.history())[2:] == [("running", "tool", 1, None, 4_000), ("task", "tool", 1, "t", 4_000)]
    assert await call(book) == ("delivered", None, NOW) and await book.rows(tables.tasks) == []


async def test_a_start_that_names_its_task_is_bound_in_the_same_step(book: Book) -> None:
    extended = await start_call(book, provider="acme", task_id="t")
    assert extended.job == await book.job() and (await book.job()).task_id == "t"
    assert (await book.history())[2:] == [("running", "tool", 1, None, 4_000), ("task", "tool", 1, "acme t", NOW)]
    assert await call(book) == ("delivered", None, NOW)


async def test_a_provider_that_was_faster_than_the_answer_has_ended_it(book: Book) -> None:
    await hear(book, said())
    extended = await start_call(book, provider="acme", task_id="t")
    assert extended.job == await book.job() and (await book.job()).status == "completed"


async def test_a_start_that_names_anothers_task_runs_and_says_so(book: Book) -> None:
    await book.running("b", 9)
    await bind(book, "t", "b", 9)
    extended = await start_call(book, provider="acme", task_id="t")
    error = "task t of acme is another lease's"
    assert extended.job == await book.job() and ((await book.job()).status, (await book.job()).task_id) == ("running", None)
    assert (await book.history())[3:] == [("task", "tool", 1, error, 4_000)]
    assert await call(book) == ("delivered", error, NOW)
    assert deliveries.GIVE_UP_MS == 24 * 3600 * 1000
