"""A store that answers, and says no: a Redis without room, a row that SQL will not have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from gate.diagnostics.verify import verify
from gate.ledger.commit import unit_of_work
from gate.ledger.sql.statements import say
from gate.model.errors import StoreDown
from gate.model.job import now_ms
from gate.runtime.wiring import open_gate
from tests.conftest import OpenHouse
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.servers import Books, RedisServer
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey", "redis"])
def own_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(request.param, tmp_path / "redis")
    server.start()
    yield server
    server.kill()


async def test_a_redis_without_room_takes_no_new_work_and_ends_the_old(own_redis: RedisServer, sql_url: str) -> None:
    people = redis.Redis.from_url(own_redis.url, decode_responses=True)
    async with open_gate(own_redis.url, sql_url, {"full": settings_of(claim_ms=1000)}) as gate:
        house = House(gate, "full", own_redis.url, sql_url, people)
        first, second, third, fourth, fifth, sixth = [await house.acquire(credits=5, user=f"u{n}") for n in range(6)]
        lost = await house.acquire(credits=5, lease_ms=1000)
        own_redis.cli("config", "set", "maxmemory", "1000")
        with pytest.raises(StoreDown, match="no room"):
            await house.acquire("new", credits=5)
        assert (await house.keeper.renew("full", second.job_id, second.lease_id or "")).status == "running"
        assert (await house.release(first, "failed")).status == "failed"
        granted = await house.granted(fourth)
        assert (await house.keeper.claim("full", granted.job_id, granted.lease_id or "")).status == "running"
        assert (await house.keeper.cancel("full", sixth.job_id)).status == "cancelled"
        await house.release(third, "cancelled")
        # These two are granted, and no caller claims them.
        for job in (fifth, lost):
            await until(lambda job=job: _is(house, job.job_id, "expired"), "it has expired", 15)
        assert [await house.refunds(job) for job in (first, third, fifth, sixth, lost)] == [[5]] * 5
        assert await house.refunds("new") == []
        own_redis.cli("config", "set", "maxmemory", "0")
        assert (await house.acquire("new", credits=5)).status == "running"
        await house.settled()
        assert not verify(sql_url, own_redis.url).breaches


async def _is(house: House, job_id: str, status: str) -> bool:
    return await house.status(job_id) == status


async def test_one_row_that_sql_refuses_keeps_no_other_from_being_recorded(house: House) -> None:
    holders = [await house.acquire() for _ in range(3)]
    bad, good, other = [await house.acquire(f"{name}-{house.pool}") for name in ("bad", "good", "other")]
    with Books(house.sql_url).refuses("update", "bad-%"):
        for job in holders:
            await house.release(job)
        assert (await house.granted(good)).status == (await house.granted(other)).status == "granted"
        assert await house.status(bad) == "queued"
    assert (await house.granted(bad)).status == "granted"


@contextlib.contextmanager
def takes_nothing(house: House, how: str) -> Iterator[None]:
    """SQL answers, and lets itself be read; whatever gate writes is refused."""
    engine = house.gate.ledger._database._write_engine
    refused = {"sqlite": "pragma query_only = on", "postgresql": "set transaction read only"}[engine.dialect.name]
    if how == "locked":
        with sa.create_engine(engine.url).begin() as other:
            other.exec_driver_sql("lock table gate.jobs in share mode")
            yield
        return

    begin, commit = unit_of_work.begin, unit_of_work.commit

    def refusing(connection: sa.Connection, lock_ms: int) -> None:
        let_write(connection)  # the batch before may have failed on it
        begin(connection, lock_ms)
        say(connection, refused)

    def committing(connection: sa.Connection) -> None:
        commit(connection)
        let_write(connection)

    def let_write(connection: sa.Connection) -> None:
        if connection.dialect.name == "sqlite":
            say(connection, "pragma query_only = off")

    with mock.patch.multiple(unit_of_work, begin=refusing, commit=committing):
        yield
    engine.dispose()


@pytest.mark.parametrize("how", ["read only", "locked"])
async def test_a_holder_that_could_not_renew_because_of_sql_has_grace(open_house: OpenHouse, how: str) -> None:
    if how == "locked" and "GATE_TEST_POSTGRES_URL" not in os.environ:
        pytest.skip("SQLite has no lock of a table")
    async with open_house(lease_ms=2_000) as house:
        job = await house.acquire(credits=5)
        with takes_nothing(house, how):
            with pytest.raises(StoreDown):
                await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")
            with pytest.raises(StoreDown):
                await house.gate.services.queries.ready()
            await until(lambda: now_ms() > (job.expires_at or 0) + 3_000, "the deadline is over, and so is the usual absence")
            assert house.people.zscore(house.key("slots"), job.job_id) is not None
        await until(lambda: _ready(house), "SQL takes what is written")
        assert (await house.keeper.renew(house.pool, job.job_id, job.lease_id or "")).status == "running"
        assert await house.refunds(job) == []


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_nothing_is_told_that_went_into_a_file_that_is_gone(house: House, tmp_path: Path) -> None:
    job = await house.acquire()
    file = tmp_path / "gate.db"
    file.rename(tmp_path / "moved.db")
    with pytest.raises(StoreDown, match="moved or replaced"):
        await house.release(job)
    (tmp_path / "moved.db").rename(file)
    await until(lambda: _ready(house), "it is there again")
    assert (await house.release(job)).status == "completed"


async def _ready(house: House) -> bool:
    with contextlib.suppress(StoreDown):
        await house.gate.services.queries.ready()
        return True
    return False


async def test_a_place_whose_commit_sql_refuses_is_given_back(house: House) -> None:
    with Books(house.sql_url).refuses("insert", "bad-%"):
        with pytest.raises(DBAPIError):
            await house.acquire("bad-" + house.pool, credits=5)
        assert house.people.zrange(house.key("slots"), 0, -1) == []
    assert (await house.acquire("bad-" + house.pool, credits=5)).status == "running"
