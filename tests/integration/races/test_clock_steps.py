"""The clock of Redis steps, while jobs run and wait. Each test has a server of its own, whose clock it sets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.diagnostics.verify import verify
from gate.model.job import Job, Request
from gate.runtime.wiring import RunningGate, open_gate
from gate.telemetry import counters
from tests.support.gate_in_process import House
from tests.support.script_lane import settings_of
from tests.support.stepping_redis import SteppingRedis
from tests.support.stores import other_redis

pytestmark = pytest.mark.anyio
STEP_S = 600
POOLS = {"default": settings_of()}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[SteppingRedis]:
    server = SteppingRedis("redis" if other_redis() else "valkey", tmp_path / "redis")
    with contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        yield server


class Line:
    """Three jobs that run and two that wait, and what a test asks about them."""

    def __init__(self, gate: RunningGate, name: str = "j") -> None:
        self.gate, self.jobs = gate, [f"{name}{number}" for number in range(5)]

    async def fill(self) -> list[Job]:
        admission = self.gate.services.admission
        return [await admission.acquire("default", Request(job, credits=5)) for job in self.jobs]

    async def now(self) -> list[Job]:
        return [await self.gate.services.queries.job("default", job) for job in self.jobs]

    async def statuses(self) -> list[str]:
        return [job.status for job in await self.now()]

    async def left_s(self) -> float:
        """How long the next lease has left, by a script."""
        reply = await self.gate.registry.run("default", lambda epoch: self.gate.semaphore.tick("default", epoch))
        assert reply.next_ms is not None
        return (reply.next_ms - reply.now_ms) / 1000

    async def ahead_s(self) -> float:
        return (await self.gate.registry.pool("default").snapshot()).ahead_ms / 1000


ALL_AS_BEFORE = ["running"] * 3 + ["queued"] * 2


@pytest.mark.parametrize("step_s", [STEP_S, -3600], ids=["forward", "back"])
async def test_no_deadline_moves_when_the_clock_of_redis_steps(redis: SteppingRedis, sql_url: str, step_s: int) -> None:
    way = "forward" if step_s > 0 else "back"
    before = counters.clock_steps["default", way]
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        told = [job.expires_at for job in await line.fill()]
        redis.step_to(step_s)
        assert 590 < await line.left_s() <= 600
        assert await line.statuses() == ALL_AS_BEFORE
        assert [job.expires_at for job in await line.now()] == told, "what was told stands"
        assert await line.ahead_s() == pytest.approx(step_s, abs=0.5)
        assert counters.clock_steps["default", way] == before + 1
        history = await gate.services.ledger.timelines.changes("default", 10)
        assert [(one.by, one.why) for one in history if one.kind == "clock_stepped"] == [("gate", f"{step_s:+.1f} s")]
    assert not verify(sql_url, redis.url).breaches


@pytest.mark.parametrize("ahead_s", [STEP_S, -STEP_S])
async def test_a_run_is_as_long_as_it_was_also_when_the_clocks_of_redis_and_gate_differ(
    redis: SteppingRedis, sql_url: str, ahead_s: int
) -> None:
    redis.step_to(ahead_s)
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        job = await gate.services.admission.acquire("default", Request("j", credits=5))
        assert job.lease is not None
        await gate.services.jobs.release("default", "j", job.lease.lease_id, "completed")
        ((_, took_ms),) = await gate.services.ledger.runs("default")
        assert 0 <= took_ms < 60_000
        story = await gate.services.ledger.timelines.of("j")
        assert story is not None and len(story.events) >= 2
        assert [one.at for one in story.events] == sorted(one.at for one in story.events)


async def test_a_step_that_is_taken_back_leaves_nothing_behind(redis: SteppingRedis, sql_url: str) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        await line.fill()
        for ahead_s in (STEP_S, 0):
            redis.step_to(ahead_s)
            assert 590 < await line.left_s() <= 600
        assert await line.ahead_s() == pytest.approx(0, abs=0.5)
        assert await line.statuses() == ALL_AS_BEFORE


async def test_two_servers_count_one_step_once(redis: SteppingRedis, sql_url: str) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate, open_gate(redis.url, sql_url, POOLS) as other:
        line, elsewhere = Line(gate), Line(other)
        await line.fill()
        assert await elsewhere.left_s() > 590
        redis.step_to(STEP_S)
        assert 590 < await elsewhere.left_s() <= 600
        assert 590 < await line.left_s() <= 600
        assert await line.ahead_s() == pytest.approx(STEP_S, abs=0.5)
        assert await line.statuses() == ALL_AS_BEFORE


async def test_two_servers_record_one_step_of_an_empty_pool_once(redis: SteppingRedis, sql_url: str) -> None:
    before = counters.clock_steps.total()
    async with open_gate(redis.url, sql_url, POOLS) as gate, open_gate(redis.url, sql_url, POOLS) as other:
        for server in (gate, other):
            await server.registry.pool("default").tick()
        redis.step_to(STEP_S)
        redis.cli("HSET", "gate:{default}:meta", "seen_at", str(round(time.time() * 1000) - 3_000))  # an idle pool's pause
        await gate.reconciler.sweep("default")
        assert redis.cli("HGET", "gate:{default}:meta", "ahead_ms") == "0", "the clock is reset"
        for server in (other, gate) * 2:  # each after a pause of its own
            ago_ms = round((time.time() + STEP_S) * 1000) - 3_000
            redis.cli("HSET", "gate:{default}:meta", "seen_at", str(ago_ms))
            await server.registry.pool("default").tick()
        history = await gate.services.ledger.timelines.changes("default", 10)
        assert [one.why for one in history if one.kind == "clock_stepped"] == [f"+{STEP_S}.0 s"]
    assert counters.clock_steps.total() == before + 1


async def test_the_clock_of_an_empty_pool_is_in_sql_before_redis_has_it(redis: SteppingRedis, sql_url: str) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        await line.fill()
        redis.step_to(STEP_S)
        await line.left_s()
        for job in reversed(line.jobs):
            await gate.services.jobs.cancel("default", job)
        await gate.reconciler.sweep("default")
        assert redis.cli("HGET", "gate:{default}:meta", "ahead_ms") == "0", "the clock is reset"
        (pool,) = await gate.services.ledger.pools()
        assert pool.clock_ahead_ms == 0, "and SQL has it so, for a rebuild"
        await Line(gate, "k").fill()
        assert 590 < await line.left_s() <= 600
        assert await line.ahead_s() == 0


async def test_a_job_that_comes_during_the_reset_keeps_the_clock_of_the_pool(
    redis: SteppingRedis, sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        await line.fill()
        redis.step_to(STEP_S)
        await line.left_s()
        for job in reversed(line.jobs):
            await gate.services.jobs.cancel("default", job)
        record = gate.ledger.record_clock

        async def record_then_admit(pool: str, epoch: int, ahead_ms: int) -> None:
            await record(pool, epoch, ahead_ms)
            if ahead_ms == 0:
                await gate.services.admission.acquire(pool, Request("meanwhile"))

        monkeypatch.setattr(gate.ledger, "record_clock", record_then_admit)
        await gate.reconciler.sweep("default")
        (pool,) = await gate.services.ledger.pools()
        assert pool.clock_ahead_ms == pytest.approx(STEP_S * 1000, abs=500), "as in Redis, for a rebuild"
        assert await line.ahead_s() == pytest.approx(STEP_S, abs=0.5)


async def test_a_rebuild_goes_on_by_the_clock_of_the_pool(redis: SteppingRedis, sql_url: str) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        told = [job.expires_at for job in await line.fill()]
        redis.step_to(STEP_S)
        redis.cli("FLUSHALL")
        assert 590 < await line.left_s() <= 600, "by this process's own clock"
        assert await line.ahead_s() == pytest.approx(STEP_S, abs=0.5)
    redis.cli("FLUSHALL")
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        line = Line(gate)
        assert 580 < await line.left_s() <= 600, "by what SQL has recorded"
        assert [job.expires_at for job in await line.now()] == told


async def test_a_server_that_starts_after_a_step_waits_for_one_that_knows_the_clock(
    redis: SteppingRedis, sql_url: str
) -> None:
    """To it the step is a time without calls."""
    async with open_gate(redis.url, sql_url, POOLS) as gate, open_gate(redis.url, sql_url) as newcomer:
        await Line(gate).fill()
        redis.step_to(STEP_S)
        line = Line(newcomer)
        assert 590 < await line.left_s() <= 600
        assert await line.ahead_s() == pytest.approx(STEP_S, abs=1.5)
        assert await line.statuses() == ALL_AS_BEFORE


async def test_after_a_step_back_a_server_that_was_not_there_knows_that_no_clock_goes_back(
    redis: SteppingRedis, sql_url: str
) -> None:
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        await Line(gate).fill()
    redis.step_to(-3600)
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        assert 590 < await Line(gate).left_s() <= 602


async def test_an_absence_is_no_step(redis: SteppingRedis, sql_url: str) -> None:
    before = counters.clock_steps.total()
    async with open_gate(redis.url, sql_url, POOLS) as gate:
        await Line(gate).fill()
        ago_ms = round(time.time() * 1000) - 60_000
        redis.cli("HSET", "gate:{default}:meta", "seen_at", str(ago_ms))
        assert 590 < await Line(gate).left_s() <= 600
        assert int(redis.cli("HGET", "gate:{default}:meta", "loaded_at")) > ago_ms, "grace was given"
    assert counters.clock_steps.total() == before


async def test_sql_follows_the_clock_of_the_pool(house: House) -> None:
    async def recorded_ms() -> int:
        return next(pool.clock_ahead_ms for pool in await house.gate.services.ledger.pools() if pool.name == house.pool)

    job = await house.acquire()
    house.people.hset(house.key("meta"), "ahead_ms", 2_000)  # as it slews after a step
    await house.gate.reconciler.sweep(house.pool)
    assert 1_900 < await recorded_ms() <= 2_000
    await house.release(job)
    await house.gate.registry.pool(house.pool).tick()
    await house.gate.reconciler.sweep(house.pool)
    assert await recorded_ms() == 0
