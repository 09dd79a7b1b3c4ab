"""A primary under Sentinels: it dies under load, or goes on as a former primary. The planned failovers of
`python -m tests.proof.cluster --sentinel` take Sentinel ten seconds each.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gate.diagnostics.verify import verify
from gate.model.job import Request
from gate.runtime.wiring import RunningGate, open_gate
from tests.proof.cluster.load import LIMIT, Load
from tests.proof.cluster.plays import AGAIN_S, running
from tests.support.redis_cluster import Sentinels
from tests.support.script_lane import settings_of
from tests.support.servers import wait_for

pytestmark = pytest.mark.anyio


@pytest.fixture
def pools() -> list[str]:
    return [f"s-{secrets.token_hex(4)}-{number}" for number in range(2)]


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    made = Sentinels(tmp_path / "sentinels")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def two_gates(sentinels: Sentinels, sql_url: str, pools: list[str]) -> AsyncIterator[tuple[RunningGate, RunningGate]]:
    settings = {name: settings_of(limit=LIMIT) for name in pools}
    async with (
        open_gate(sentinels.url, sql_url, settings) as one,
        open_gate(sentinels.url, sql_url, settings) as two,
    ):
        yield one, two
        for name in pools:
            await one.recorder.run(name)


async def test_killed_primary_is_replaced(sentinels: Sentinels, sql_url: str, pools: list[str]) -> None:
    async with two_gates(sentinels, sql_url, pools) as gates:
        load, primary = Load(gates), sentinels.primary
        async with load.on(pools):
            await load.served(pools, 20)
            primary.kill()
            await load.served(pools, AGAIN_S)
    assert verify(sql_url, sentinels.url).breaches == []


async def test_former_primary_grants_nothing(sentinels: Sentinels, sql_url: str, pools: list[str]) -> None:
    """It stands still while another takes over, and then runs what was sent to it, before it hears of that."""
    pool = pools[0]
    async with two_gates(sentinels, sql_url, pools) as (one, two):
        primary = sentinels.primary
        primary.freeze()
        try:
            late = asyncio.create_task(one.services.admission.acquire(pool, Request("late"), 0))
            await asyncio.to_thread(wait_for, lambda: sentinels.primary is not primary, "there is another primary")
            await two.semaphore.link.part()
            two.semaphore.link.pipe.part()
            await two.registry.reload(pool)
            held = [await two.services.admission.acquire(pool, Request(f"held-{n}"), 5) for n in range(LIMIT)]
        finally:
            primary.thaw()
        with contextlib.suppress(Exception):
            await late
        assert running(sql_url, pool) == LIMIT == sum(job.status == "running" for job in held)
        for job in held:
            await two.services.jobs.release(pool, job.job_id, job.lease_id or "", "completed")
        found = await one.services.admission.acquire(pool, Request("late"), 10)
        await one.services.jobs.release(pool, "late", found.lease_id or "", "completed")
    assert verify(sql_url, sentinels.url).breaches == []
