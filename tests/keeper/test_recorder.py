"""The recorder: a page is good for a moment, and only so often read again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from gate.keeper.recorder import LATE_MAX, PAGE_IS_GOOD_S
from gate.ledger import Recorded
from tests.support import House

pytestmark = pytest.mark.anyio


async def test_a_page_that_is_late_is_read_again_and_at_last_recorded_whatever_the_time(house: House) -> None:
    """A slow SQL must not stop everything."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    record = house.gate.ledger.record
    left: list[float | None] = []

    async def late(pool: str, epoch: int, notes: Any, good_until: float | None = None) -> Recorded:
        left.append(None if good_until is None else good_until - time.monotonic())
        return Recorded(late=True) if good_until is not None else await record(pool, epoch, notes)

    house.gate.ledger.record = late
    await house.release(holders[0])
    assert (await house.granted(waiter)).status == "granted"
    house.gate.ledger.record = record
    *first, last = left
    assert len(first) == LATE_MAX and last is None
    assert all(one is not None and PAGE_IS_GOOD_S - 0.1 < one <= PAGE_IS_GOOD_S for one in first)


async def test_what_stays_in_the_outbox_keeps_nothing_behind_it_from_sql(house: House) -> None:
    """The entries of a job that SQL does not know yet fill the first page, and stay."""
    epoch = await house.gate.known.epoch(house.pool)
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
    assert [(one["pool"], one["entry"]) for one in said if "thrown away" in one["event"]] == [(house.pool, entry)]
