"""Calls that wait, and changes that come between two reads."""

from __future__ import annotations

import asyncio

import pytest

from gate.coordination.hang_up import HangUp
from gate.ledger import Change
from gate.model.errors import StoreDown
from gate.model.job import Job, Request
from gate.workers.waiter_poll import WaiterPoll
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def no_look(self: WaiterPoll) -> None:
    """The net below is taken away: the message alone has to do."""


async def test_a_waiter_whose_message_was_lost_is_woken(house: House) -> None:
    """The server that recorded the grant died before it notified others."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    house.gate.recorder._news = House.Mute()
    waiting = asyncio.create_task(house.granted(waiter))
    await house.release(holders[0])
    assert (await asyncio.wait_for(waiting, 5)).status == "granted"


async def test_a_waiter_that_parks_while_its_grant_is_written_does_not_sleep_through_it(house: House, monkeypatch) -> None:
    monkeypatch.setattr(WaiterPoll, "look", no_look)
    for _ in range(30):
        holders = [await house.acquire() for _ in range(3)]
        waiter = await house.acquire()
        waiting = [asyncio.create_task(house.granted(waiter)) for _ in range(3)]
        await house.release(holders[0])
        assert [job.status for job in await asyncio.wait_for(asyncio.gather(*waiting), 5)] == ["granted"] * 3
        for job in (holders[1], holders[2]):
            await house.release(job)
        await house.release(await house.granted(waiter))


async def test_a_grant_that_is_told_before_its_admission_is_heard_of_is_not_slept_through(house: House, monkeypatch) -> None:
    """The commit of an admission is there, and the slot goes to it, before the call that asked hears of that commit."""
    monkeypatch.setattr(WaiterPoll, "look", no_look)
    holders = [await house.acquire() for _ in range(3)]
    admit = house.gate.ledger.admit

    async def slowly_heard_of(*args: object, **facts: object) -> Change:
        admitted = await admit(*args, **facts)
        await house.release(holders[0])
        assert await house.granted(admitted.job)
        return admitted

    house.gate.ledger.admit = slowly_heard_of
    job = await asyncio.wait_for(house.acquire(wait_s=30), 10)
    assert (job.status, job.lease is not None) == ("granted", True)


async def test_what_was_shown_before_a_job_was_read_is_not_taken_for_news(house: House) -> None:
    """The job was granted and refused again. The notice of the grant comes during the read, and the waiting call ignores it."""
    holders = [await house.acquire() for _ in range(3)]
    waiter = await house.acquire()
    await house.release(holders[0])
    granted = await house.granted(waiter)
    await house.keeper.release(house.pool, waiter.job_id, granted.lease_id or "", "refused")
    view, read = house.gate.services.queries, house.gate.services.queries.job

    async def meanwhile(pool: str, job_id: str) -> Job:
        job = await read(pool, job_id)
        view.waiters.show(granted)
        view.job = read
        return job

    view.job = meanwhile
    assert (await view.wait(house.pool, waiter.job_id, "queued", 0.3)).status == "queued"


def unnamed(house: House, hang_up: HangUp, job_id: str, wait_s: float = 0) -> asyncio.Task[Job]:
    """Acquire a job whose id only this call knows."""
    request = Request(job_id, unnamed=True)
    return asyncio.create_task(house.gate.services.admission.acquire(house.pool, request, wait_s, hang_up=hang_up))


def gone(job: Job) -> bool:
    return (job.status, job.ended_by, job.end_reason) == ("cancelled", "caller", "caller_gone")


async def test_a_caller_that_hangs_up_while_its_grant_is_on_its_way_leaves_no_slot_held(house: House) -> None:
    """SQL has the grant, and the caller disconnects in the moment in which it would be told of it."""
    holders, hang_up = [await house.acquire() for _ in range(3)], HangUp()
    waiting = unnamed(house, hang_up, "unheard-of", 30)
    await until(lambda: house.people.llen(house.key("queue")), "it waits")
    house.gate.waiters.show = lambda job: (hang_up.happen(), type(house.gate.waiters).show(house.gate.waiters, job))
    await house.release(holders[0])
    assert gone(await asyncio.wait_for(waiting, 5))
    assert (await house.acquire()).status == "running"


async def test_a_caller_that_hangs_up_while_its_slot_is_written_leaves_no_slot_held(house: House) -> None:
    admit, hang_up = house.gate.ledger.admit, HangUp()

    async def without_a_caller(*args: object, **facts: object) -> Change:
        hang_up.happen()
        return await admit(*args, **facts)

    house.gate.ledger.admit = without_a_caller
    assert gone(await asyncio.wait_for(unnamed(house, hang_up, "unheard-of"), 5))
    assert house.people.zcard(house.key("slots")) == 0


async def test_an_unnamed_job_whose_answer_fails_is_taken_out_of_the_line(house: House) -> None:
    """Its admission is committed, its call is answered 503, and no other caller knows its id."""
    for _ in range(3):
        await house.acquire()

    async def away(job: Job) -> Job:
        raise StoreDown("redis", "Redis does not answer")

    house.gate.services.queries.placed = away
    with pytest.raises(StoreDown):
        await unnamed(house, HangUp(), "unheard-of")
    assert house.people.llen(house.key("queue")) == 0
