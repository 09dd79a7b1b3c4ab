"""Ends that come before their admission: the charge goes back once, whichever of the two is first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from tests.proof.billing.shop import TABLE, Shop, acquire, fail, look, old
from tests.support.gate_process import Served, run_gate
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def cancel(served: Served, job_id: str) -> Any:
    return served.post("/rest/v1/rpc/user_cancel_ai_job", {"p_table_name": TABLE, "p_job_id": job_id})


async def settled(shop: Shop, job_id: str, paid: list[int]) -> None:
    await until(lambda: shop.paid(job_id) == paid == shop.booked(job_id) and not shop.owed(job_id), "its refund is paid once")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_finish_before_the_admission_gives_the_charge_back_once(served: Served, shop: Shop, status: str) -> None:
    job_id = shop.sells("ana", 60)
    said = old(served, "finish", table=TABLE, jobId=job_id, status=status, errorMessage="upload failed")
    assert (said.status_code, said.json()) == (200, {"success": True, "refundedAmount": 60})
    late = old(served, "run-or-queue", table=TABLE, jobId=job_id)
    assert late.status_code == 400 and (late.json()["success"], late.json()["refunded"]) == (False, True)
    again = old(served, "finish", table=TABLE, jobId=job_id, status=status).json()
    assert again == {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": 60}
    job = look(served, job_id)
    assert (job["status"], job["user"], job["credits"], job["lease"]) == (status, "ana", 60, None)
    assert "upload failed" in (job["error"], job["end_reason"])
    assert ", by its caller" in run_gate("explain", job_id, cwd=served.folder, GATE_DATABASE_URL=shop.url).stdout
    await settled(shop, job_id, [60])
    assert verify(served.sql_url, served.redis_url).breaches == []


async def test_a_cancel_before_the_admission_gives_the_charge_back_once(served: Served, shop: Shop) -> None:
    job_id = shop.sells("ana", 60)
    (said,) = cancel(served, job_id).json()
    assert said == {"success": True, "refunded_amount": 60, "error_message": None}
    assert cancel(served, job_id).json() == [said], "a repeat is told the same"
    await settled(shop, job_id, [60])


async def test_an_end_of_an_unknown_job_is_404_and_writes_nothing(served: Served, shop: Shop) -> None:
    before = shop.rows("select count(*) from gate.jobs")
    assert old(served, "finish", table=TABLE, jobId="0-nobody", status="failed").status_code == 404
    assert cancel(served, "0-nobody").status_code == 404
    assert old(served, "finish", table=TABLE, jobId=shop.sells(), status="completed").status_code == 404, (
        "it was never admitted"
    )
    assert shop.rows("select count(*) from gate.jobs") == before


async def test_an_end_for_want_of_admission_leaves_an_admitted_job_alone(served: Served, shop: Shop) -> None:
    job = acquire(served, shop.sells())
    body = {"table": TABLE, "jobId": job["job_id"], "status": "failed", "notAdmitted": True}
    assert old(served, "finish", **body).json() == {"success": True, "skipped": True, "reason": "admitted"}
    assert look(served, job["job_id"])["status"] == "running"
    assert fail(served, job)["refund"]["amount"] == 7
    assert old(served, "finish", **body).json()["reason"] == "already_terminal"


async def test_an_end_and_an_admission_at_once_settle_the_charge_once(served: Served, shop: Shop) -> None:
    ways = (
        lambda job_id: old(served, "run-or-queue", table=TABLE, jobId=job_id),
        lambda job_id: old(served, "finish", table=TABLE, jobId=job_id, status="failed"),
        lambda job_id: cancel(served, job_id),
    )
    jobs = [shop.sells("ana", 60) for _ in range(40)]
    with ThreadPoolExecutor(3) as three:
        for number, job_id in enumerate(jobs):
            order = ways[number % 3 :] + ways[: number % 3]
            answers = [one.result() for one in [three.submit(way, job_id) for way in order]]
            assert all(answer.status_code in (200, 400) for answer in answers), [answer.text for answer in answers]
    for job_id in jobs:
        assert look(served, job_id)["status"] in ("failed", "cancelled")
        await settled(shop, job_id, [60])
    view = served.http.get("/v1/pools/default").json()
    assert not {one["job_id"] for one in view["holders"] + view["queue"]} & set(jobs)
    assert verify(served.sql_url, served.redis_url).breaches == []


@pytest.mark.parametrize(
    "row, body, price",
    [(60, None, 60), (60, 40, 60), (None, 40, 40), (None, None, 0)],
    ids=["row", "both", "body", "neither"],
)
async def test_the_price_is_the_rows_then_the_bodys(
    served: Served, shop: Shop, row: int | None, body: int | None, price: int
) -> None:
    job_id = shop.sells("ana", row, charged=row is not None)
    named = {} if body is None else {"creditCost": body}
    assert old(served, "enqueue", table=TABLE, jobId=job_id, **named).status_code == 200
    assert look(served, job_id)["credits"] == price
    said = old(served, "finish", table=TABLE, jobId=job_id, status="failed").json()
    assert said == {"success": True, "refundedAmount": price}


@pytest.fixture
def row_with_more(served: Served, shop: Shop) -> Iterator[None]:
    """The owner's function answers two further columns."""
    shop.run("drop function shop.price(text, text)")
    shop.run("""create function shop.price(wanted_table text, wanted_id text)
        returns table ("user" text, credits bigint, charged boolean, session text, payload jsonb) language sql as $$
        select j."user", j.credits, j.charged, 'tab-' || j.id, '{"webappId": "19", "nodeInfoList": [{"nodeId": "9"}]}'::jsonb
        from shop.jobs j where j.id = wanted_id $$""")
    yield
    shop.run("drop function shop.price(text, text)")


@pytest.mark.usefixtures("row_with_more")
async def test_the_row_names_session_and_payload_when_the_caller_names_none(served: Served, shop: Shop) -> None:
    job_id = shop.sells("ana", 5)
    assert old(served, "run-or-queue", table=TABLE, jobId=job_id, webappId="20").status_code == 200
    job = look(served, job_id)
    assert (job["session"], job["payload"]) == (f"tab-{job_id}", {"webappId": "20", "nodeInfoList": [{"nodeId": "9"}]})
    repeat = old(served, "run-or-queue", table=TABLE, jobId=job_id, webappId="20")
    assert repeat.status_code == 200 and repeat.json()["duplicate"] is True
    served.http.put("/v1/pools/default", json={"limit": 0})
    try:
        waits = shop.sells("bia", 5)
        assert old(served, "run-or-queue", table=TABLE, jobId=waits).json()["queued"] is True
        said = old(served, "cancel-session", sessionId=f"tab-{waits}").json()
        assert said["cancelledJobs"] == [{"table": TABLE, "id": waits}], "a closed tab's waiting job is cancelled"
    finally:
        served.http.put("/v1/pools/default", json={"limit": 500})
    await settled(shop, waits, [5])
