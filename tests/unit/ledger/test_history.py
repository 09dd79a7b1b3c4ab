"""Each transition of a job in the ledger: the result, the whole row, and the history with actor and reason."""

from __future__ import annotations

import time

import pytest

from gate.ledger.results import Change, GrantReturn, RecordReply
from gate.ledger.sql import tables
from gate.model.job import Job, Refund
from tests.support.ledger_book import NOW, Book, lease

pytestmark = pytest.mark.anyio
ENTRY = {"id": 1, "at": 1_000, "job_id": "a", "user": "ana", "pool": "default", "kind": "charge", "amount": 5}


async def test_a_job_that_runs_at_once_is_written_whole(book: Book) -> None:
    job = await book.running(tool="upscaler", session="s", payload={"x": [1]}, tells=True)
    assert job == Job(
        "a", "default", "running", "ana", "upscaler", "s", 5, {"x": [1]}, 1, 1, "lease-1", 600_000, 1_000, 2_000, 602_000, 3_602_000,
        tells=True,
    )  # fmt: skip
    assert await book.history() == [("running", "caller", 1, None, 1_000)]
    assert await book.rows(tables.ledger) == [ENTRY]


async def test_a_job_that_waits_is_written_whole(book: Book) -> None:
    job = await book.queued(ticket=7, credits=None, starts=True, settles=True)
    assert job == Job(
        "a", "default", "queued", "ana", None, None, 0, None, 7, 0, None, 600_000, 1_000, starts=True, settles=True
    )
    assert await book.history() == [("queued", "caller", None, None, 1_000)]


async def test_a_grant_that_goes_back_is_of_a_waiter_from_the_first(book: Book) -> None:
    assert (await book.queued(given_up=7)).fence == 7
    assert await book.history() == [("returned", "gate", 7, "not_taken", 1_000), ("queued", "caller", None, None, 1_000)]
    assert (await book.admit("a", lease(7))).result == "no_room", "that grant cannot be recorded any more"
    assert (await book.admit("a", lease(8))).result == "admitted"


async def test_a_repeated_acquire_gets_the_same_slot(book: Book) -> None:
    first = await book.queued()
    assert await book.admit() == Change("admitted", first)
    assert len(await book.history()) == 1
    assert await book.admit(ticket=2) == Change("admitted", first), "its place was lost and is another one now"
    assert (await book.history())[1:] == [("seated", "gate", None, "its place in Redis was lost", NOW)]
    assert (await book.admit(given_up=4)).result == "admitted" and (await book.job()).fence == 4
    assert (await book.admit(given_up=3)).result == "admitted" and (await book.job()).fence == 4, "the newer one stands"
    taken = await book.admit("a", lease(5))
    assert taken == Change("admitted", await book.job()) and (await book.job()).lease == lease(5)
    assert (await book.history())[2:] == [("running", "caller", 5, None, 2_000)]
    assert await book.admit("a", lease(5)) == taken, "the same decision"
    assert await book.admit("a", lease(6)) == Change("live", taken.job)
    assert await book.admit("a", lease(6), given_up=9, ticket=9) == Change("live", taken.job)
    assert await book.job() == taken.job, "who runs gives nothing up, and has no place to lose"
    assert len(await book.history()) == 3
    assert await book.admit("a", pool="other") == Change("reused", taken.job)
    assert await book.admit("a", credits=6) == Change("reused", taken.job)
    ended = await book.ledger.end("default", "a", "completed", by="operator")
    assert await book.admit() == Change("ended", ended.job)


async def test_a_full_or_paused_pool_records_no_grant(book: Book) -> None:
    await book.running("b", pool="other")
    waiter = await book.queued("c", pool="other")
    assert await book.admit("c", lease(2), pool="other") == Change("no_room", waiter)
    assert await book.admit("d", lease(2), pool="other") == Change("no_room")
    await book.ledger.change_pool("default", {"paused": True})
    assert await book.admit("e", lease(2)) == Change("no_room")
    assert (await book.admit("e")).result == "admitted", "a place in the queue it may have"


