"""The owner's function hangs, or is slow: other calls do not wait for it, and gate stops in time."""

from __future__ import annotations

import time

import pytest

from gate.diagnostics.verify import verify
from tests.proof.billing.shop import HANGS, Shop, acquire, fail
from tests.support.gate_process import Served
from tests.support.wait import until

pytestmark = pytest.mark.anyio


async def test_while_a_refund_hangs_other_calls_are_served(served: Served, shop: Shop) -> None:
    """Their jobs are priced by the owner too, and theirs are owed as well."""
    shop.refund_is(HANGS)
    hanging = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.hangs() == 1, "it hangs")
    ids = [shop.sells() for _ in range(50)]
    began = time.monotonic()
    for number, job_id in enumerate(ids):
        job = acquire(served, job_id)
        assert served.act(job, "release", outcome="failed" if number % 2 else "completed").status_code == 200
        assert time.monotonic() - began < 60, "the function hangs for ten minutes"
    await until(lambda: shop.hangs() == 1, "it hangs still, or the next, and no second beside it")
    assert shop.booked(hanging) == []
    shop.refund_is("")
    every = [hanging, *ids[1::2]]
    await until(lambda: shop.hurry() or all(shop.booked(job_id) for job_id in every), "all are paid", 30)
    assert all(shop.paid(job_id) == [7] for job_id in every)
    assert not verify(served.sql_url, served.redis_url).breaches


async def test_a_refund_that_hangs_is_cut_after_five_seconds_and_one_that_is_slow_is_not(served: Served, shop: Shop) -> None:
    shop.refund_is("perform pg_sleep(2);")
    slow = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.booked(slow), "it is paid")
    assert shop.paid(slow) == [7]
    shop.refund_is(HANGS)
    job_id = fail(served, acquire(served, shop.sells()))["job_id"]
    await until(lambda: shop.hangs(), "it hangs")
    began = time.monotonic()
    await until(lambda: shop.owed(job_id)[0][1], "it is put off", 15)
    assert 3 < time.monotonic() - began < 10 and "timeout" in (shop.owed(job_id)[0][2] or "")
