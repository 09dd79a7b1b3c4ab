"""The account that a grant takes, and the room that the provider and strangers leave to a pool."""

from __future__ import annotations

from typing import Any

import pytest

from gate.ledger import Capacity, Deliveries
from gate.ledger.sql import tables
from gate.model.account import Account, Accounts
from gate.model.messages import Answer, AnswerState, Room
from gate.model.tool import Tool, Tools
from tests.support.ledger_book import NOW, Book, lease
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio
MINUTE = 60_000


def account(name: str, limit: int | None = 3, **more: Any) -> Account:
    return Account("acme", name, "default", "a key", "http://acme", limit=limit, **more)


FIRST, SECOND = account("first"), account("second")


async def configured(book: Book, *accounts: Account, limit: int = 6) -> Capacity:
    wanted = {"default": settings_of(limit=limit), "other": settings_of(limit=1)}
    await book.ledger.configure(wanted, Accounts(accounts))
    return Capacity(book.database)


async def start(book: Book, fence: int) -> str | None:
    """Run a job with a task. Return its account."""
    job = await book.running(f"j{fence}", fence, ticket=fence)
    known = Accounts([FIRST, SECOND])
    await book.ledger.bind("default", job.job_id, "acme", f"task-{fence}", job.lease_id or "", accounts=known)
    return job.account


async def row(book: Book, name: str = "first") -> dict[str, Any]:
    return next(one for one in await book.rows(tables.accounts) if one["name"] == name)


async def in_force(book: Book) -> int:
    return next(one for one in await book.reading.pools() if one.name == "default").limit_in_force


async def test_a_grant_takes_the_account_with_the_fewest_tasks(book: Book) -> None:
    await configured(book, FIRST, SECOND)
    assert [await start(book, fence) for fence in range(1, 5)] == ["first", "second", "first", "second"]
    await book.ledger.end("default", "j1", "completed", by="holder")
    assert await start(book, 5) == "first"


async def test_a_waiter_that_is_granted_takes_an_account_too(book: Book) -> None:
    await configured(book, FIRST, SECOND)
    assert [(await book.granted(f"g{fence}", fence, ticket=fence)).account for fence in (1, 2)] == ["first", "second"]


async def test_a_task_that_is_being_stopped_counts_until_its_drain_is_over(book: Book) -> None:
    drains = account("first", drain_ms=30_000), account("second", drain_ms=30_000)
    await configured(book, *drains)
    assert [await start(book, fence) for fence in (1, 2)] == ["first", "second"]
    await book.ledger.end("default", "j1", "cancelled", by="operator")
    book.clock(NOW + 29_999)
    assert await start(book, 3) == "second"
    await book.ledger.end("default", "j3", "completed", by="holder")
    book.clock(NOW + 30_000)
    assert await start(book, 4) == "first"


UPSCALER = Tools({"upscaler": Tool("upscaler", "Upscaler", "acme")})


async def test_a_start_that_was_unanswered_at_the_end_of_its_job_counts_until_its_drain_is_over(book: Book) -> None:
    drains = account("first", drain_ms=30_000), account("second", drain_ms=30_000)
    await configured(book, *drains)
    job = await book.granted("g", 1, ticket=1, tool="upscaler", starts=True)
    await Deliveries(book.database, "me").take({"start": 60_000}, {("upscaler", "start"): 1})
    known = Accounts(drains)
    await book.ledger.end("default", "g", "cancelled", by="operator", accounts=known, tools=UPSCALER)
    assert (job.account, (await book.job("g")).provider) == ("first", "acme")
    assert await start(book, 2) == "second"
    await book.ledger.end("default", "j2", "completed", by="holder")
    book.clock(NOW + 30_000)
    assert await start(book, 3) == "first"


async def test_a_start_that_was_not_made_yet_is_closed_with_the_end_of_its_job(book: Book) -> None:
    await configured(book, FIRST, SECOND)
    await book.granted("g", 1, ticket=1, tool="upscaler", starts=True)
    await book.ledger.end("default", "g", "cancelled", by="operator", accounts=Accounts([FIRST]), tools=UPSCALER)
    assert (await book.job("g")).provider is None
    assert [one["result"] for one in await book.rows(tables.deliveries)] == ["over"]


