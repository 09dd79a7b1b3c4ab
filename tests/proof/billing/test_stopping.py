"""gate stops in time while the owner's function hangs. Each server here is the only one on its database."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gate.runtime.graceful_stop import STOP_S
from tests.proof.billing.shop import HANGS, TABLE, Shop, acquire, fail, old
from tests.support.gate_process import Served
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("what", ["a refund", "a price", "both"])
async def test_gate_stops_within_its_grace_while_a_function_hangs(
    serve: Callable[..., Served], shop: Shop, what: str
) -> None:
    """A refund that begins while the last callers are waited for is not waited for."""
    shop.price_is("")
    with serve() as served, ThreadPoolExecutor(12) as callers:
        if what != "a price":
            shop.refund_is(HANGS)
            for _ in range(3):
                fail(served, acquire(served, shop.sells()))
        if what != "a refund":
            shop.price_is(HANGS)
            for _ in range(12):
                callers.submit(old, served, "run-or-queue", table=TABLE, jobId=shop.sells())
        await until(lambda: shop.hangs() == {"a refund": 1, "a price": 4, "both": 5}[what], "it hangs")
        began = time.monotonic()
        code = served.stop()
        assert (code, time.monotonic() - began < STOP_S) == (0, True)
    shop.refund_is("")  # another server of the run would go on asking
    shop.price_is("")
    await until(lambda: not shop.hangs(), "nothing of it is left in the database")
