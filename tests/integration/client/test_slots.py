"""A slot for the length of a block: in line, at work, at the end. On a real `gate serve`."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import anyio
import pytest
import redis

from gate.client import AsyncGate, AsyncLease, GateError, Invalid, JobEnded, LeaseLost, Refused, TaskTaken
from gate.diagnostics.verify import verify
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio


class Here:
    """Counts the bodies that are at work at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


async def test_seven_workers_on_three_slots_with_leases_shorter_than_the_work(server: Served, gate: AsyncGate) -> None:
    """In two pools at once: the lease is of the length that the client asks for, or that of the pool."""
    await asyncio.gather(_seven_workers(gate, "default", 2.5), _seven_workers(gate, "brief", None))
    report = verify(server.sql_url, server.redis_url)
    assert not report.breaches and report.redis_checked


async def _seven_workers(gate: AsyncGate, pool: str, lease_seconds: float | None) -> None:
    here, work_s = Here(), 2 * (lease_seconds or 2.0)  # a machine that stands still for a second is not what is tried here
    prefix = fresh()

    async def worker(n: int) -> tuple[str, bool]:
        job = {"job_id": f"{prefix}-{n}", "user": prefix, "credits": 3}
        async with gate.slot(pool, lease_seconds=lease_seconds, **job) as lease:
            first = lease.expires_at
            with here:
                await asyncio.sleep(work_s)  # the work: two leases long
            renewed = lease.expires_at > first
        return lease.job.status, renewed

    assert await asyncio.gather(*(worker(n) for n in range(7))) == [("completed", True)] * 7
    assert here.most == 3
    balance = await gate.balance(prefix)
    assert (balance.charged, balance.refunded) == (21, 0)


async def test_what_the_body_has_in_its_hands(gate: AsyncGate) -> None:
    job_id = fresh()
    async with gate.slot(job_id=job_id, user="ana", tool="Upscaler Arcano", payload={"prompt": "a cat"}) as lease:
        assert (lease.job_id, lease.payload, lease.job.status) == (job_id, {"prompt": "a cat"}, "running")
        assert lease.fence > 0 and lease.lease_id and lease.expires_at > lease.job.enqueued_at
        assert not lease.lost.is_set()
        lease.check()
        assert (await gate.active("ana")) == lease.job
        lease.complete({"url": "a.png"})
    assert (lease.job.status, lease.job.output) == ("completed", {"url": "a.png"})


async def test_a_body_that_raises_has_failed_and_is_paid_back(gate: AsyncGate) -> None:
    job_id, user = fresh(), fresh("u")
    with pytest.raises(RuntimeError, match="no GPU"):
        async with gate.slot(job_id=job_id, user=user, credits=7):
            raise RuntimeError("no GPU")
    job = await gate.job("default", job_id)
    assert (job.status, job.error, job.refund and job.refund.amount) == ("failed", "no GPU", 7)
    page = await gate.ledger(user=user)
    assert [(row.kind, row.amount) for row in page.rows] == [("charge", 7), ("refund", 7)] and page.next is None


async def test_what_the_body_says_counts(gate: AsyncGate) -> None:
    async with gate.slot() as failed:
        failed.fail("blurred")
    assert (failed.job.status, failed.job.error) == ("failed", "blurred")
    async with gate.slot() as cancelled:
        cancelled.cancel()
    assert cancelled.job.status == "cancelled"
    with pytest.raises(ValueError):
        async with gate.slot() as done:
            done.complete([1])
            raise ValueError("after the work")
    assert done.job.status == "completed"


async def test_an_output_that_gate_cannot_keep_does_not_undo_the_work(gate: AsyncGate) -> None:
    async with gate.slot() as lease:
        with pytest.raises(Invalid, match="output"):
            lease.complete({1, 2})
        lease.complete("x" * 70_000)
    done = await gate.job("default", lease.job_id)
    assert done.status == "completed" and done.output["cut"] is True


