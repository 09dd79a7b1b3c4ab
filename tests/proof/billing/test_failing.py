"""The owner's function raises, or worse: what is owed stays owed and seen, is asked again more and more rarely, and is paid once."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gate.diagnostics.verify import verify
from tests.proof.billing.shop import HANGS, RAISES, Shop, acquire, fail
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def due_in_s(shop: Shop, job_id: str) -> float:
    return shop.rows("select due_at from gate.owed where job_id = :id", id=job_id)[0][0] / 1000 - time.time()


async def test_a_function_that_raises_is_asked_more_and_more_rarely(served: Served, shop: Shop) -> None:
    shop.refund_is(RAISES)
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    for attempt, wait_s in ((1, 1), (2, 2), (3, 4), (4, 8)):
        await until(lambda attempt=attempt: shop.owed(job_id)[0][1] == attempt, f"attempt {attempt}")
        assert wait_s / 2 < due_in_s(shop, job_id) + 0.4 <= wait_s + 0.4
        if attempt > 1:  # the first comes by itself
            shop.hurry()
    shop.run(f"update gate.owed set attempts = 60, due_at = 0 where job_id = '{job_id}'")
    await until(lambda: shop.owed(job_id)[0][1] == 61, "one more attempt")
    assert 200 < due_in_s(shop, job_id) <= 300, "and never more rarely than every five minutes"
    shop.refund_is("")
    shop.hurry()
    await until(lambda: shop.booked(job_id), "it is paid")
    assert (shop.paid(job_id), shop.owed(job_id)) == ([7], [])


async def test_a_refund_is_due_at_once_when_the_clock_was_set_back_since_it_was_put_off(served: Served, shop: Shop) -> None:
    shop.refund_is(RAISES)
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.owed(job_id)[0][1], "the function has been asked")
    shop.refund_is("")
    shop.run(f"update gate.owed set due_at = due_at + 3600000 where job_id = '{job_id}'")
    await until(lambda: shop.booked(job_id), "it is paid, and not in an hour")


async def test_a_session_whose_server_takes_no_writes_any_more_is_left_and_the_refund_is_paid_on_another(
    served: Served, shop: Shop
) -> None:
    """A former primary: the function makes one of its session."""
    first, second = (acquire(served, shop.sells()) for _ in range(2))
    shop.refund_is("perform set_config('default_transaction_read_only', 'on', false);")
    fail(served, first)
    await until(lambda: shop.booked(first["job_id"]), "the session is read-only from now on")
    shop.refund_is("")
    fail(served, second)
    await until(lambda: shop.booked(second["job_id"]), "it is paid")


async def test_a_refund_that_is_not_paid_is_seen_in_status_and_panel_and_alarmed(served: Served, shop: Shop) -> None:
    shop.refund_is("raise exception '%', 'closed for ' || job;")
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.owed(job_id)[0][1], "the function has been asked")
    said = run_gate("status", cwd=served.folder, GATE_DATABASE_URL=shop.url).stdout
    assert "1 refunds owed, 7 credits" in said and f"closed for {job_id}" in said
    told = json.loads(run_gate("status", "--json", cwd=served.folder, GATE_DATABASE_URL=shop.url).stdout)["owed"]
    assert (told["count"], told["credits"], told["error"]) == (1, 7, f"closed for {job_id}")
    page = served.http.get("/pools/default", headers={"accept": "text/html"}).text
    assert "has not paid: 1, of 7 credits" in page and f"closed for {job_id}" in page.split('data-alert="owed"')[1][:400]
    alarms = [line for line in (served.folder / "errors.log").read_text().splitlines() if job_id in line]
    assert alarms and all("error" in line.split("]")[0] and "refund_payer.payment_failed" in line for line in alarms), alarms
    shop.refund_is("")
    shop.hurry()
    await until(lambda: shop.booked(job_id), "it is paid")
    assert (
        json.loads(run_gate("status", "--json", cwd=served.folder, GATE_DATABASE_URL=shop.url).stdout)["owed"]["count"] == 0
    )


DEFERRED = """
create function shop.refuse() returns trigger language plpgsql as $$ begin
    if new."user" like 'bad%' then raise exception 'no such account'; end if; return null;
end $$;
create constraint trigger known after insert on shop.paid deferrable initially deferred for each row execute function shop.refuse();
"""
WORSE = {
    "raises": "if who like 'bad%' then raise exception 'no such account'; end if;",
    "breaks its connection": "if who like 'bad%' then perform pg_terminate_backend(pg_backend_pid()); end if;",
    "hangs": f"if who like 'bad%' then {HANGS} end if;",
    "leaves it to the commit": "",
}


@pytest.mark.parametrize("how", WORSE)
async def test_one_that_cannot_be_paid_keeps_no_other_from_it(served: Served, shop: Shop, how: str) -> None:
    if how == "leaves it to the commit":
        shop.run(DEFERRED)
    shop.refund_is(WORSE[how])
    bad = fail(served, acquire(served, shop.sells(fresh("bad"))))["job_id"]
    good = [fail(served, acquire(served, shop.sells(fresh("good"))))["job_id"] for _ in range(3)]
    await until(lambda: all(shop.booked(job_id) for job_id in good), "those behind it are paid")
    await until(lambda: shop.owed(bad)[0][1] and shop.owed(bad)[0][2], "it is put off, and says why")
    assert shop.booked(bad) == [] and [shop.paid(job_id) for job_id in good] == [[7]] * 3
    assert not verify(served.sql_url, served.redis_url).breaches
    shop.run("drop trigger if exists known on shop.paid")
    shop.refund_is("")
    await until(lambda: shop.hurry() or shop.booked(bad), "it is paid")
    assert (shop.paid(bad), shop.owed(bad)) == ([7], [])


async def test_two_hundred_that_fail_half_the_time_are_each_paid_once(served: Served, shop: Shop) -> None:
    shop.refund_is("if random() < 0.5 then raise exception 'not now'; end if;")
    user = fresh("u")
    prices = {shop.sells(user, credits): credits for credits in range(1, 201)}
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda job_id: fail(served, acquire(served, job_id)), prices))
    assert not verify(served.sql_url, served.redis_url).breaches, "while some are owed"
    still = 'select 1 from gate.owed where "user" = :user'
    await until(lambda: shop.hurry() or not shop.rows(still, user=user), "nothing is owed any more", 60)
    paid = shop.rows('select job_id, amount from shop.paid where "user" = :user', user=user)
    booked = shop.rows("select job_id, amount from gate.ledger where kind = 'refund' and \"user\" = :user", user=user)
    assert sorted(paid) == sorted(booked) == sorted(prices.items())
    assert served.http.get(f"/v1/ledger/balances/{user}").json()["net"] == 0
    assert not verify(served.sql_url, served.redis_url).breaches
