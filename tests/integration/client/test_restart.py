"""The server dies and comes back, on the same port: the same job goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.client import AsyncGate, LeaseLost
from gate.diagnostics.verify import verify
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Served(tmp_path, "--port", str(port), config="limit = 1\nclaim_seconds = 3\n") as server:
        yield server


async def test_killed_while_one_holds_and_one_waits(mortal: Served) -> None:
    holding, back, line = asyncio.Event(), asyncio.Event(), asyncio.Event()
    prefix = fresh()

    async def holder() -> str:
        async with gate.slot(job_id=f"{prefix}-1", lease_seconds=30) as lease:
            holding.set()
            await back.wait()
            assert not lease.lost.is_set()
        return lease.job.status

    async def waiter() -> str:
        async with gate.slot(job_id=f"{prefix}-2", credits=3, on_position=lambda *_: line.set()) as lease:
            pass
        return lease.job.status

    async with AsyncGate(mortal.url) as gate, asyncio.timeout(60):
        first = asyncio.create_task(holder())
        await holding.wait()
        second = asyncio.create_task(waiter())
        await line.wait()
        mortal.kill()
        await asyncio.to_thread(mortal.start)
        back.set()
        assert await asyncio.gather(first, second) == ["completed", "completed"]
        assert [row.amount for row in (await gate.ledger(job_id=f"{prefix}-2")).rows] == [3]
    assert not verify(mortal.sql_url, mortal.redis_url).breaches


async def test_away_for_longer_than_the_lease(mortal: Served) -> None:
    """Without an answer the slot may be lost. The body is told when the deadline passes."""
    job_id = fresh()
    async with AsyncGate(mortal.url) as gate, asyncio.timeout(60):
        with pytest.raises(LeaseLost):
            async with gate.slot(job_id=job_id, credits=3, lease_seconds=1):
                mortal.kill()
                await asyncio.Event().wait()
        await asyncio.to_thread(mortal.start)  # and gives holders that could not renew the claim time of grace
        job = await until(lambda: _ended(gate, job_id), "the job has ended")
        assert (job.status, job.refund.amount) == ("expired", 3)


async def _ended(gate: AsyncGate, job_id: str):
    job = await gate.job("default", job_id)
    return job if job.ended else None