async def test_a_provider_that_will_not_take_it(gate: AsyncGate) -> None:
    """The job is back at its place, without a refund. A call with the same job_id gets that place."""
    job_id, tries = fresh(), 0
    async with gate.slot("one") as before:
        pass
    while True:
        try:
            async with gate.slot("one", job_id=job_id, credits=5) as lease:
                tries += 1
                if tries == 1:
                    async with asyncio.timeout(10):
                        lease.refuse("429")
                break
        except Refused as refused:
            assert refused.job is not None and (refused.job.status, refused.job.position) == ("queued", 1)
            async with asyncio.timeout(10):
                await gate.cancel("one", (await gate.acquire("one")).job_id)
    assert (tries, lease.job.status, lease.fence > before.fence) == (2, "completed", True)
    assert (await gate.ledger(job_id=job_id, kind="refund")).rows == ()


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_a_waiter_is_notified_of_its_place(gate: AsyncGate, kind: str) -> None:
    heard: list[tuple[int | None, int | None, str | None]] = []

    def hear(position: int | None, queue_length: int | None, reason: str | None, eta_seconds: float | None) -> None:
        heard.append((position, queue_length, reason))

    async def hear_async(*place: object) -> None:
        hear(*place)  # type: ignore[arg-type]

    first, second = [await gate.acquire("one") for _ in range(2)]

    async def third() -> str:
        async with gate.slot("one", on_position=hear if kind == "function" else hear_async) as lease:
            return lease.job.status

    waiting = asyncio.create_task(third())
    await until(lambda: heard == [(2, 2, "pool_full")], "it is told that it is second")
    await gate.cancel("one", second.job_id)
    await until(lambda: heard[1:] == [(1, 1, "pool_full")], "it is told that it is next")
    await gate.cancel("one", first.job_id)
    assert await waiting == "running"
    assert len(heard) == 2


async def test_a_lease_that_an_operator_takes_away(gate: AsyncGate, operator: redis.Redis) -> None:
    job_id = fresh()
    reached_the_end = False
    with pytest.raises(LeaseLost) as lost:
        async with gate.slot(job_id=job_id, credits=5, lease_seconds=1) as lease:
            assert operator.zrem("gate:{default}:slots", job_id) == 1
            await asyncio.Event().wait()
            reached_the_end = True
    assert lease.lost.is_set() and not reached_the_end
    assert (lost.value.code, lost.value.status) == ("lease_lost", 410)
    job = await until(lambda: _ended(gate, job_id), "the job has ended")
    assert job.refund.amount == 5


async def _ended(gate: AsyncGate, job_id: str, pool: str = "default"):
    job = await gate.job(pool, job_id)
    return job if job.ended else None


async def test_a_job_that_is_cancelled_while_it_runs_is_told_at_once(gate: AsyncGate) -> None:
    """Its lease is ten minutes long, and the body does not wait for the next renewal."""
    async with asyncio.timeout(10):
        with pytest.raises(LeaseLost) as lost:
            async with gate.slot() as lease:
                await gate.cancel("default", lease.job_id, reason="no longer wanted")
                await asyncio.Event().wait()
    assert lost.value.job is not None and lost.value.job.end_reason == "no longer wanted"
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_body_that_outlives_its_loss(gate: AsyncGate) -> None:
    """It may catch the cancellation; the block ends with LeaseLost all the same, and the late outcome is kept."""
    with pytest.raises(LeaseLost):
        async with gate.slot() as lease:
            await gate.cancel("default", lease.job_id)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                with pytest.raises(LeaseLost):
                    lease.check()


async def test_no_renewal_goes_beyond_the_longest_hold(gate: AsyncGate) -> None:
    with pytest.raises(LeaseLost):
        async with gate.slot("short", lease_seconds=0.5) as lease:
            await asyncio.Event().wait()
    assert (await gate.job("short", lease.job_id)).status in ("failed", "expired")


async def test_a_loss_and_a_cancellation_at_the_same_time(gate: AsyncGate) -> None:
    """A cancellation from outside stays a CancelledError. It does not become LeaseLost."""
    inside = asyncio.Event()
    held: list[AsyncLease] = []

    async def work() -> None:
        async with gate.slot() as lease:
            held.append(lease)
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.wait_for(asyncio.shield(lease.lost.wait()), 10)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await gate.cancel("default", held[0].job_id)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_is_cancelled_is_a_job_that_is_cancelled(gate: AsyncGate) -> None:
    inside = asyncio.Event()
    job_id = fresh()

    async def work() -> None:
        async with gate.slot(job_id=job_id, credits=4):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    job = await gate.job("default", job_id)
    assert (job.status, job.ended_by, job.refund and job.refund.amount) == ("cancelled", "holder", 4)