async def test_a_task_counts_for_the_account_that_its_tool_names(book: Book) -> None:
    await configured(book, account("first", 1), account("second", 1), limit=2)
    job = await book.running("j1", 1, ticket=1)
    known = Accounts([FIRST, SECOND])
    assert job.account == "first"
    named = await book.ledger.bind("default", "j1", "acme", "t", job.lease_id or "", "second", known)
    assert named.job is not None and named.job.account == "second"
    assert await start(book, 2) == "first"


async def test_a_binding_that_is_repeated_with_another_account_moves_the_task_there(book: Book) -> None:
    await configured(book, FIRST, SECOND)
    assert await start(book, 1) == "first"
    again = await book.ledger.bind("default", "j1", "acme", "task-1", "lease-1", "second", Accounts([FIRST, SECOND]))
    assert (again.result, (await book.job("j1")).account) == ("repeat", "second")
    assert [one["account"] for one in await book.rows(tables.tasks)] == ["second"]


async def test_of_two_equal_accounts_the_one_that_owes_fewer_stops_is_taken(book: Book) -> None:
    await configured(book, account("first", drain_ms=0), account("second", drain_ms=0))
    assert await start(book, 1) == "first"
    await book.ledger.end("default", "j1", "cancelled", by="operator")
    assert await start(book, 2) == "second"


async def test_no_grant_is_recorded_without_an_account_that_has_room(book: Book) -> None:
    await configured(book, account("first", 1), account("second", 1), limit=2)
    await start(book, 1)
    await book.ledger.end("default", "j1", "cancelled", by="operator")
    assert await start(book, 2) == "second"
    assert (await book.admit("j3", lease(3), ticket=3)).result == "no_room"


async def test_the_room_falls_when_a_second_count_confirms_it_and_rises_at_once(book: Book) -> None:
    capacity = await configured(book, FIRST, limit=3)
    await capacity.counted(FIRST, Room(3, 2))
    assert (await in_force(book), (await row(book))["strangers"]) == (3, 2)
    book.clock(NOW + 4_999)
    await capacity.counted(FIRST, Room(3, 2))
    assert await in_force(book) == 3
    book.clock(NOW + 5_000)
    await capacity.counted(FIRST, Room(3, 1))
    assert await in_force(book) == 2, "the larger one of the two"
    await capacity.counted(FIRST, Room(3, 0))
    assert await in_force(book) == 3
    book.clock(NOW + 20_000)
    await capacity.counted(FIRST, Room(3, 2))
    assert await in_force(book) == 3, "a count between them was not lower"


async def test_tasks_of_gate_and_those_that_it_stops_are_no_strangers(book: Book) -> None:
    capacity = await configured(book, FIRST, limit=3)
    for fence in (1, 2):
        await start(book, fence)
    await book.ledger.end("default", "j1", "cancelled", by="operator")
    await capacity.counted(FIRST, Room(3, 2))
    assert (await row(book))["strangers"] == 0


async def fall(book: Book, capacity: Capacity, found: Room, at: int = NOW) -> None:
    for ms in (at, at + 5_000):
        book.clock(ms)
        await capacity.counted(FIRST, found)


async def test_a_count_alone_leaves_room_for_one_and_a_refusal_takes_it_too(book: Book) -> None:
    capacity = await configured(book, FIRST, limit=3)
    await fall(book, capacity, Room(3, 50))
    assert await in_force(book) == 1
    job = await book.running("a", 1)
    await book.ledger.refuse("default", "a", job.lease_id or "", "holder")
    await fall(book, capacity, Room(3, 50), NOW + 10_000)
    assert await in_force(book) == 0
    await fall(book, capacity, Room(3, 50), NOW + 10_000 + 2 * MINUTE)
    assert await in_force(book) == 1, "the refusal is too old"


async def test_a_count_is_forgotten_after_three_minutes(book: Book) -> None:
    capacity = await configured(book, FIRST, limit=3)
    await fall(book, capacity, Room(3, 2))
    assert await in_force(book) == 1
    book.clock(NOW + 5_000 + 3 * MINUTE)
    await capacity.settle("default")
    assert await in_force(book) == 1
    book.clock(NOW + 5_001 + 3 * MINUTE)
    await capacity.settle("default")
    assert await in_force(book) == 3


