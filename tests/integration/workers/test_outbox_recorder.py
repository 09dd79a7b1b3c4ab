"""The recorder: a page is good for a moment, and only so often read again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from gate.coordination.outbox_recorder import AGAIN_S, LATE_MAX, PAGE_IS_GOOD_S
from gate.ledger import RecordReply
from gate.model.messages import EntryKind, OutboxEntry
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_a_page_that_is_late_is_read_again_and_at_last_recorded_whatever_the_time(house: House) -> None:
    """A slow SQL must not stop everything."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    record = house.gate.ledger.record
    left: list[float | None] = []

    async def late(pool: str, epoch: int, notes: Any, good_until: float | None = None) -> RecordReply:
        left.append(None if good_until is None else good_until - time.monotonic())
        return RecordReply(late=True) if good_until is not None else await record(pool, epoch, notes)

    house.gate.ledger.record = late
    await house.release(holders[0])
    assert (await house.granted(waiter)).status == "granted"
    house.gate.ledger.record = record
    *first, last = left
    assert len(first) == LATE_MAX and last is None
    assert all(one is not None and PAGE_IS_GOOD_S - 0.1 < one <= PAGE_IS_GOOD_S for one in first)


async def test_what_stays_in_the_outbox_keeps_nothing_behind_it_from_sql(house: House) -> None:
    """The entries of a job that SQL does not know yet fill the first page, and stay."""
    epoch = await house.gate.registry.epoch(house.pool)
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    unknown = await house.gate.semaphore.acquire(house.pool, epoch, f"{house.pool}-unknown", None, None, None)
    notes = house.gate.semaphore.notes

    async def one_by_one(pool: str, after: str | None = None, most: int = 1) -> Any:
        return await notes(pool, after, most)

    house.gate.semaphore.notes = one_by_one
    await house.keeper.cancel(house.pool, waiter.job_id)
    second = await house.acquire()
    await house.release(holders[0])
    assert unknown.ticket < second.ticket
    await house.release(holders[1])
    assert (await house.granted(second)).status == "granted"
    house.gate.semaphore.notes = notes
    await house.acquire(f"{house.pool}-unknown")


async def test_an_entry_that_gate_did_not_write_is_thrown_away_and_said(house: House) -> None:
    entry = house.people.xadd(house.key("outbox"), {"mine": "yes"})
    with capture_logs() as said:
        await house.release(await house.acquire())
        await house.settled()
    assert [(one["pool"], one["entry"]) for one in said if one["event"] == "recorder.entry_discarded"] == [
        (house.pool, entry)
    ]


async def test_a_grant_that_came_before_its_row_is_recorded_as_soon_as_the_row_is_there(house: House) -> None:
    job_id = await house.granted_before_its_row()

    async def no_look(pool: str) -> None:
        """There is no other help."""

    house.gate.recorder.run = no_look
    assert (await house.granted(await house.acquire(job_id))).status == "granted"


async def test_a_grant_whose_row_another_server_may_commit_is_looked_at_again_and_ever_more_seldom(house: House) -> None:
    due_within, asked = house.gate.registry.due_within, []

    def asking(pool: str, within_s: float) -> None:
        asked.append(within_s)
        due_within(pool, within_s)

    house.gate.registry.due_within = asking
    job_id = await house.granted_before_its_row()
    again = [AGAIN_S * 2**turn for turn in range(6)]
    await until(lambda: [one for one in asked if one in again] == again, "it is looked at again")
    assert (await house.granted(await house.acquire(job_id))).status == "granted"
    asked.clear()
    await house.settled()
    await house.gate.recorder.run(house.pool)
    assert not [one for one in asked if one in again]


async def test_a_told_page_that_came_after_entries_of_another_server_does_not_hide_them(house: House) -> None:
    """A pass reads all of the outbox, though the last script here returned only its own entries."""
    holders = [await house.acquire() for _ in range(3)]
    first, second = await house.acquire(), await house.acquire()
    await house.gate.ledger.end(house.pool, holders[1].job_id, "completed", by="holder", lease_id=holders[1].lease_id)
    release = house.gate.semaphore.release

    async def and_elsewhere_too(pool: str, epoch: int, job_id: str, lease_id: str) -> Any:
        reply = await release(pool, epoch, job_id, lease_id)
        await release(pool, epoch, holders[1].job_id, holders[1].lease_id or "")  # of which this server gets no notice
        return reply

    house.gate.semaphore.release = and_elsewhere_too
    await house.release(holders[0])
    house.gate.semaphore.release = release
    await house.gate.recorder.run(house.pool)
    found = await house.gate.services.ledger.jobs([first.job_id, second.job_id])
    assert [found[job.job_id].status for job in (first, second)] == ["granted", "granted"]


async def test_an_entry_that_another_server_applied_breaks_no_pass(house: House) -> None:
    """The sweep applies what it saw itself, and an entry may be gone by the next pass."""
    epoch = await house.gate.registry.epoch(house.pool)
    unknown = OutboxEntry("1-1", EntryKind.EXPIRED, f"{house.pool}-unknown", 1, 1)
    assert await house.gate.recorder.apply(house.pool, epoch, [unknown]) == {unknown.job_id}
    await house.gate.recorder.run(house.pool)