async def test_an_end_is_written_whole_and_paid_back_once(book: Book) -> None:
    before = await book.running()
    ended = await book.ledger.end(
        "default", "a", "failed", by="holder", lease_id="lease-1", reason="why", error="no GPU", output={"x": 1}
    )
    after = before._replace(
         status="failed", ended_at=NOW, ended_by="holder", end_reason="why", error="no GPU", output={"x": 1},
        refund=Refund(5, NOW),
    )  # fmt: skip
    assert ended == Change("ended", after, before) and await book.job() == after
    assert (await book.history())[1:] == [("failed", "holder", 1, "why", NOW)]
    assert await book.rows(tables.ledger) == [ENTRY, ENTRY | {"id": 2, "at": NOW, "kind": "refund"}]
    assert await book.ledger.end("default", "a", "failed", by="holder", lease_id="lease-1") == Change("repeat", after)
    assert await book.ledger.end("default", "a", "failed", by="operator") == Change("already", after)
    assert await book.ledger.end("default", "a", "completed", by="holder", lease_id="lease-1") == Change("already", after)
    assert len(await book.rows(tables.ledger)) == 2


async def test_a_refund_that_the_owner_pays_is_owed_until_then(book: Book) -> None:
    await book.running(settles=True)
    ended = await book.ledger.end("default", "a", "cancelled", by="operator")
    assert ended.job is not None and ended.job.refund == Refund(5, None, owed=True)
    assert await book.rows(tables.owed) == [
        {
            "job_id": "a",
            "user": "ana",
            "pool": "default",
            "amount": 5,
            "since": NOW,
            "due_at": NOW,
            "attempts": 0,
            "error": None,
        }
    ]
    assert await book.rows(tables.ledger) == [ENTRY]
    await book.running("b", 2, settles=True)
    await book.ledger.end("default", "b", "completed", by="operator")
    await book.running("c", 3, settles=True, credits=0)
    await book.ledger.end("default", "c", "failed", by="operator")
    assert len(await book.rows(tables.owed)) == 1, "what is completed, or cost nothing, is not owed"


async def test_an_end_by_a_lease_is_of_that_lease(book: Book) -> None:
    waiter = await book.queued("w")
    assert await book.ledger.end("default", "nobody", "failed", by="operator") == Change("unknown")
    assert await book.ledger.end("other", "w", "failed", by="operator") == Change("unknown")
    assert await book.ledger.end("default", "w", "failed", by="holder", lease_id="lease-1") == Change("lost", waiter)
    job = await book.running()
    assert await book.ledger.end("default", "a", "failed", by="holder", lease_id="lease-2") == Change("lost", job)
    assert await book.ledger.cancel_waiting("default", ["a", "nobody"], by="operator") == []
    back = (await book.ledger.refuse("default", "a", "lease-1", "holder")).job
    assert await book.ledger.end("default", "a", "failed", by="holder", lease_id="lease-1") == Change("lost", back)
    assert await book.ledger.cancel_waiting("other", ["w"], by="operator") == []
    (ended,) = await book.ledger.cancel_waiting("default", ["w", "w"], by="operator")
    assert ended.status == "cancelled" and (await book.history("w"))[-1] == ("cancelled", "operator", None, None, NOW)


async def test_what_comes_after_the_expiry_is_kept_once(book: Book) -> None:
    job = await book.expired()
    assert (job.status, job.ended_at, job.ended_by, job.end_reason) == ("expired", 700_000, "gate", "lease_timeout")
    assert job.refund == Refund(5, 700_000)
    late = await book.ledger.end("default", "a", "completed", by="holder", lease_id="lease-1")
    assert late == Change("lost", job._replace(late_outcome="completed"))
    assert await book.ledger.end("default", "a", "failed", by="holder", lease_id="lease-1") == late
    assert await book.ledger.end("default", "a", "failed", by="operator") == Change("already", late.job)
    assert (await book.history())[1:] == [
        ("expired", "gate", 1, "lease_timeout", 700_000),
        ("late", "holder", 1, "completed", NOW),
    ]


