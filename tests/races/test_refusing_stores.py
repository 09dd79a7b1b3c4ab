"""A store that answers, and says no: a Redis without room, a row that SQL will not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy.exc import DBAPIError

from gate.errors import StoreDown
from gate.opening import open_gate
from gate.verify import verify
from tests.chaos.stores import Books, RedisServer
from tests.support import House, settings_of, until

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
        # These two are granted, and nobody comes.
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


async def test_a_place_whose_commit_sql_refuses_is_given_back(house: House) -> None:
    with Books(house.sql_url).refuses("insert", "bad-%"):
        with pytest.raises(DBAPIError):
            await house.acquire("bad-" + house.pool, credits=5)
        assert house.people.zrange(house.key("slots"), 0, -1) == []
    assert (await house.acquire("bad-" + house.pool, credits=5)).status == "running"
