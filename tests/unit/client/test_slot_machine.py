"""The core without I/O: both clients say the same words, and a deadline is never thought later than gate means it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from gate.client import AsyncGate, Gate, Job, LeaseLost, Unreachable
from gate.client.gate_clock import GateClock
from gate.client.responses import Answer
from gate.client.slot_machine import SlotMachine
from gate.client.steps import Ask, Pause

pytestmark = pytest.mark.anyio

GATE_NOON = datetime(2001, 1, 1, 12, tzinfo=UTC)
"""gate's clock is far from the client's, without effect."""


def body(status: str, lease_s: float = 600, after_s: float = 0, **changed: Any) -> dict[str, Any]:
    def at(seconds: float) -> str:
        return (GATE_NOON + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    lease = {
        "lease_id": "L1", "fence": 1, "granted_at": at(0), "expires_at": at(after_s + lease_s), "hard_expires_at": at(3600),
    }  # fmt: skip
    waits = status == "queued"
    return {
        "job_id": "cat", "pool": "default", "user": "ana", "tool": None, "session": None, "credits": 0, "payload": None,
        "task": None, "status": status, "position": 1 if waits else None, "queue_length": 1 if waits else None,
        "reason": "pool_full" if waits else None, "eta_seconds": None, "enqueued_at": at(0),
        "lease": lease if status in ("granted", "running") else None, "ended_at": None, "ended_by": None, "end_reason": None,
        "error": None, "output": None, "refund": None, "late_outcome": None, "started_by": "caller",
    } | changed  # fmt: skip


class Script:
    """A gate that answers what is written, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.params.get("status") == "running":  # the watch of a holder: nothing happens
            return httpx2.Response(503, json={"code": "store_down", "title": "later"})
        self.asked.append((request.method, request.url.path, json.loads(request.content) if request.content else None))
        status, content = self.answers.pop(0)
        return httpx2.Response(status, json=content)


def test_presence_is_named_only_when_it_is_asked_for() -> None:
    def sent(**more: Any) -> Any:
        step = next(SlotMachine("default", **more).enter())
        assert isinstance(step, Ask) and step.call.body is not None
        return json.loads(step.call.body).get("presence_seconds")

    assert (sent(), sent(presence_seconds=20)) == (None, 20)


async def in_async(script: Script) -> str:
    async with AsyncGate("http://gate") as gate:
        gate._http = httpx2.AsyncClient(base_url="http://gate", transport=httpx2.MockTransport(script))
        try:
            async with gate.slot(job_id="cat", user="ana", lease_seconds=0.5) as lease:
                await asyncio.wait_for(_until(lambda: not script.answers[1:] or lease.lost.is_set()), 10)
        except LeaseLost as lost:
            return lost.code
        return lease.job.status


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def in_threads(script: Script) -> str:
    with Gate("http://gate") as gate:
        gate._http = httpx2.Client(base_url="http://gate", transport=httpx2.MockTransport(script))
        try:
            with gate.slot(job_id="cat", user="ana", lease_seconds=0.5) as lease:
                while script.answers[1:] and not lease.lost.wait(0.01):
                    pass
        except LeaseLost as lost:
            return lost.code
        return lease.job.status


QUEUED_GRANTED_RENEWED = [
    (503, {"code": "store_down", "title": "come again"}),
    (202, body("queued")),
    (200, body("granted")),
    (200, body("running", 0.5)),
    (200, body("running", 0.5, after_s=0.2)),
    (200, body("completed")),
]
LOST = [
    (200, body("running", 0.5)),
    (410, {"code": "lease_lost", "title": "lost", "job": body("expired")}),
    (410, {"code": "lease_lost", "title": "lost", "job": body("expired")}),
]


@pytest.mark.parametrize(
    "answers, verbs, end",
    [
        (QUEUED_GRANTED_RENEWED, ["acquire", "acquire", "cat", "claim", "renew", "release"], "completed"),
        (LOST, ["acquire", "renew", "release"], "lease_lost"),
    ],
    ids=["renewed", "lost"],
)
async def test_both_clients_say_the_same(answers: list[Any], verbs: list[str], end: str) -> None:
    one, other = Script(*answers), Script(*answers)
    ends = await in_async(one), await asyncio.to_thread(in_threads, other)
    asked = [[(method, path, _without_outcome(sent)) for method, path, sent in script.asked] for script in (one, other)]
    assert asked[0] == asked[1]
    assert [path.rsplit("/", 1)[1] for _, path, _ in one.asked] == verbs
    assert ends == (end, end)


def _without_outcome(sent: Any) -> Any:
    """A lost body is cut in the one and runs to its end in the other: only that differs."""
    return {name: value for name, value in sent.items() if name not in ("outcome", "error")} if sent else sent


class Now:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(now: Now, took: float, date: float | None = None, **words: Any) -> Answer[Job]:
    sent = now.now
    now.now += took
    return Answer(Job.of(body(**words)), sent, sent, date)


def test_the_time_that_is_left_is_measured_from_before_the_request() -> None:
    now = Now()
    passage = SlotMachine("default", user="ana", clock=now)
    steps = passage.enter()
    assert isinstance(next(steps), Ask)
    with pytest.raises(StopIteration):
        steps.send(answer(now, 4, status="running", lease_s=60))
    assert passage.deadline == pytest.approx(1060), "not 1064: gate may have answered at once, and the answer been slow"
    kept = passage.keep()
    watch = next(kept)
    assert isinstance(watch, Ask) and watch.call.method == "GET"
    pause = kept.send(answer(now, 10, status="running", lease_s=60))
    assert isinstance(pause, Pause), "the watch came back early"
    now.now += 10
    renewal = kept.send(None)
    assert isinstance(renewal, Ask) and renewal.call.path.endswith("/renew")
    assert renewal.within == pytest.approx(1060 - now.now)
    kept.send(answer(now, 1, status="running", lease_s=60, after_s=24))
    assert passage.deadline == pytest.approx(1084)


def test_a_job_that_ran_before_is_judged_by_the_date_of_the_answer() -> None:
    now, an_hour = Now(), 3600
    passage = SlotMachine("default", job_id="cat", clock=now)
    steps = passage.enter()
    next(steps)
    told = GATE_NOON.timestamp() + an_hour
    with pytest.raises(StopIteration):
        steps.send(answer(now, 1, date=told, status="running", lease_s=600, after_s=an_hour - 60))
    assert 1500 < passage.deadline <= 1540


def test_a_short_lease_that_ran_before_is_not_given_up_unasked() -> None:
    now, an_hour = Now(), 3000
    passage = SlotMachine("default", job_id="cat", clock=now)
    steps = passage.enter()
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(answer(now, 0.1, GATE_NOON.timestamp() + an_hour, status="running", lease_s=1, after_s=an_hour))
    assert passage.deadline == pytest.approx(now.now + 0.5)
    kept = passage.keep()
    next(kept)
    now.now += 0.2
    assert isinstance(kept.throw(Unreachable("the watch")), Pause)
    renewal = kept.send(None)
    assert isinstance(renewal, Ask) and renewal.call.path.endswith("/renew")
    sent = now.now
    kept.send(answer(now, 0.1, status="running", lease_s=1, after_s=an_hour + 0.3))
    assert passage.deadline == pytest.approx(sent + 0.5)


def test_the_clock_keeps_the_nearest_bound() -> None:
    clock = GateClock()
    assert not clock.known
    clock.saw(5000, after=1000)
    clock.saw(5100, after=1090)
    clock.saw(5200, after=1000)
    assert clock.here(datetime.fromtimestamp(5100, UTC)) == pytest.approx(1100)