async def test_a_refusal_gives_the_slot_back_and_keeps_the_lease_on_record(book: Book) -> None:
    before = await book.running()
    await book.ledger.bind("default", "a", "acme", "t", "lease-1")
    before = await book.job()
    assert await book.ledger.refuse("default", "nobody", "lease-1", "holder") == Change("unknown")
    assert await book.ledger.refuse("other", "a", "lease-1", "holder") == Change("unknown")
    assert await book.ledger.refuse("default", "a", "lease-2", "holder") == Change("lost", before)
    done = await book.ledger.refuse("default", "a", "lease-1", "tool", "no GPU")
    after = before._replace(
        status="queued",
        granted_at=None,
        expires_at=None,
        hard_expires_at=None,
        provider=None,
        task_id=None,
        refusals=1,
    )
    assert done == Change("refused", after, before)
    assert (await book.history())[-1] == ("queued", "tool", None, "refused by the provider: no GPU", NOW)
    assert await book.ledger.refuse("default", "a", "lease-1", "holder") == Change("repeat", after)
    await book.record(book.note("a", 2, lease(2)))
    assert (await book.ledger.refuse("default", "a", "lease-2", "holder")).result == "refused", "a grant too"
    assert (await book.history())[-1] == ("queued", "holder", None, "refused by the provider", NOW)


async def test_a_refusal_of_what_has_ended_changes_nothing(book: Book) -> None:
    await book.running()
    ended = await book.ledger.end("default", "a", "completed", by="holder", lease_id="lease-1")
    assert await book.ledger.refuse("default", "a", "lease-1", "holder") == Change("already", ended.job)
    over = await book.expired("b", 2)
    assert await book.ledger.refuse("default", "b", "lease-2", "holder") == Change("lost", over)


async def test_a_claim_and_renewals_are_recorded_and_never_shorten(book: Book) -> None:
    granted = await book.granted()
    assert (granted.status, granted.lease) == ("granted", lease())
    facts = {"epoch": 0, "at": 4_000}
    assert await book.ledger.extend("default", "a", "lease-1", due=9_000_000, **facts | {"epoch": 1}) == Change("stale")
    past = time.monotonic() - 0.001
    assert await book.ledger.extend("default", "a", "lease-1", due=1, good_until=past, **facts) == Change("stale")
    assert await book.ledger.extend("default", "nobody", "lease-1", due=1, **facts) == Change("unknown")
    assert await book.ledger.extend("other", "a", "lease-1", due=1, **facts) == Change("unknown")
    assert await book.ledger.extend("default", "a", "lease-2", due=1, **facts) == Change("lost", granted)
    soon = time.monotonic() + 60
    claimed = await book.ledger.extend("default", "a", "lease-1", due=700_000, good_until=soon, **facts)
    runs = granted._replace(status="running", expires_at=700_000)
    assert claimed == Change("extended", runs) and await book.job() == runs
    assert (await book.history())[-2:] == [("granted", "gate", 1, None, 2_000), ("running", "holder", 1, None, 4_000)]
    assert await book.ledger.extend("default", "a", "lease-1", due=699_999, **facts) == Change("extended", runs)
    longer = await book.ledger.extend("default", "a", "lease-1", due=700_001, **facts)
    assert longer == Change("extended", runs._replace(expires_at=700_001)) and await book.job() == longer.job
    back = await book.ledger.refuse("default", "a", "lease-1", "holder")
    assert await book.ledger.extend("default", "a", "lease-1", due=1, **facts) == Change("lost", back.job)


async def test_entries_of_jobs_that_sql_does_not_know_yet_stay(book: Book) -> None:
    await book.queued()
    notes = [
        book.note("later", 3, lease(3)), book.note("a", 1, lease(1)), book.note("later", 3),
        book.note("", 0, kind="unreadable"), book.note("a", 1, kind="unknown"),
    ]  # fmt: skip
    assert await book.record(*notes) == RecordReply(done=["2-0", "4-0"], changed=[await book.job("a")])
    assert (await book.job()).lease == lease(1)
    assert await book.ledger.record("other", 0, [notes[1]]) == RecordReply(), "it is not of that pool"
    assert await book.ledger.record("default", 1, notes) == RecordReply(stale=True)
    assert await book.ledger.record("default", 0, notes, time.monotonic() - 0.001) == RecordReply(late=True)


