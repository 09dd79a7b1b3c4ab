"""What is owed and paid: the outcome commits with the refund owed, and the owner's function pays it with the ledger's row."""

from __future__ import annotations

from typing import Any

import pytest

from gate.diagnostics.verify import verify
from tests.proof.billing.shop import RAISES, TABLE, Shop, acquire, fail, look, old
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def balance(served: Served, user: str) -> tuple[int, int]:
    told = served.http.get(f"/v1/ledger/balances/{user}").json()
    return told["charged"], told["refunded"]


def clean(served: Served) -> bool:
    report = verify(served.sql_url, served.redis_url)
    assert not report.breaches, report.breaches
    return True


async def test_an_outcome_is_told_with_the_refund_owed_and_the_balance_counts_it_when_it_is_paid(
    served: Served, shop: Shop
) -> None:
    user = fresh("u")
    shop.refund_is(RAISES)
    job = fail(served, acquire(served, shop.sells(user)))
    job_id = job["job_id"]
    assert job["refund"] == {"amount": 7, "at": None, "owed": True}
    await until(lambda: shop.owed(job_id)[0][1], "the function has been asked")
    assert (shop.paid(job_id), shop.booked(job_id), balance(served, user)) == ([], [], (7, 0)), (
        "neither the one nor the other"
    )
    assert clean(served)
    shop.refund_is("")
    shop.hurry()
    refund = await until(lambda: (r := look(served, job_id)["refund"]) and not r["owed"] and r, "it is paid")
    assert refund["amount"] == 7 and refund["at"] is not None
    row = (user, 7, f"gate: refund of job {job_id}", job_id)
    assert shop.rows("select * from shop.paid where job_id = :id", id=job_id) == [row]
    assert (shop.booked(job_id), shop.owed(job_id), balance(served, user)) == ([7], [], (7, 7))
    assert clean(served)


@pytest.mark.parametrize("outcome, back", [("failed", [7]), ("cancelled", [7]), ("expired", [7]), ("completed", [])])
async def test_the_outcome_decides_what_is_paid_and_once(served: Served, shop: Shop, outcome: str, back: list[int]) -> None:
    job_id = shop.sells()
    job = acquire(served, job_id, **({"lease_seconds": 0.5} if outcome == "expired" else {}))
    for _ in range(2):
        if outcome != "expired":
            assert served.act(job, "release", outcome=outcome).status_code == 200
    await until(lambda: look(served, job_id)["status"] == outcome, outcome)
    await until(lambda: not shop.owed(job_id), "nothing is owed any more")
    assert (shop.paid(job_id), shop.booked(job_id)) == (back, back)


async def test_a_user_that_the_owner_does_not_name_is_null_to_the_function(served: Served, shop: Shop) -> None:
    job_id = shop.sells(user=None)
    fail(served, acquire(served, job_id))
    await until(lambda: shop.paid(job_id), "it is paid")
    assert shop.rows('select "user" from shop.paid where job_id = :id', id=job_id) == [(None,)]


async def test_old_front_ends_are_told_the_amount_that_is_owed(served: Served, shop: Shop) -> None:
    shop.refund_is(RAISES)
    finished, cancelled = shop.sells(), shop.sells()
    for job_id in (finished, cancelled):
        assert old(served, "run-or-queue", table=TABLE, jobId=job_id).status_code == 200
    told = old(served, "finish", table=TABLE, jobId=finished, status="failed").json()
    assert told == {"success": True, "refundedAmount": 7}
    told = served.post("/rest/v1/rpc/user_cancel_ai_job", {"p_table_name": TABLE, "p_job_id": cancelled}).json()
    assert told == [{"success": True, "refunded_amount": 7, "error_message": None}]


@pytest.mark.parametrize("table", [None, "unheard_of_jobs"])
async def test_without_a_key_only_priced_jobs_are_paid_by_the_owner(served: Served, shop: Shop, table: Any) -> None:
    """Any caller on this machine could name any user and any credits."""
    job_id = fresh()
    fail(served, served.acquire(job_id=job_id, tool=table, user="eve", credits=999).json())
    assert look(served, job_id)["refund"]["owed"] is False, "the ledger's own, at once"
    assert (shop.booked(job_id), shop.owed(job_id), shop.paid(job_id)) == ([999], [], [])


@pytest.mark.parametrize("wrong", ["amount = 6", "job_id = '{other}'"])
async def test_verify_finds_an_owed_refund_that_is_not_the_charge(served: Served, shop: Shop, wrong: str) -> None:
    shop.refund_is(RAISES)
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    other = acquire(served, shop.sells())["job_id"]
    await until(lambda: shop.owed(job_id)[0][1], "the function has been asked")
    # Its time is put off, so that no worker writes to the row meanwhile.
    shop.run(
        f"update gate.owed set due_at = extract(epoch from now()) * 1000 + 200000, {wrong.format(other=other)} where job_id = '{job_id}'"
    )
    found = {(breach.invariant, breach.about) for breach in verify(served.sql_url, served.redis_url).breaches}
    assert found == {("I2", job_id)} | ({("I2", other)} if "job_id" in wrong else set())
    shop.run(f"update gate.owed set due_at = 0, amount = 7, job_id = '{job_id}' where job_id in ('{job_id}', '{other}')")
    shop.refund_is("")
    await until(lambda: shop.booked(job_id), "it is paid")
    assert clean(served)


async def test_verify_finds_what_is_owed_and_refunded(served: Served, shop: Shop) -> None:
    """The owner does not pay it either: the payment and the ledger's unique row commit together."""
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.booked(job_id), "it is paid")
    shop.run(f"insert into gate.owed values ('{job_id}', 'ana', 'default', 7, 0, 0, 0)")
    await until(lambda: "ledger_once" in (shop.owed(job_id)[0][2] or ""), "the function has been asked once more")
    found = {(breach.invariant, breach.about) for breach in verify(served.sql_url, served.redis_url).breaches}
    assert found == {("I2", job_id)}
    assert (shop.paid(job_id), shop.booked(job_id)) == ([7], [7])
    shop.run(f"delete from gate.owed where job_id = '{job_id}'")
    assert clean(served)
