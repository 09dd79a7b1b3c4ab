"""Another Redis answers behind the same address: an old snapshot, a replica that lagged, one that others have left.

Its keys look sound and are of the past. Each test has servers of its own, and a proxy as the address.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from gate.model.errors import StoreDown
from gate.model.job import Job, Request
from gate.runtime.wiring import RunningGate, open_gate
from tests.proof.chaos.proxy import Proxy
from tests.support.script_lane import settings_of
from tests.support.servers import RedisServer
from tests.support.wait import until

pytestmark = pytest.mark.anyio
Start = Callable[[], RedisServer]


@pytest.fixture
def start(tmp_path: Path):
    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:

        def started() -> RedisServer:
            server = RedisServer("valkey", tmp_path / f"redis-{next(numbers)}")
            stack.callback(server.kill)
            server.start()
            return server

        yield started


@contextlib.asynccontextmanager
async def opened(redis_url: str, sql_url: str) -> AsyncIterator[RunningGate]:
    async with open_gate(redis_url, sql_url, {"default": settings_of()}) as gate:
        yield gate


async def acquire(gate: RunningGate, job_id: str) -> Job:
    return await gate.services.admission.acquire("default", Request(job_id, credits=5))


def epoch(sql_url: str) -> int:
    url = sa.make_url(sql_url)
    engine = sa.create_engine(url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        table = "pools" if connection.dialect.name == "sqlite" else "gate.pools"
        found = connection.exec_driver_sql(f"select epoch from {table} where name = 'default'").scalar_one()
    engine.dispose()
    return found


async def answered(gate: RunningGate, job_id: str) -> Job:
    """The answer, as soon as there is one."""

    async def asked() -> Job | None:
        with contextlib.suppress(StoreDown):
            return await acquire(gate, job_id)
        return None

    return await until(asked, "the gate answers")


async def test_failed_pool_load_fails_every_waiting_caller(start: Start, sql_url: str) -> None:
    """Each alone would try again, one after the other, and wait for SQL as long as all before it."""
    server = start()
    async with opened(server.url, sql_url) as gate:
        tried, over = 0, asyncio.Event()

        async def hangs(*_: object, **__: object) -> None:
            nonlocal tried
            tried += 1
            await over.wait()
            raise StoreDown("sql", "SQL has not answered")

        waiting = gate.registry._known["default"].rebuilding._lock
        with mock.patch.object(gate.registry._ledger, "begin_rebuild", hangs):
            server.cli("flushall")
            asking = [asyncio.create_task(acquire(gate, f"j{number}")) for number in range(6)]
            await until(lambda: len(waiting._waiters or ()) >= 5, "one loads, the others wait")
            over.set()
            said = await asyncio.gather(*asking, return_exceptions=True)
        assert {str(one) for one in said} == {"SQL has not answered"} and tried == 1
        assert (await answered(gate, "j0")).status == "running", "and the next one tries again"


async def test_an_old_snapshot_put_back_is_loaded_anew(start: Start, sql_url: str) -> None:
    """In the snapshot a, b, c hold the slots, under the epoch that SQL has; meanwhile they ended, and d, e, f hold them."""
    server = start()
    async with opened(server.url, sql_url) as gate:
        old = [await acquire(gate, job_id) for job_id in "abc"]
        server.cli("save")
        for job in old:
            await gate.services.jobs.release("default", job.job_id, job.lease_id or "", "completed")
        assert [(await acquire(gate, job_id)).status for job_id in "defg"] == ["running", "running", "running", "queued"]
        before = epoch(sql_url)
        server.kill()
        server.start()
        assert (await answered(gate, "h")).status == "queued"
        view = await gate.services.queries.pool("default")
        assert ({job.job_id for job in view.holders}, [job.job_id for job in view.queue]) == ({*"def"}, [*"gh"])
        assert epoch(sql_url) == before + 1
        assert not verify(sql_url, server.url).breaches


async def test_a_replica_that_lagged_is_loaded_anew_when_it_is_promoted(start: Start, sql_url: str) -> None:
    primary, replica = start(), start()
    replica.cli("replicaof", "127.0.0.1", str(primary.port))
    async with Proxy(primary.port) as address, opened(address.url, sql_url) as gate:
        await acquire(gate, "a")
        await until(lambda: "a" in replica.cli("hkeys", "gate:{default}:jobs"), "the replica has it")
        replica.cli("replicaof", "no", "one")
        for job_id in "bcd":
            await acquire(gate, job_id)
        before = epoch(sql_url)
        address.switch(replica.port)
        assert (await answered(gate, "e")).status == "queued"
        assert [(await acquire(gate, job_id)).status for job_id in "abc"] == ["running"] * 3
        assert replica.cli("lrange", "gate:{default}:queue", "0", "-1").split() == ["d", "e"]
        assert epoch(sql_url) == before + 1


async def test_a_replica_is_not_written_to_and_not_taken_for_another_life(start: Start, sql_url: str) -> None:
    primary, replica = start(), start()
    replica.cli("replicaof", "127.0.0.1", str(primary.port))
    async with Proxy(primary.port) as address, opened(address.url, sql_url) as gate:
        await acquire(gate, "a")
        before = epoch(sql_url)
        address.switch(replica.port)
        with pytest.raises(StoreDown):
            await acquire(gate, "b")
        address.switch(primary.port)
        assert (await answered(gate, "b")).status == "running"
        assert epoch(sql_url) == before


async def test_two_servers_make_one_rebuild_of_one_loss(start: Start, sql_url: str) -> None:
    """The one has committed the new epoch and loads slowly; the other takes that epoch, finds Redis cold, and waits."""
    server = start()
    async with opened(server.url, sql_url) as one, opened(server.url, sql_url) as two:
        jobs = [await acquire(one, job_id) for job_id in "abcd"]
        before, heard = epoch(sql_url), []
        load, ask = one.semaphore.rebuild, two.semaphore.acquire

        async def slowly(*args):
            waits = asyncio.create_task(acquire(two, "d"))
            await until(lambda: heard.count(before + 1) > 1 or epoch(sql_url) > before + 1, "the other has looked twice")
            loaded = await load(*args)
            assert (await waits).status == "queued"
            return loaded

        async def listening(pool, epoch, *args):
            heard.append(epoch)
            return await ask(pool, epoch, *args)

        one.semaphore.rebuild, two.semaphore.acquire = slowly, listening
        server.cli("flushall")
        again = await asyncio.gather(*(acquire(one, job.job_id) for job in jobs))
        assert [job.lease_id for job in again] == [job.lease_id for job in jobs]
        assert epoch(sql_url) == before + 1


async def test_a_redis_that_others_have_left_is_not_loaded_against_theirs(start: Start, sql_url: str) -> None:
    """Two masters: one server reaches the old one for ever. It says so, and the other server is not disturbed."""
    former, new = start(), start()
    async with Proxy(former.port) as address, opened(address.url, sql_url) as moves, opened(former.url, sql_url) as stays:
        await acquire(stays, "a")
        address.switch(new.port)
        assert (await answered(moves, "b")).status == "running"
        after = epoch(sql_url)
        with pytest.raises(StoreDown, match="have left"):
            await acquire(stays, "c")
        assert (await acquire(moves, "d")).status == "running"
        assert epoch(sql_url) == after
        await stays.services.pools.rebuild("default")  # by an operator's word it is theirs again
        assert (await acquire(stays, "c")).status == "queued"
