"""A refund is paid once, in the owner's table and in the ledger, whichever server dies and however many pay."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gate.diagnostics.verify import verify
from gate.runtime.embedded_redis import EmbeddedRedis
from tests.proof.billing.shop import Shop, acquire, fail
from tests.support.gate_process import Served
from tests.support.stores import other_redis
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = EmbeddedRedis(tmp_path, other_redis())
    server.wait()
    yield server.url
    server.stop()


@contextlib.contextmanager
def held(shop: Shop) -> Iterator[None]:
    """The ledger is locked: the owner's function has returned, and its payment is not committed."""
    with shop.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.exec_driver_sql("lock table gate.ledger in exclusive mode")
        yield
        connection.rollback()


@pytest.mark.parametrize("where", ["in the function", "before the commit"])
async def test_a_server_that_is_killed_while_it_pays_pays_once(serve: Callable[..., Served], shop: Shop, where: str) -> None:
    with serve() as served:
        job = acquire(served, shop.sells())
        job_id = job["job_id"]
        if where == "in the function":
            shop.refund_is("perform pg_sleep(1.5);")
            fail(served, job)
            await until(lambda: shop.hangs(), "it is being paid")
            served.kill()
        else:
            with held(shop):
                fail(served, job)
                await until(lambda: shop.waits_for_the_ledger(), "the function has returned")
                served.kill()
        assert (shop.paid(job_id), shop.booked(job_id), len(shop.owed(job_id))) == ([], [], 1)
        assert not [b for b in verify(served.sql_url, None).breaches if b.invariant in ("I1", "I2")]
        shop.refund_is("")
        served.start()
        await until(lambda: shop.hurry() or shop.booked(job_id), "it is paid")
        assert (shop.paid(job_id), shop.booked(job_id), shop.owed(job_id)) == ([7], [7], [])
        assert not verify(served.sql_url, served.redis_url).breaches


async def test_two_servers_pay_each_refund_once(serve: Callable[..., Served], shop: Shop, redis_url: str) -> None:
    """And ask for each once: the ledger would refuse the second payment, but the owner's function may do more than pay."""
    with serve(GATE_REDIS_URL=redis_url) as one, serve(GATE_REDIS_URL=redis_url) as other:
        shop.refund_is("perform nextval('shop.calls'), pg_sleep(0.2);")
        ids = [fail(server, acquire(server, shop.sells()))["job_id"] for server in [one, other] * 15]
        await until(lambda: shop.hangs() == 2, "both pay at once")
        await until(lambda: all(shop.booked(job_id) for job_id in ids), "all are paid", 30)
        assert [shop.paid(job_id) for job_id in ids] == [shop.booked(job_id) for job_id in ids] == [[7]] * 30
        assert shop.rows("select last_value from shop.calls") == [(30,)]
        assert not verify(one.sql_url, one.redis_url).breaches


async def test_what_a_server_that_stands_still_was_paying_is_paid_once_by_the_other(
    serve: Callable[..., Served], shop: Shop, redis_url: str
) -> None:
    with serve(GATE_REDIS_URL=redis_url) as frozen:
        shop.refund_is("perform pg_sleep(1);")
        job_id = fail(frozen, acquire(frozen, shop.sells()))["job_id"]
        await until(lambda: shop.hangs(), "it is being paid")
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            with serve(GATE_REDIS_URL=redis_url) as other:
                await until(lambda: shop.booked(job_id), "the other pays it", 30)
                frozen.process.send_signal(signal.SIGCONT)
                second = fail(frozen, acquire(frozen, shop.sells()))["job_id"]
                await until(lambda: shop.booked(second), "the first is back")
                assert (shop.paid(job_id), shop.booked(job_id)) == ([7], [7])
                assert not verify(other.sql_url, other.redis_url).breaches
        finally:
            frozen.process.send_signal(signal.SIGCONT)
