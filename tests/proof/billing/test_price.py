"""Whose price: the owner's function is asked for every admission of a configured table, and wins over the body."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.proof.billing.shop import HANGS, RAISES, TABLE, Shop, acquire, fail, look, old
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio
DOORS = ("acquire", "run-or-queue", "enqueue", "check")


def come(served: Served, door: str, job_id: str, table: str = TABLE) -> tuple[int, Any]:
    """By one of the doors, with a user and a price that the owner has never heard of."""
    if door == "acquire":
        answer = served.acquire(job_id=job_id, tool=table, user="eve", credits=999)
    else:
        answer = old(served, door, table=table, jobId=job_id, userId="eve", creditCost=999)
    return answer.status_code, answer.json()


def everything(served: Served, shop: Shop) -> tuple[Any, ...]:
    """What an admission would change."""
    counts = [shop.rows(f"select count(*) from gate.{table}") for table in ("jobs", "ledger", "events", "owed")]
    view = served.http.get("/v1/pools/default").json()
    return counts, [view[name] for name in ("running", "granted", "queued")]


def charged(shop: Shop, job_id: str) -> list[Any]:
    return shop.rows("select \"user\", amount from gate.ledger where job_id = :id and kind = 'charge'", id=job_id)


@pytest.mark.parametrize("door", DOORS)
async def test_every_route_asks_the_owner_whose_answer_wins_over_the_body(served: Served, shop: Shop, door: str) -> None:
    job_id = shop.sells("ana", 7)
    assert come(served, door, job_id)[0] == 200
    job = look(served, job_id)
    assert (job["user"], job["credits"], charged(shop, job_id)) == ("ana", 7, [("ana", 7)])


@pytest.mark.parametrize("door", DOORS)
async def test_without_a_row_of_the_owners_it_is_404_and_nothing_changes(served: Served, shop: Shop, door: str) -> None:
    before, job_id = everything(served, shop), fresh()
    status, said = come(served, door, job_id)
    assert (status, said["code"], shop.asked(job_id)) == (404, "job_unknown", 1)
    assert everything(served, shop) == before


@pytest.mark.parametrize("door", ["acquire", "check"])
async def test_a_table_that_no_configuration_names_is_not_asked(served: Served, shop: Shop, door: str) -> None:
    shop.price_is(RAISES)
    job_id = fresh()
    assert come(served, door, job_id, "unheard_of_jobs")[0] == 200
    assert (look(served, job_id)["user"], charged(shop, job_id)) == ("eve", [("eve", 999)])


@pytest.mark.parametrize("door", ["run-or-queue", "enqueue"])
async def test_an_admission_is_refused_where_no_configuration_names_the_table(served: Served, shop: Shop, door: str) -> None:
    before, job_id = everything(served, shop), fresh()
    status, said = come(served, door, job_id, "unheard_of_jobs")
    assert (status, said["code"], said["success"], said["refunded"]) == (400, "tool_unknown", False, False)
    assert "[tools.unheard_of_jobs]" in said["error"] and shop.asked(job_id) == 0
    assert everything(served, shop) == before
    (logged,) = [
        line for line in (served.folder / "errors.log").read_text().splitlines() if "tool.unknown" in line and door in line
    ]
    assert "unheard_of_jobs" in logged


@pytest.mark.parametrize("door", ["run-or-queue", "enqueue"])
async def test_a_repeat_is_answered_after_the_section_of_its_table_is_gone(served: Served, shop: Shop, door: str) -> None:
    job_id = fresh()
    assert come(served, "acquire", job_id, "removed_jobs")[0] == 200, "as if admitted while its section was there"
    status, said = come(served, door, job_id, "removed_jobs")
    assert (status, said["duplicate"], said["status"]) == (200, True, "running")


async def test_an_early_end_is_refused_where_no_configuration_names_the_table(served: Served, shop: Shop) -> None:
    before, job_id = everything(served, shop), fresh()
    ended = old(served, "finish", table="unheard_of_jobs", jobId=job_id, status="failed")
    assert (ended.status_code, ended.json()["code"], ended.json()["refunded"]) == (404, "tool_unknown", False)
    body = {"p_table_name": "unheard_of_jobs", "p_job_id": job_id}
    cancelled = served.post("/rest/v1/rpc/user_cancel_ai_job", body)
    assert (cancelled.status_code, cancelled.json()["code"]) == (404, "tool_unknown")
    assert "[tools.unheard_of_jobs]" in cancelled.json()["message"]
    assert everything(served, shop) == before


@pytest.mark.parametrize("charge", [False, None])
async def test_where_nothing_was_charged_nothing_is_paid_back(served: Served, shop: Shop, charge: bool | None) -> None:
    job = acquire(served, shop.sells(charged=charge), credits=999)
    assert (job["credits"], charged(shop, job["job_id"])) == (0, [])
    assert fail(served, job)["refund"] is None
    assert (shop.owed(job["job_id"]), shop.booked(job["job_id"])) == ([], [])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("since", ["another price", "no row", "raises", "hangs"])
async def test_a_repeat_is_answered_as_the_first_whatever_the_owner_says_by_now(
    served: Served, shop: Shop, door: str, since: str
) -> None:
    job_id = shop.sells("ana", 7)
    status, first = come(served, door, job_id)
    if since == "another price":
        shop.run(f"update shop.jobs set credits = 8, \"user\" = 'bia' where id = '{job_id}'")
    elif since == "no row":
        shop.run(f"delete from shop.jobs where id = '{job_id}'")
    else:
        shop.price_is(RAISES if since == "raises" else HANGS)
    again = {"acquire": {"replayed": True}, "check": {}}.get(door, {"duplicate": True})
    assert come(served, door, job_id) == (status, first | again)
    job = look(served, job_id)
    assert (job["user"], job["credits"], charged(shop, job_id)) == ("ana", 7, [("ana", 7)])


async def test_two_calls_at_once_between_which_the_price_changed_are_one_job(served: Served, shop: Shop) -> None:
    """Both have asked before either is written down."""
    shop.price_is("update shop.jobs j set credits = j.credits + 1 where j.id = wanted_id; perform pg_sleep(0.5);")
    job_id = shop.sells("ana")
    # The second waits for the first one's row, and has its own price when the first has been written down for long.
    said = await asyncio.gather(*(asyncio.to_thread(come, served, "acquire", job_id) for _ in range(2)))
    assert [status for status, _ in said] == [200, 200], said
    (_, one), (_, other) = said
    assert sorted([one.pop("replayed", False), other.pop("replayed", False)]) == [False, True]
    assert one == other and shop.asked(job_id) == 2
    assert charged(shop, job_id) == [("ana", look(served, job_id)["credits"])]


@pytest.mark.parametrize("door", DOORS)
async def test_a_missing_price_admits_no_job(served: Served, shop: Shop, door: str) -> None:
    job_id = shop.sells()
    before = everything(served, shop)
    shop.price_is(RAISES)
    status, said = come(served, door, job_id)
    assert (status, said["code"]) == (503, "store_down") and "the bank is closed" in str(said)
    assert everything(served, shop) == before
    shop.price_is("")
    assert come(served, door, job_id)[0] == 200


async def test_a_function_that_finds_no_row_by_raising_is_404(served: Served, shop: Shop) -> None:
    """As SELECT INTO STRICT does."""
    shop.price_is("perform j.id from shop.jobs j where j.id = wanted_id; if not found then raise no_data_found; end if;")
    assert come(served, "run-or-queue", fresh())[0] == 404
    assert come(served, "run-or-queue", shop.sells())[0] == 200


async def test_only_so_many_wait_for_a_price_that_hangs_and_the_rest_goes_on(served: Served, shop: Shop) -> None:
    """Those who ask are told so in time; who has to do with no configured table does not notice."""
    shop.price_is(HANGS)
    with ThreadPoolExecutor(6) as callers:
        asking = [callers.submit(come, served, "run-or-queue", shop.sells()) for _ in range(6)]
        await until(lambda: shop.hangs() == 4, "four of them hang in the owner's function")
        began = time.monotonic()
        for _ in range(12):
            job = served.acquire(user="ana").json()
            assert served.act(job, "release", outcome="completed").status_code == 200
            job_id = fresh()
            assert old(served, "check", table="unheard_of_jobs", jobId=job_id, creditCost=3).json()["available"] is True
            assert old(served, "finish", table="unheard_of_jobs", jobId=job_id, status="failed").status_code == 200
            assert time.monotonic() - began < 5
        assert shop.hangs() == 4 and not any(one.done() for one in asking), "all that while it hung"
        assert {one.result(15)[0] for one in asking} == {503}
    await until(lambda: not shop.hangs(), "nothing of it is left when no call waits for it any more", 2)


def test_a_price_that_met_a_conflict_is_asked_again(served: Served, shop: Shop) -> None:
    """`serializable` is the default where the function lives: Postgres wants such a call to be repeated."""
    shop.run("alter sequence shop.calls restart")
    shop.price_is("if nextval('shop.calls') < 3 then raise exception 'conflict' using errcode = '40001'; end if;")
    assert acquire(served, shop.sells())["credits"] == 7
    assert shop.rows("select last_value from shop.calls") == [(3,)]
