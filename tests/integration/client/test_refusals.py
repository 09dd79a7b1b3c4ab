"""Each refusal of gate is a class of its own, and says what gate said."""

from __future__ import annotations

import pytest

from gate.client import (
    AlreadyEnded,
    AsyncGate,
    GateError,
    Invalid,
    JobIdReused,
    JobUnknown,
    LeaseLost,
    PoolUnknown,
    QueueFull,
    StoreDown,
    TooLong,
    Unauthorized,
    Unreachable,
    UserBusy,
    UserQueueFull,
)
from gate.client.errors import _BY_CODE, refusal
from gate.http.problems import TABLE
from tests.support.names import fresh

pytestmark = pytest.mark.anyio


async def test_a_busy_user(gate: AsyncGate) -> None:
    user = fresh("u")
    async with gate.slot("capped", user=user) as lease:
        with pytest.raises(UserBusy) as refused:
            async with gate.slot("capped", user=user):
                raise AssertionError("the user is busy")
        assert refused.value.active_job_id == lease.job_id
        assert (refused.value.status, refused.value.code, refused.value.job) == (409, "user_busy", lease.job)


async def test_a_full_queue(gate: AsyncGate) -> None:
    jobs = [await gate.acquire("small") for _ in range(2)]
    with pytest.raises(QueueFull) as refused:
        async with gate.slot("small"):
            raise AssertionError("the queue is full")
    assert refused.value.retry_after is not None and refused.value.retry_after > 0
    for job in reversed(jobs):
        await gate.cancel("small", job.job_id)


async def test_a_wait_that_would_be_too_long(gate: AsyncGate) -> None:
    async with gate.slot("small"):
        pass
    holder = await gate.acquire("small", queue_seconds=20)
    await gate.claim("small", holder.job_id, holder.lease.lease_id) if holder.lease else None
    waits = await gate.acquire("small", queue_seconds=20)
    assert waits.queue_expires_at is not None and waits.likely in (None, "expires")
    assert (waits.queue_expires_at - waits.enqueued_at).total_seconds() == pytest.approx(20, abs=0.1)
    await gate.cancel("small", waits.job_id)
    with pytest.raises(TooLong) as refused:
        for _ in range(200):  # until a run is known, and the estimate is above nothing
            admitted = await gate.acquire("small", max_eta_seconds=0)
            await gate.cancel("small", admitted.job_id)
    assert refused.value.eta_seconds is not None and refused.value.retry_after is not None
    await gate.cancel("small", holder.job_id)


async def test_a_user_with_enough_waiting_jobs(gate: AsyncGate) -> None:
    user = fresh("u")
    jobs = [await gate.acquire("shared", user=user) for _ in range(2)]
    with pytest.raises(UserQueueFull) as refused:
        await gate.acquire("shared", user=user)
    assert isinstance(refused.value, QueueFull) and refused.value.retry_after is not None
    for job in reversed(jobs):
        await gate.cancel("shared", job.job_id)


async def test_the_id_of_another_job(gate: AsyncGate) -> None:
    job_id = fresh()
    async with gate.slot(job_id=job_id, user="ana"):
        with pytest.raises(JobIdReused) as refused:
            async with gate.slot(job_id=job_id, user="bruno"):
                raise AssertionError("it is ana's")
        assert refused.value.job is not None and refused.value.job.user == "ana"
        assert (await gate.job("default", job_id)).status == "running", "ana's job goes on"
    with pytest.raises(AlreadyEnded):
        async with gate.slot(job_id=job_id, user="ana"):
            raise AssertionError("it has ended")


async def test_what_is_unknown_or_of_no_form(gate: AsyncGate) -> None:
    with pytest.raises(PoolUnknown):
        await gate.pool("nowhere")
    with pytest.raises(JobUnknown):
        await gate.job("default", "nobody")
    with pytest.raises(Invalid) as invalid:
        await gate.acquire(credits=-1, job_id=fresh())
    assert invalid.value.field == "credits"
    job = await gate.acquire()
    with pytest.raises(LeaseLost):
        await gate.renew("default", job.job_id, "0" * 32)
    await gate.cancel("default", job.job_id, reason="done")


async def test_the_plain_calls(gate: AsyncGate) -> None:
    job_id, user = fresh(), fresh("u")
    job = await gate.acquire(job_id=job_id, user=user, tool="Pose Changer", session="s", credits=3, wait_seconds=1)
    assert job.lease is not None
    assert (await gate.claim("default", job_id, job.lease.lease_id)).status == "running"
    renewed = await gate.renew("default", job_id, job.lease.lease_id, lease_seconds=900)
    assert renewed.lease is not None and renewed.lease.expires_at > job.lease.expires_at
    assert [holder.job_id for holder in (await gate.pool()).holders] == [job_id]
    ended = await gate.release("default", job_id, job.lease.lease_id, "failed", error="why", output={"a": 1})
    assert (ended.ended, ended.error, ended.output) == (True, "why", {"a": 1})
    assert (await gate.balance(user)).net == 0
    assert await gate.active(user) is None


async def test_a_stopped_server_is_unreachable() -> None:
    async with AsyncGate("http://127.0.0.1:9", retry_seconds=0.2) as nowhere:
        with pytest.raises(Unreachable):
            async with nowhere.slot():
                raise AssertionError("no server listens")


def test_every_refusal_of_the_server_has_its_class() -> None:
    of_others = {
        "forged",
        "provider_unknown",
        "callback_unknown",
        "callback_applied",
        "no_task",
        "not_running",
        "pool_not_empty",
        "tool_unknown",
    }  # of providers, operators and the compatible routes
    assert {code for _, code, _ in TABLE.values()} - of_others <= _BY_CODE.keys()


@pytest.mark.parametrize(
    "status, content, kind",
    [
        (401, b"", Unauthorized),
        (502, b"<html>", Unreachable),
        (503, b"[]", StoreDown),
        (418, b'{"code": "teapot", "title": "I am one"}', GateError),
        (409, b'{"code": "user_busy", "title": "t", "job": {"job_id": "cut"}}', UserBusy),
    ],
)
def test_answers_that_are_not_gates_own(status: int, content: bytes, kind: type[GateError]) -> None:
    error = refusal(status, content, "2")
    assert type(error) is kind
    assert (error.status, error.retry_after, error.job) == (status, 2.0, None)