async def test_a_cancellation_while_waiting_leaves_the_line_empty(gate: AsyncGate) -> None:
    holder = await gate.acquire("one")
    job_id, heard = fresh(), asyncio.Event()

    async def wait() -> None:
        async with gate.slot("one", job_id=job_id, on_position=lambda *_: heard.set()):
            raise AssertionError("there was no room")

    task = asyncio.create_task(wait())
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await gate.job("one", job_id)).status == "cancelled"
    assert (await gate.pool("one")).queued == 0
    await gate.cancel("one", holder.job_id)


async def test_a_cancellation_at_any_moment_leaves_the_line_empty(gate: AsyncGate) -> None:
    holder = await gate.acquire("one")

    async def wait() -> None:
        async with gate.slot("one"):
            raise AssertionError("there was no room")

    for turns in range(0, 60, 4):
        task = asyncio.create_task(wait())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    pool = await gate.pool("one")
    assert (pool.queued, [job.job_id for job in pool.holders]) == (0, [holder.job_id])
    await gate.cancel("one", holder.job_id)


async def test_repeated_cancellation_leaves_the_line_empty(gate: AsyncGate) -> None:
    """anyio's scopes do: what has to be told goes on behind."""
    holder = await gate.acquire("one")
    job_id = fresh()
    with anyio.CancelScope() as scope:
        async with gate.slot("one", job_id=job_id, on_position=lambda *_: scope.cancel()):
            raise AssertionError("there was no room")
    assert scope.cancelled_caught
    assert (await until(lambda: _ended(gate, job_id, "one"), "the job has ended")).status == "cancelled"
    await gate.cancel("one", holder.job_id)


async def test_going_on_with_a_job_that_runs(gate: AsyncGate) -> None:
    """A worker that was started again, say: the same job_id is the same lease."""
    job_id = fresh()
    job = await gate.acquire("brief", job_id=job_id)
    assert job.lease is not None
    async with gate.slot("brief", job_id=job_id) as lease:
        assert lease.lease_id == job.lease.lease_id
        await until(lambda: lease.expires_at > job.lease.expires_at + timedelta(seconds=1), "it is renewed again and again")
    assert lease.job.status == "completed"


@pytest.mark.parametrize("seconds", [0, 0.3])
async def test_a_wait_has_a_limit(gate: AsyncGate, seconds: float) -> None:
    holder = await gate.acquire("one")
    job_id = fresh()
    with pytest.raises(TimeoutError) as over:
        async with gate.slot("one", job_id=job_id, credits=2, wait_seconds=seconds):
            raise AssertionError("there was no room")
    assert isinstance(over.value, GateError) and over.value.code == "wait_timeout"
    assert over.value.job is not None and over.value.job.position == 1
    job = await gate.job("one", job_id)
    assert (job.status, job.refund and job.refund.amount) == ("cancelled", 2)
    await gate.cancel("one", holder.job_id)


async def test_holder_binds_the_task_of_its_provider(gate: AsyncGate) -> None:
    task_id = fresh()
    async with gate.slot() as lease:
        with pytest.raises(Invalid, match="'third' is no account of runninghub in pool 'default', which has none"):
            await lease.bind_task("runninghub", task_id, account="third")
        await lease.bind_task("runninghub", task_id)
        assert lease.job.task == {"provider": "runninghub", "task_id": task_id}
        with pytest.raises(TaskTaken):
            async with gate.slot() as other:
                await other.bind_task("runninghub", task_id)
        again = await gate.bind_task("default", lease.job_id, "runninghub", task_id, lease_id=lease.lease_id)
        assert again.task == lease.job.task
    assert lease.job.status == "completed"


async def test_a_job_that_ends_in_line(gate: AsyncGate) -> None:
    holder = await gate.acquire("impatient")
    with pytest.raises(JobEnded) as ended:
        async with gate.slot("impatient"):
            raise AssertionError("there was no room")
    assert ended.value.job is not None
    assert (ended.value.job.status, ended.value.job.end_reason) == ("expired", "queue_timeout")
    await gate.cancel("impatient", holder.job_id)


async def test_a_listener_that_raises(gate: AsyncGate) -> None:
    holder = await gate.acquire("one")
    with pytest.raises(json.JSONDecodeError):
        async with gate.slot("one", on_position=lambda *_: json.loads("{")):
            raise AssertionError("there was no room")
    assert (await gate.pool("one")).queued == 0
    await gate.cancel("one", holder.job_id)