async def test_the_limit_of_the_provider_bounds_the_pool_at_once(book: Book) -> None:
    capacity = await configured(book, account("first", None), limit=6)
    await capacity.counted(account("first", None), Room(4, 0))
    assert await in_force(book) == 4
    said = [(one["kind"], one["why"]) for one in await book.rows(tables.events) if one["kind"] == "capacity"]
    assert said == [("capacity", "limit in force 4 of 6 (the provider allows first 4)")]


async def test_what_is_only_watched_bounds_nothing(book: Book) -> None:
    watched = account("first", 3, capacity="watch")
    capacity = await configured(book, watched, limit=3)
    for ms in (NOW, NOW + 5_000):
        book.clock(ms)
        await capacity.counted(watched, Room(1, 1))
    assert await in_force(book) == 3 and (await row(book))["strangers"] == 1


async def test_a_key_that_is_refused_takes_its_account_down_until_a_count_comes(book: Book) -> None:
    capacity = await configured(book, FIRST, SECOND)
    await start(book, 1)
    await capacity.counted(FIRST, Answer(AnswerState.BAD_KEY, "code 802"))
    assert await in_force(book) == 4, "its task goes on, and takes no slot from the other account"
    assert [await start(book, fence) for fence in (2, 3)] == ["second", "second"]
    found = await capacity.look(["default"])
    assert found.short == {"default": "account_down"}
    await capacity.counted(FIRST, Room(3, 1))
    assert await in_force(book) == 6


async def test_a_refusal_cools_its_account_and_the_last_open_one_cools_its_pool(book: Book) -> None:
    capacity = await configured(book, FIRST, SECOND)
    results = []
    for fence in (1, 2):
        job = await book.running(f"j{fence}", fence, ticket=fence)
        results.append((await book.ledger.refuse("default", job.job_id, job.lease_id or "", "holder")).result)
    assert results == ["account_refused", "refused"]
    book.clock(NOW + settings_of().cooldown_ms)
    await capacity.settle("default")
    assert await in_force(book) == 6


async def test_an_account_does_not_cool_down_for_a_step_of_the_clock(book: Book) -> None:
    capacity = await configured(book, FIRST, SECOND)
    job = await book.running("j1", 1)
    await book.ledger.refuse("default", "j1", job.lease_id or "", "holder")
    await capacity.settle("default")
    assert await in_force(book) == 3
    book.clock(NOW - 3_600_000)
    await capacity.settle("default")
    assert await in_force(book) == 6


async def test_an_account_is_looked_at_after_the_clock_went_back(book: Book) -> None:
    capacity = await configured(book, FIRST)
    assert await capacity.take("acme", "first") and not await capacity.take("acme", "first")
    book.clock(NOW - 3_600_000)
    assert (await capacity.look(["default"])).due == [("acme", "first")] and await capacity.take("acme", "first")


async def test_an_account_that_a_tool_calls_down_gets_no_job(book: Book) -> None:
    await configured(book, FIRST, SECOND)
    job = await book.running("j1", 1)
    refused = await book.ledger.refuse("default", "j1", job.lease_id or "", "tool", "no money", account_down=True)
    assert refused.result == "account_refused" and refused.job is not None and refused.job.refusals == 0
    assert [await start(book, fence) for fence in (2, 3)] == ["second", "second"]
    assert (await row(book))["why"] == "no money"


async def test_one_server_looks_at_an_account(book: Book) -> None:
    capacity = await configured(book, FIRST)
    assert (await capacity.look(["default"])).due == [("acme", "first")]
    assert [await capacity.take("acme", "first") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("waits", "next_ms"), [(False, MINUTE), (True, 10_000)])
async def test_it_looks_again_after_a_minute_or_sooner_while_jobs_wait(book: Book, waits: bool, next_ms: int) -> None:
    capacity = await configured(book, FIRST, limit=3)
    if waits:
        await book.queued("w")
    await capacity.counted(FIRST, Room(3, 0))
    assert (await row(book))["look_at"] == NOW + next_ms


async def test_in_a_pool_with_two_providers_no_grant_chooses(book: Book) -> None:
    other = Account("other", "second", "default", "a key", "http://other", limit=1)
    await configured(book, FIRST, other)
    assert (await book.running("a", 1)).account is None and await in_force(book) == 6


async def test_accounts_that_are_no_longer_configured_bound_nothing(book: Book) -> None:
    await configured(book, account("first", 1))
    assert await in_force(book) == 1
    await configured(book)
    assert await in_force(book) == 6 and (await book.running("a", 1)).account is None
