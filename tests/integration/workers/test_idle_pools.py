"""Pools without jobs cost nothing but a look in their turn, and what a killed server leaves in one is found."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gate.coordination import pool_registry
from gate.coordination.pool_owners import PoolOwners
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import Servers
from gate.ledger.transitions import servers
from gate.model.job import Request
from gate.runtime import wiring
from gate.runtime.wiring import ExternalServices, RunningGate, open_gate
from gate.slots.pool_clock import PoolClock, elapsed_s
from gate.slots.semaphore import Semaphore
from gate.workers import idle_look, server_beat
from gate.workers.idle_look import IdleLook
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio
BEAT_S, DEAD_S = 0.1, 1.0


@pytest.fixture
async def left(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """The server of the test leaves its pools to those that the test starts. They share a ledger as on Postgres, whatever it is."""
    beat = Servers.beat

    async def of_the_two(self: Servers, server_id: str) -> bool:
        return server_id not in "ab" or await beat(self, server_id)

    monkeypatch.setattr(Servers, "beat", of_the_two)  # on Postgres the server of the test would write its row again
    rows = Servers(house.gate.ledger._database, is_alone=False)
    for row in await rows.rows():
        await rows.leave(row.id)
    house.gate.registry.owns = lambda pool: False
    monkeypatch.setattr(wiring, "sqlite_file", lambda url: None)
    monkeypatch.setattr(server_beat, "EVERY_S", BEAT_S)
    monkeypatch.setattr(servers, "DEAD_AFTER_S", DEAD_S)
    return house


@contextlib.asynccontextmanager
async def server(house: House, server_id: str) -> AsyncIterator[RunningGate]:
    async with open_gate(house.redis_url, house.sql_url, {}, outside=ExternalServices(server_id=server_id)) as gate:
        yield gate


async def test_the_pools_of_a_server_that_dies_are_taken_over(left: House) -> None:
    async with server(left, "a") as one:
        rows = Servers(one.ledger._database, is_alone=False)
        await rows.join("b", "1.0")
        other = PoolOwners("b")
        await until(lambda: not all(one.owners.owns(f"p{n}") for n in range(50)), "the first server knows the second")
        other.take(await rows.rows())
        taken = [f"p{n}" for n in range(50) if other.owns(f"p{n}")]
        assert taken and not any(map(one.owners.owns, taken))
        died: list[bool] = []
        one.owners.on_change.append(died.append)
        await until(lambda: all(map(one.owners.owns, taken)), "its row is not written any more", within_s=5)
        assert died[-1]
        assert [(row.id, row.lives) for row in await rows.rows() if row.id in "ab"] == [("a", True), ("b", False)]


async def test_a_pool_that_becomes_an_own_one_is_due_at_once(house: House) -> None:
    await house.acquire()
    registry = house.gate.registry
    registry.owns = lambda pool: False
    await until(lambda: house.pool not in registry.due, "it is left to its owner", within_s=5)
    registry.owns = lambda pool: True
    registry.due.by = lambda pool, at: due.append(pool)  # type: ignore[method-assign]
    due: list[str] = []
    registry.take_over(True)
    assert due == [house.pool]


async def test_two_servers_tick_each_busy_pool_once(left: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, and not timed: what they share costs no more than with one of them."""
    monkeypatch.setattr(servers, "DEAD_AFTER_S", 60)  # a heartbeat may be late here
    monkeypatch.setattr(pool_registry, "REST_S", 0.0)  # a call is over for so long that the owner alone ticks
    ticks: Counter[tuple[int, str]] = Counter()
    tick = Semaphore.tick

    async def counting(self: Semaphore, pool: str, *words: Any) -> Any:
        ticks[id(self), pool] += 1
        return await tick(self, pool, *words)

    async with server(left, "a") as one, server(left, "b") as two:
        both = (one, two)
        await until(
            lambda: all(sum(gate.owners.owns(f"p{n}") for n in range(40)) < 40 for gate in both), "each knows the other"
        )
        names = [f"{left.pool}-{number}" for number in range(8)]
        for name in names:
            await one.ledger.make_pool(name, settings_of(limit=1))
            await one.services.admission.acquire(name, Request(name))
        monkeypatch.setattr(Semaphore, "tick", counting)
        await until(
            lambda: all(sum(ticks[id(gate.semaphore), name] for gate in both) >= 2 for name in names),
            "each was ticked twice",
        )
        for name in names:
            assert sum(ticks[id(gate.semaphore), name] > 0 for gate in both) == 1, "its owner alone ticks it"
            await one.services.jobs.cancel(name, name)


