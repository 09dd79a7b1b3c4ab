"""Many pools, most of them idle: one look finds out about all of them, and those with jobs are kept as timely as one alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gate.http.panel.list_feed import PoolListFeed
from gate.model.job import Request
from gate.runtime.wiring import open_gate
from gate.workers import idle_look
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio
POOLS = 20


@pytest.fixture
async def pools(house: House) -> AsyncIterator[list[str]]:
    """Pools beside the one of the test, all idle, after the first sweep of the server."""
    names = [f"{house.pool}-{number:02}" for number in range(POOLS)]
    for name in names:
        await house.gate.ledger.make_pool(name, settings_of(limit=1))
    await house.gate.registry.load()
    await asyncio.gather(*(house.gate.registry.pool(name).tick() for name in names))
    yield names
    for name in names:
        house.people.delete(*house.people.keys(f"gate:{{{name}}}:*"))


def counted(monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> Counter[Any]:
    """How often the async method `name` was called, by its first argument."""
    calls: Counter[Any] = Counter()
    call = getattr(of, name)

    async def counting(*words: Any, **more: Any) -> Any:
        calls[words[0] if words and isinstance(words[0], str) else None] += 1
        return await call(*words, **more)

    monkeypatch.setattr(of, name, counting)
    return calls


async def test_an_idle_pool_is_looked_at_in_its_turn_and_never_ticked(
    house: House, pools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: not any(pool in house.gate.registry.due for pool in pools), "each was ticked after its last call", 8)
    monkeypatch.setattr(idle_look, "EVERY_S", 0.05)
    ticks, looks = counted(monkeypatch, house.gate.semaphore, "tick"), counted(monkeypatch, house.gate.registry, "looks")
    await until(lambda: looks.total() >= 10, "ten looks")
    assert not [name for name in pools if ticks[name]], "an idle pool was ticked"


async def test_a_job_that_another_process_puts_into_an_idle_pool_expires_in_time(house: House, pools: list[str]) -> None:
    """No call of this server shows that the pool has a job, and the process that took the slot does not tick."""
    async with open_gate(house.redis_url, house.sql_url) as command:
        taken = await command.services.admission.acquire(pools[0], Request("abandoned", lease_ms=1500))
        assert taken.status == "running"

    async def status() -> bool:
        job = await house.gate.services.ledger.job("abandoned")
        return job is not None and job.status == "expired"

    await until(status, "its lease is over, without the grace of an absence", within_s=5)


async def test_a_pool_that_is_no_longer_idle_is_ticked_each_second(house: House) -> None:
    """Else its next tick would come after the 2.5 s that the scripts take for an absence of gate."""
    await until(lambda: house.gate.reconciler.sweeps, "the first sweep, which ticks too, is over")
    await until(lambda: house.pool not in house.gate.registry.due, "no tick of it is due")
    await house.acquire()
    due = house.gate.registry.due
    await until(lambda: due._at.get(house.pool, 1e9) <= time.monotonic() + 1, "its next tick is a second away", within_s=2)


async def test_a_sweep_reads_idle_pools_together(house: House, pools: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    await house.acquire()
    surveys = counted(monkeypatch, house.gate.semaphore, "survey")
    reads = counted(monkeypatch, house.gate.services.ledger._database, "read")
    await house.gate.reconciler.sweep_all(house.gate.services.health)
    assert set(surveys) == {house.pool}, "an idle pool was read by itself"
    assert reads.total() < POOLS


async def test_a_sweep_of_all_mends_the_one_pool_that_differs(house: House, pools: list[str]) -> None:
    holder = await house.acquire()
    house.people.hset(f"gate:{{{pools[3]}}}:meta", "limit", 7)
    house.people.zrem(house.key("slots"), holder.job_id)
    found = [await house.gate.reconciler.drift_all() for _ in range(2)]
    assert found[0] == [] and {(pool, one.kind.value) for pool, one in found[1]} == {
        (house.pool, "restore"),
        (pools[3], "settings"),
    }
    await house.gate.reconciler.sweep_all(house.gate.services.health)
    assert house.people.hget(f"gate:{{{pools[3]}}}:meta", "limit") == "1"
    assert house.people.zscore(house.key("slots"), holder.job_id) is not None


async def test_the_list_of_pools_is_one_read_of_sql_however_many_they_are(
    house: House, pools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.acquire()
    services = house.gate.services
    reads = counted(monkeypatch, services.ledger._database, "read")
    seen = await PoolListFeed(services).look()
    assert list(seen) == sorted(seen) and set(seen) == {house.pool, *pools}
    assert seen[house.pool].view is not None and seen[house.pool].view.line.running == 1
    assert reads.total() <= 4, "one of their number, one of the holders, and what the server itself reads each second"