async def test_a_grant_and_its_end_in_one_page_never_were(book: Book) -> None:
    await book.queued()
    job = await book.job()
    recorded = await book.record(book.note("a", 1, lease(1)), book.note("a", 1))
    assert recorded == RecordReply(done=["1-0", "2-0"], returns=[GrantReturn(job, 1, "lost")])
    assert (await book.job()).status == "queued" and (await book.job()).fence == 1
    assert (await book.history())[1:] == [("returned", "gate", 1, "lost", NOW)]
    await book.record(book.note("a", 2))
    assert (await book.job()).fence == 2 and len(await book.history()) == 2, "it is written down once"
    assert await book.record(book.note("a", 2)) == RecordReply(done=["4-0"]), "an older one is history"
    assert (await book.record(book.note("a", 3, lease(3)))).changed == [await book.job("a")], "another grant is another one"


@pytest.mark.parametrize("limited", [{"limit": 0}, {"paused": True}])
async def test_a_grant_for_which_sql_has_no_room_goes_back(book: Book, limited: dict[str, int | bool]) -> None:
    job = await book.queued()
    await book.ledger.change_pool("default", limited)
    assert await book.record(book.note("a", 1, lease(1))) == RecordReply(
        done=["1-0"], returns=[GrantReturn(job, 1, "not_taken")]
    )
    assert await book.job() == job._replace(fence=1)
    assert (await book.history())[1:] == [("returned", "gate", 1, "not_taken", NOW)]
    assert await book.record(book.note("a", 1, lease(1))) == RecordReply(done=["2-0"])


async def test_each_expiry_has_its_reason_and_its_time(book: Book) -> None:
    await book.queued("w")
    await book.granted("g", 2)
    await book.running("r", 3)
    for job_id, fence in (("w", 9), ("g", 3), ("g", 0), ("r", 0), ("r", 2), ("r", 4)):
        before = await book.job(job_id)
        await book.record(book.note(job_id, fence)) if job_id != "w" else None
        assert await book.job(job_id) == before, "not of that fence"
    recorded = await book.record(*(book.note(*one, at=800_000) for one in (("w", 0), ("g", 2), ("r", 3))))
    assert recorded.changed == [await book.job(one) for one in "wgr"] and len(recorded.done) == 3 and not recorded.returns
    assert [(await book.job(job_id)).end_reason for job_id in "wgr"] == ["queue_timeout", "claim_timeout", "lease_timeout"]
    for job_id, fence, why in (("w", None, "queue_timeout"), ("g", 2, "claim_timeout"), ("r", 3, "lease_timeout")):
        job = await book.job(job_id)
        assert (job.ended_at, job.refund) == (800_000, Refund(5, 800_000))
        assert (await book.history(job_id))[-1] == ("expired", "gate", fence, why, 800_000)
    assert (await book.record(book.note("w", 0), book.note("r", 3))).changed == [], "once"


async def test_a_lease_that_reached_the_longest_hold_says_so(book: Book) -> None:
    await book.running("r", 1)
    facts = {"epoch": 0, "at": 4_000}
    await book.ledger.extend("default", "r", "lease-1", due=3_602_000, hard=3_602_000, **facts)
    await book.record(book.note("r", 1, at=3_602_000))
    assert (await book.job("r")).end_reason == "hold_limit"


async def test_a_success_of_its_holder_after_an_operators_end_is_kept_with_its_output(book: Book) -> None:
    await book.running()
    await book.ledger.end("default", "a", "failed", by="operator")
    late = await book.ledger.end("default", "a", "completed", by="holder", lease_id="lease-1", output={"files": ["u"]})
    assert late.result == "already"
    kept = await book.job()
    assert (kept.status, kept.late_outcome, kept.late_output) == ("failed", "completed", {"files": ["u"]})


async def test_an_end_that_an_operator_wrote_into_the_row_is_in_the_history_once(book: Book) -> None:
    await book.running()
    await book.change(tables.jobs.update().values(status="cancelled", ended_at=NOW, ended_by="operator"))
    for _ in range(2):
        await book.ledger.say_ended("default", "a")
    assert [one for one in await book.history() if one[0] == "cancelled"] == [
        ("cancelled", "operator", 1, "by hand, in SQL", NOW)
    ]