async def test_a_job_that_a_killed_server_left_in_redis_alone_is_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_look, "AT_A_TIME", 0)  # no look in its turn
    epoch = await house.gate.registry.epoch(house.pool)
    await house.gate.semaphore.acquire(house.pool, epoch, f"{house.pool}-unknown", None, None, 500)
    for changed in house.gate.owners.on_change:
        changed(True)
    await until(lambda: house.outbox() == 1, "its lease has run out", within_s=5)
    monkeypatch.setattr("gate.coordination.drift.STRANGER_MS", -1)
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")
    for _ in range(2):
        await house.gate.reconciler.sweep_all(house.gate.services.health)
    assert house.outbox() == 0, "SQL never heard of it"


async def test_an_idle_pool_whose_settings_differ_is_mended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_look, "EVERY_S", 0.05)
    await until(lambda: house.gate.reconciler.sweeps, "the server has swept once")
    house.people.hset(house.key("meta"), "limit", 99)
    await until(lambda: house.pool in house.gate.reconciler.suspects, "it is looked at in its turn", within_s=5)
    for _ in range(2):
        await house.gate.reconciler.sweep_all(house.gate.services.health)
    assert house.people.hget(house.key("meta"), "limit") == "3"


class Many:
    """A registry of so many idle pools, which counts what is asked about them."""

    def __init__(self, count: int) -> None:
        self.names = [f"p{number:05}" for number in range(count)]
        self.asked: list[str] = []

    def is_idle(self, pool: str) -> bool:
        return True

    async def looks(self, pools: list[str], settings: Any) -> dict[str, Any]:
        self.asked += pools
        return {}

    async def named(self, pools: list[str]) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(("count", "each"), [(10, 2), (500, 30), (10_000, 30)])
async def test_looks_cost_the_same_however_many_idle_pools_there_are(count: int, each: int) -> None:
    many: Any = Many(count)
    look = IdleLook(many, many, PoolOwners("a"), set())
    rounds = -(-count // each)
    for _ in range(rounds):
        before = len(many.asked)
        await look.look(look._next_page())
        assert len(many.asked) - before <= each
    assert set(many.asked) == set(many.names), "and each pool is looked at in its turn"


async def late(house: House, registry: PoolRegistry) -> Any:
    """A job whose lease ran out while no call came for five seconds."""
    job = await house.acquire(credits=5)
    now = int(house.people.hget(house.key("meta"), "seen_at") or 0)
    house.people.hset(house.key("meta"), "seen_at", now - 5_000)
    house.expire(job)
    await registry.pool(house.pool).tick()
    await house.gate.recorder.run(house.pool)
    return job


async def test_a_late_tick_of_a_server_that_was_present_gives_no_grace(house: House) -> None:
    house.gate.semaphore.present_since = lambda: elapsed_s() - 60
    assert await house.status(await late(house, house.gate.registry)) == "expired"


async def test_a_server_that_was_not_present_all_the_time_gives_grace(house: House) -> None:
    house.gate.semaphore.present_since = lambda: elapsed_s() - 1
    assert await house.status(await late(house, house.gate.registry)) == "running"


class Slow(PoolClock):
    """Each call is two seconds on its way."""

    def expected_ms(self, at: float) -> int | None:
        found = super().expected_ms(at)
        return None if found is None else found - 2_000


async def test_a_call_that_was_long_on_its_way_proves_no_presence(house: House) -> None:
    """Redis stood still meanwhile, and no holder could renew."""
    house.gate.semaphore.present_since = lambda: elapsed_s() - 60
    house.gate.semaphore._clocks[house.pool] = Slow()
    assert await house.status(await late(house, house.gate.registry)) == "running"


async def test_a_server_at_rest_claims_no_presence(house: House) -> None:
    for _ in range(2):
        await house.gate.services.health.look()
    assert house.gate.semaphore.present_since() is None
    await house.acquire()
    await house.gate.services.health.look()
    assert house.gate.semaphore.present_since() is not None
