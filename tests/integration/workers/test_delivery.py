"""What gate calls: each call of a tool at least once, in order per job, by one server at a time, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gate.diagnostics.verify import verify
from gate.ledger import Delivery
from gate.ledger.transitions import deliveries
from gate.model.job import Request
from gate.model.tool import Tool as Named
from gate.model.tool import Tools
from gate.runtime.wiring import ExternalServices, RunningGate, open_gate
from gate.workers import delivery as deliver
from gate.workers.delivery import UNWELL_TRIES
from gate.workers.webhook_client import WebhookClient, WebhookResponse
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.script_lane import settings_of
from tests.support.tool import SECRET, Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
TABLE = "upscaler_jobs"
MANAGER = "/functions/v1/runninghub-queue-manager"
TOKEN = '[providers.runninghub]\ntoken = "t0ken"\n'


@pytest.fixture
def tool() -> Iterator[Tool]:
    with Tool().running() as running:
        yield running


@contextlib.contextmanager
def serving(folder: Path, tool: Tool, more: str = "", events: bool = True, **environment: str) -> Iterator[Served]:
    with Served(folder, config=tool.config(events=events) + TOKEN + more, **environment) as served:
        yield served


def enqueue(served: Served, table: str = TABLE, **body: Any) -> tuple[str, Any]:
    job_id = fresh()
    answer = served.post(f"{MANAGER}/run-or-queue", {"table": table, "jobId": job_id, "creditCost": 10} | body)
    return job_id, answer


def job(served: Served, job_id: str, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/pools/default/jobs/{job_id}", params=query).json()
    return found


def call_back(served: Served, task_id: str, **event: Any) -> str:
    data = {"code": 0, "msg": "success", "data": [{"fileUrl": "https://f/1.png", "fileType": "png"}]} | event
    body = {"event": "TASK_END", "taskId": task_id, "eventData": data}
    answer = served.post("/functions/v1/runninghub-webhook?token=t0ken", body)
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["result"]
    return said


async def test_a_free_slot_is_started_before_the_answer_and_the_next_when_it_is_granted(tmp_path: Path, tool: Tool) -> None:
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:
        first, answer = enqueue(served, job_payload={"prompt": "a fox"})
        assert answer.json() == {
            "success": True, "queued": False, "position": 0, "totalQueued": 0, "status": "running", "taskId": f"t-{first}",
        }  # fmt: skip
        (start,) = tool.starts(first)
        assert start.body["type"] == "job.start" and start.job["payload"] == {"prompt": "a fox"}
        assert start.job["status"] == "granted" and start.job["lease"]["lease_id"]
        second, answer = enqueue(served)
        assert answer.json() == {"success": True, "queued": True, "position": 1, "totalQueued": 1, "status": "queued"}
        third, _ = enqueue(served)
        await until(lambda: tool.told(third), "its place is told")
        (queued,) = [call.job for call in tool.calls if call.path == "/events" and call.job["job_id"] == third]
        assert (queued["position"], queued["queue_length"]) == (2, 2)
        assert call_back(served, f"t-{first}") == "applied"
        await until(lambda: tool.told(first)[-1:] == ["job.completed"], "its end is told")
        assert tool.told(first) == ["job.queued", "job.granted", "job.running", "job.completed"]
        await until(lambda: job(served, second)["status"] == "running", "the next is started")
        assert job(served, second)["task"] == {"provider": "runninghub", "task_id": f"t-{second}"}


async def test_who_polls_does_not_claim_what_gate_starts(tmp_path: Path, tool: Tool) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        asked.set()
        go.wait(20)
        return 200, {"task_id": "slow"}

    tool.answer = slow
    with serving(tmp_path, tool) as served:
        job_id = fresh()
        body = {"table": TABLE, "jobId": job_id}
        waiting = threading.Thread(target=served.post, args=(f"{MANAGER}/enqueue", body))
        waiting.start()
        assert asked.wait(10)
        granted = job(served, job_id)
        assert granted["status"] == "granted"
        for verb, body in (("claim", {}), ("renew", {}), ("task", {"provider": "runninghub", "task_id": "mine"})):
            at = f"/v1/pools/default/jobs/{job_id}/{verb}"
            sent = {"lease_id": granted["lease"]["lease_id"]} | body
            refused = served.http.request("PUT" if verb == "task" else "POST", at, json=sent)
            assert (refused.status_code, refused.json()["code"]) == (409, "started_by_gate"), verb
        assert job(served, job_id) == granted, "nothing was changed"
        said = served.post(f"{MANAGER}/check", {"table": TABLE, "jobId": job_id}).json()
        assert (said["available"], said["slotsAvailable"]) == (False, 0), "it is not for the caller to start"
        go.set()
        waiting.join()
        running = job(served, job_id)
        assert running["task"]["task_id"] == "slow"
        assert served.act(running, "renew").status_code == 200, "then it has a heartbeat like any other"


BUSY = [
    (200, {"outcome": "refused"}), (409, {}), (429, {"error": "busy"}),
    *((200, {"code": code, "msg": "busy", "data": None}) for code in (415, 421, 1003, 1011, 1520)),
    (200, {"taskId": "", "status": "", "errorCode": "421", "errorMessage": "TASK_QUEUE_MAXED"}),
    (400, {"errorCode": 1520}),
]  # fmt: skip
"""Answers of real tools that pass on what their provider said: its first interface, its second one, and words of their own."""


@pytest.mark.parametrize("answer", BUSY, ids=repr)
async def test_a_refused_start_goes_back_to_its_place_and_is_started_anew(
    tmp_path: Path, tool: Tool, answer: tuple[int, Any]
) -> None:
    answers = itertools.chain([answer], itertools.repeat((200, {"task_id": "at last"})))
    tool.answer = lambda body: next(answers)
    with serving(tmp_path, tool, GATE_COOLDOWN_SECONDS="0.5") as served:
        job_id, said = enqueue(served)
        assert said.json()["queued"] is True and said.json()["position"] == 1
        await until(lambda: job(served, job_id)["status"] == "running", "it is started after the cool-down")
        first, second = tool.starts(job_id)
        assert first.webhook_id != second.webhook_id, "it is another grant"
        assert first.job["lease"]["fence"] < second.job["lease"]["fence"]
        assert job(served, job_id)["refund"] is None


@pytest.mark.parametrize(
    "answer", [(422, {"error": "the picture is empty"}), (200, {"code": 433, "msg": "the picture is empty", "data": None}),
               (200, {"taskId": "", "errorCode": "433", "errorMessage": "the picture is empty"})], ids=repr,
)  # fmt: skip
async def test_a_start_that_fails_for_good_is_paid_back_and_said_so(
    tmp_path: Path, tool: Tool, answer: tuple[int, Any]
) -> None:
    tool.answer = lambda body: answer
    with serving(tmp_path, tool) as served:
        job_id, said = enqueue(served)
        assert said.status_code == 400
        assert said.json() == {"success": False, "error": "the picture is empty", "refunded": True}
        ended = job(served, job_id)
        assert (ended["status"], ended["ended_by"], ended["refund"]["amount"]) == ("failed", "tool", 10)
        again = served.post(f"{MANAGER}/run-or-queue", {"table": TABLE, "jobId": job_id, "creditCost": 10})
        assert (again.status_code, again.json()) == (400, said.json()), "a repeat answers as the first"
        assert len(tool.starts(job_id)) == 1
        await until(lambda: tool.told(job_id)[-1:] == ["job.failed"], "the failure is told")


@pytest.mark.parametrize(
    "answer",
    [{"code": 0, "data": {"taskId": 1900000000000000001}}, {"code": 804, "data": {"taskId": "1900000000000000001"}},
     {"code": "813", "data": {"taskId": 1900000000000000001}}, {"taskId": "1900000000000000001", "status": "QUEUED", "errorCode": ""}],
    ids=repr,
)  # fmt: skip
async def test_a_start_answered_in_the_providers_own_words_is_bound_to_its_task(
    tmp_path: Path, tool: Tool, answer: dict[str, Any]
) -> None:
    tool.answer = lambda body: (200, answer)
    with serving(tmp_path, tool) as served:
        job_id, said = enqueue(served)
        assert said.json()["taskId"] == "1900000000000000001"
        assert job(served, job_id)["task"] == {"provider": "runninghub", "task_id": "1900000000000000001"}


async def test_a_tool_that_fails_is_called_again_by_the_same_name_then_the_job_goes_back_to_its_place(
    tmp_path: Path, tool: Tool
) -> None:
    well = threading.Event()
    tool.answer = lambda body: (200, {"task_id": "at last"}) if well.is_set() else (503, {"error": "no GPU"})
    with serving(tmp_path, tool, GATE_COOLDOWN_SECONDS="0.5") as served:
        job_id, said = enqueue(served)
        assert (said.status_code, said.json()["queued"], said.json()["status"]) == (200, True, "queued")
        assert job(served, job_id)["refund"] is None
        starts = tool.starts(job_id)
        assert len({call.webhook_id for call in starts[:UNWELL_TRIES]}) == 1, "it may have started, and lost its answer"
        closed = "select result, error from @deliveries where kind = 'start' and done_at is not null order by id"
        await until(lambda: served.sql(closed)[:1] == [("refused", "no GPU")], "why it was not started is kept")
        well.set()
        await until(lambda: job(served, job_id)["status"] == "running", "it is started when the tool is well")


async def test_a_start_whose_answer_is_lost_is_started_once(tmp_path: Path, tool: Tool) -> None:
    tasks: dict[str, str] = {}

    def loses(body: dict[str, Any]) -> tuple[int, Any]:
        job_id = body["data"]["job_id"]
        if job_id not in tasks:
            tasks[job_id] = f"only-{job_id}"
            return 502, {"error": "Bad Gateway"}
        return 200, {"task_id": tasks[job_id]}

    tool.answer = loses
    with serving(tmp_path, tool) as served:
        job_id, said = enqueue(served)
        assert said.json()["taskId"] == f"only-{job_id}"
        assert len({call.webhook_id for call in tool.starts(job_id)}) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 307])
async def test_a_wrong_start_address_keeps_its_own_jobs_back_and_fails_none(tmp_path: Path, tool: Tool, status: int) -> None:
    well = threading.Event()
    tool.answer = lambda body: (200, {"task_id": "t-" + body["data"]["job_id"]}) if well.is_set() else (status, {"msg": "no"})
    with (
        Tool().running() as other,
        serving(tmp_path, tool, other.config("pose_changer_jobs"), GATE_LIMIT="2", GATE_COOLDOWN_SECONDS="2") as served,
    ):
        down = [enqueue(served)[0] for _ in range(12)]
        await until(lambda: {job(served, one)["status"] for one in down} == {"queued"}, "none of the twelve is failed")
        _, said = enqueue(served, "pose_changer_jobs")
        assert said.json()["taskId"], "a job of another tool passes them"
        caller = served.acquire(job_id=fresh(), tool="movieled_maker_jobs", wait_seconds=10)
        assert caller.json()["status"] in ("granted", "running"), "so does one that its caller starts"
        assert {job(served, one)["refund"] is None for one in down} == {True}
        found = run_gate("doctor", "--json", cwd=tmp_path)
        assert [one["what"] for one in json.loads(found.stdout) if one["about"] == TABLE] == ["tool_down"], found.stdout
        assert "the provider's key" in found.stdout
        assert "tool.start_address_fails" in (tmp_path / "errors.log").read_text()
        well.set()
        for one in (caller.json(), job(served, down[0])):
            served.act(one, "cancel")
        await until(lambda: job(served, down[1])["status"] == "running", "they are started when the address is right again")
        report = verify(served.sql_url, served.redis_url)
        assert report.breaches == [], report.breaches


async def test_a_waiter_whose_tool_is_down_says_so(tmp_path: Path, tool: Tool) -> None:
    tool.answer = lambda body: (404, {})
    with serving(tmp_path, tool, GATE_LIMIT="1", GATE_COOLDOWN_SECONDS="60") as served:
        done = served.acquire(job_id=fresh()).json()
        served.act(done, "release", outcome="completed")  # from here on there are estimates
        job_id, said = enqueue(served)
        assert said.json()["queued"] is True
        assert (job(served, job_id)["reason"], job(served, job_id)["eta_seconds"]) == ("tool_down", None)
        holder = served.acquire(job_id=fresh()).json()
        behind = served.acquire(job_id=fresh()).json()
        assert (behind["reason"], behind["eta_seconds"] is None) == ("pool_full", False)
        assert job(served, job_id)["reason"] == "tool_down", "a free slot would not help it"
        (line,) = [text for text in run_gate("status", cwd=tmp_path).stdout.splitlines() if job_id in text]
        assert "tool down" in line and "turn in" not in line
        for one in (holder, behind):
            served.act(one, "cancel")


@pytest.mark.parametrize("seconds", [27, 60])
async def test_a_start_slower_than_its_answer_is_let_finish(tmp_path: Path, tool: Tool, seconds: int) -> None:
    """Callers take `queued` for a success, and anything without a task for a failure."""
    tool.answer = lambda body: (time.sleep(seconds), (200, {"task_id": "slow"}))[1]
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="10") as served:
        job_id, said = enqueue(served)
        answer = said.json()
        assert (answer["success"], answer["queued"], answer["position"], answer["status"]) == (True, True, 1, "starting")
        again = served.post(f"{MANAGER}/check-user-active", {"userId": "ana"}).json()
        assert again["hasActiveJob"] is False
        at = f"/v1/pools/default/jobs/{job_id}"
        running = served.http.get(at, params={"wait_seconds": 60, "status": "granted"}).json()
        assert (running["status"], running["task"]["task_id"]) == ("running", "slow")
        assert len(tool.starts(job_id)) == 1, "and it was called once"
        repeat = served.post(f"{MANAGER}/run-or-queue", {"table": TABLE, "jobId": job_id}).json()
        assert (repeat["duplicate"], repeat["taskId"], repeat["status"]) == (True, "slow", "running")


async def test_a_start_that_is_under_way_is_asked_again_and_keeps_its_grant(tmp_path: Path, tool: Tool) -> None:
    """An earlier call of the same start was cut off, by a restart of gate for example, and the tool is still at it."""
    answers = itertools.chain([(202, {"outcome": "starting"})] * 4, itertools.repeat((200, {"task_id": "at last"})))
    tool.answer = lambda body: next(answers)
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="2") as served:
        job_id = fresh()
        asking = threading.Thread(target=_quietly, args=(served, {"table": TABLE, "jobId": job_id}))
        asking.start()
        await until(lambda: job(served, job_id)["status"] == "running", "it is started", 20)
        asking.join()
        assert {call.webhook_id for call in tool.starts(job_id)} == {tool.starts(job_id)[0].webhook_id}, "one grant"
        assert len(tool.starts(job_id)) == 5 and job(served, job_id)["task"]["task_id"] == "at last"


async def test_a_start_may_take_longer_than_the_claim_time_and_the_hold_of_its_row(tmp_path: Path, tool: Tool) -> None:
    go = threading.Event()
    tool.answer = lambda body: (go.wait(20), (200, {"task_id": "slow"}))[1]
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="1") as served:
        job_id = fresh()
        asking = threading.Thread(target=_quietly, args=(served, {"table": TABLE, "jobId": job_id}))
        asking.start()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 3, "three claim times pass", 10)
        assert job(served, job_id)["status"] == "granted"
        go.set()
        asking.join()
        assert job(served, job_id)["task"]["task_id"] == "slow"


async def test_an_answer_after_the_end_of_its_job_starts_nothing(tmp_path: Path, tool: Tool) -> None:
    asked, over = threading.Event(), threading.Event()
    tool.answer = lambda body: (asked.set(), over.wait(20), (200, {"task_id": "late"}))[2]
    with serving(tmp_path, tool) as served:
        job_id = fresh()
        asking = threading.Thread(target=_quietly, args=(served, {"table": TABLE, "jobId": job_id}))
        asking.start()
        assert asked.wait(10)
        served.act(job(served, job_id), "cancel")
        over.set()
        asking.join()
        await until(
            lambda: (tmp_path / "errors.log").read_text().count("delivery.answered_too_late"), "the late answer is heard"
        )
        await until(lambda: job(served, job_id)["task"], "its task is bound, so that its provider's word is kept")
        assert job(served, job_id)["status"] == "cancelled"
        assert call_back(served, "late") == "late"
        assert job(served, job_id)["late_output"]["files"][0]["url"] == "https://f/1.png"
        await until(lambda: tool.told(job_id)[-1:] == ["job.late"], "its tool is told")


async def test_a_callback_faster_than_the_answer_to_the_start_ends_the_job(tmp_path: Path, tool: Tool) -> None:
    with serving(tmp_path, tool, GATE_LIMIT="1") as served:

        def quick(body: dict[str, Any]) -> tuple[int, Any]:
            task_id = "quick-" + body["data"]["job_id"]
            assert call_back(served, task_id) == "kept"
            return 200, {"task_id": task_id}

        tool.answer = quick
        for _ in range(2):  # the second needs the slot of the first
            job_id, said = enqueue(served)
            assert said.json()["success"] is True and said.json()["taskId"] == f"quick-{job_id}"
            assert (job(served, job_id)["status"], job(served, job_id)["ended_by"]) == ("completed", "provider")
        await until(lambda: tool.told(job_id)[-1:] == ["job.completed"], "the end is told")
        assert tool.told(job_id) == ["job.queued", "job.granted", "job.running", "job.completed"]


@pytest.mark.parametrize("way", ["a browser's own clock", "a cancel"])
async def test_a_success_after_an_end_that_was_not_the_providers_is_kept_and_told(
    tmp_path: Path, tool: Tool, way: str
) -> None:
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        if way == "a cancel":
            assert served.act(job(served, job_id), "cancel").status_code == 200
        else:
            body = {"table": TABLE, "jobId": job_id, "status": "failed", "errorMessage": "took too long"}
            assert served.post(f"{MANAGER}/finish", body).json() == {"success": True, "refundedAmount": 10}
        before = job(served, job_id)
        assert call_back(served, f"t-{job_id}") == "late"
        after = job(served, job_id)
        assert after["late_outcome"] == "completed" and after["late_output"]["files"][0]["url"] == "https://f/1.png"
        assert {name: after[name] for name in before if not name.startswith("late_")} == {
            name: before[name] for name in before if not name.startswith("late_")
        }, "the end and its refund stand"
        await until(lambda: tool.told(job_id)[-1:] == ["job.late"], "its tool is told")
        (late,) = [call.job for call in tool.calls if call.body["type"] == "job.late"]
        assert late["late_output"] == after["late_output"] and late["status"] == after["status"]
        done = {"table": TABLE, "jobId": job_id, "status": "completed", "outputUrl": "https://f/2.png"}
        assert served.post(f"{MANAGER}/finish", done).json()["skipped"] is True
        assert job(served, job_id) == after, "the first success is kept"
        assert verify(served.sql_url, served.redis_url).breaches == []


async def test_a_callback_at_the_old_path_finds_the_pool_of_its_tool(tmp_path: Path, tool: Tool) -> None:
    """Bound before or after it comes, and with no finding that its task is bound to no job."""
    asked = threading.Event()

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        task_id = "t-" + body["data"]["job_id"]
        if asked.is_set():
            assert call_back(served, task_id) == "kept"
        return 200, {"task_id": task_id}

    tool.answer = answer
    with Served(tmp_path, config=tool.config("video_upscaler_jobs") + 'pool = "video"\n' + TOKEN) as served:
        for faster in (False, True):
            if faster:
                asked.set()
            job_id, said = enqueue(served, "video_upscaler_jobs")
            assert said.json()["taskId"] == f"t-{job_id}"
            if not faster:
                assert call_back(served, f"t-{job_id}") == "applied"
            ended = served.http.get(f"/v1/pools/video/jobs/{job_id}").json()
            assert (ended["status"], ended["ended_by"]) == ("completed", "provider")
            assert call_back(served, f"t-{job_id}") == "repeat"
        found = run_gate("doctor", "--json", cwd=tmp_path)
        assert json.loads(found.stdout) == [], found.stdout


async def test_a_call_under_way_when_gate_is_killed_is_made_again_by_the_same_name(tmp_path: Path, tool: Tool) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        asked.set()
        go.wait(20)
        return 200, {"task_id": "once"}

    tool.answer = slow
    with serving(tmp_path, tool) as served:
        job_id = fresh()
        body = {"table": TABLE, "jobId": job_id}
        asking = threading.Thread(target=_quietly, args=(served, body))
        asking.start()
        assert asked.wait(10)
        served.kill()
        asking.join()
        go.set()
        served.start()
        await until(lambda: job(served, job_id)["status"] == "running", "it is started after all")
        starts = tool.starts(job_id)
        assert len(starts) == 2 and len({call.webhook_id for call in starts}) == 1
        assert starts[0].body == starts[1].body
        await until(lambda: tool.told(job_id)[-1:] == ["job.running"], "every change is told")
        assert list(dict.fromkeys(tool.told(job_id))) == ["job.queued", "job.granted", "job.running"]


def _quietly(served: Served, body: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        served.post(f"{MANAGER}/enqueue", body)


async def test_events_of_a_job_wait_for_each_other_and_other_jobs_do_not(tmp_path: Path, tool: Tool) -> None:
    away: set[str] = set()
    tool.events_answer = lambda body: 500 if body["data"]["job_id"] in away else 204
    with serving(tmp_path, tool) as served:
        stuck, other = fresh(), fresh()
        away.add(stuck)
        for job_id in (stuck, other):
            assert served.post(f"{MANAGER}/run-or-queue", {"table": TABLE, "jobId": job_id}).json()["success"]
        await until(lambda: tool.told(other)[-1:] == ["job.running"], "the other job is told of")
        assert set(tool.told(stuck)) == {"job.queued"}, "the second waits for the first"
        assert job(served, stuck)["status"] == "running", "and holds up nothing else"
        away.clear()
        await until(lambda: tool.told(stuck)[-1:] == ["job.running"], "the rest is told")
        assert list(dict.fromkeys(tool.told(stuck))) == ["job.queued", "job.granted", "job.running"]


async def test_a_tool_that_hangs_is_in_nobodys_way(tmp_path: Path, tool: Tool) -> None:
    go = threading.Event()
    tool.answer = lambda body: (go.wait(30), (200, {}))[1]
    tool.events_answer = lambda body: (go.wait(30), 204)[1]
    with Tool().running() as other, serving(tmp_path, tool, other.config("pose_changer_jobs"), GATE_LIMIT="60") as served:
        try:
            hanging = [
                threading.Thread(target=_quietly, args=(served, {"table": TABLE, "jobId": fresh()})) for _ in range(20)
            ]
            for one in hanging:
                one.start()
            await until(lambda: len(job_ids(served)) == 20, "they hold their slots")
            began = time.monotonic()
            for _ in range(20):
                taken = served.acquire().json()
                assert served.act(taken, "release", outcome="completed").status_code == 200
            _, said = enqueue(served, "pose_changer_jobs")
            assert said.json()["taskId"], "another tool's job is started"
            assert time.monotonic() - began < 5
        finally:
            go.set()
            for one in hanging:
                one.join()


def job_ids(served: Served) -> list[str]:
    return [one["job_id"] for one in served.http.get("/v1/pools/default").json()["holders"]]


@contextlib.asynccontextmanager
async def two_servers(valkey: str, pool: str, sql_url: str, tool: Tool) -> AsyncIterator[list[RunningGate]]:
    named = Named(TABLE, TABLE, "runninghub", f"{tool.url}/start", f"{tool.url}/events", SECRET)
    async with contextlib.AsyncExitStack() as closing:
        yield [
            await closing.enter_async_context(
                open_gate(valkey, sql_url, {pool: settings_of(limit=40)}, outside=ExternalServices(Tools({TABLE: named})))
            )
            for _ in range(2)
        ]


async def test_two_servers_never_call_at_once_for_one_grant(valkey: str, pool: str, sql_url: str, tool: Tool) -> None:
    async with two_servers(valkey, pool, sql_url, tool) as servers:
        names = [fresh() for _ in range(40)]
        for n, name in enumerate(names):
            await servers[n % 2].services.admission.enqueue(pool, Request(name, tool=TABLE))
        await until(lambda: len(tool.starts()) >= 40, "all are started")
        await until(lambda: all(tool.told(name)[-1:] == ["job.running"] for name in names), "all is told")
        for name in names:
            assert len(tool.starts(name)) == 1
            assert tool.told(name) == ["job.queued", "job.granted", "job.running"], "once, and in order"
            done = await servers[0].services.queries.job(pool, name)
            await servers[0].services.jobs.release(pool, name, done.lease_id or "", "completed")


async def test_a_row_is_held_until_its_call_is_over_or_held_again() -> None:
    assert deliver.HOLD_MS["event"] >= deliver.ANSWER_S["event"] * 1000 + 1000
    assert deliver.HOLD_MS["start"] >= 2 * deliver.HOLD_AGAIN_S * 1000 + 1000
    assert (
        deliver.CALLED_WITHIN_S["start"] > deliver.FIRST_HOLD_S
        and deliver.CALLED_WITHIN_S["event"] >= deliver.ANSWER_S["event"]
    )
    assert deliveries.GIVE_UP_MS == 24 * 3600 * 1000


def call_for(table: str = TABLE, kind: str = "start") -> Delivery:
    body = json.dumps({"type": f"job.{kind}", "data": {"job_id": "j"}})
    return Delivery(1, "msg_1", "j", "default", table, kind, f"job.{kind}", body, 1, "lease")


async def test_a_row_that_was_taken_too_long_ago_is_given_back_uncalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another server's by the time the call is over: this one stood still, or its commit took its time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(deliver, "time", SimpleNamespace(monotonic=lambda: clock.now))
    called: list[Delivery] = []
    put_off = asyncio.Event()

    class Rows:
        async def take(self, *_how: object) -> list[Delivery]:
            clock.now += deliver.HOLD_MS["start"] / 1000 - deliver.CALLED_WITHIN_S["start"] + 0.1
            return [call_for()]

        async def put_off(self, *_how: object) -> bool:
            put_off.set()
            return True

    class Calls:
        async def call(self, _tool: Named, delivery: Delivery, _within_s: float) -> WebhookResponse:
            called.append(delivery)
            return WebhookResponse(None, {})

    tools = Tools({TABLE: Named(TABLE, TABLE, start_url="http://127.0.0.1:1/start")})
    delivering = deliver.DeliveryWorker(cast(Any, Rows()), tools, cast(Any, None), cast(Any, Calls()))
    await delivering._take()
    await asyncio.wait_for(put_off.wait(), 5)
    assert not called


async def test_tools_that_hang_leave_room_for_the_calls_of_another(tool: Tool) -> None:
    hung, go = itertools.count(1), asyncio.Event()
    many = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(hung) == 100:
            many.set()
        await go.wait()
        writer.close()

    caller = WebhookClient()
    async with await asyncio.start_server(hang, "127.0.0.1", 0, backlog=200) as server:
        port = server.sockets[0].getsockname()[1]
        hangs = Named(TABLE, TABLE, start_url=f"http://127.0.0.1:{port}/start", secret=SECRET)
        good = Named(TABLE, TABLE, start_url=f"{tool.url}/start", secret=SECRET)
        hanging = [asyncio.create_task(caller.call(hangs, call_for(), 20)) for _ in range(120)]
        try:
            await asyncio.wait_for(many.wait(), 10)
            assert (await caller.call(good, call_for(), 5)).good
        finally:
            go.set()
            await asyncio.gather(*hanging)
            await caller.aclose()


async def test_of_an_answer_nothing_is_unpacked_and_no_cookie_is_kept() -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        packed = gzip.compress(b'{"task_id": "packed"}')
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n" + packed)
        await writer.drain()
        writer.close()

    caller = WebhookClient()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        named = Named(TABLE, TABLE, start_url=f"http://127.0.0.1:{port}/start", secret=SECRET)
        answers = [await caller.call(named, call_for(), 10) for _ in range(2)]
        await caller.aclose()
    assert all(one.good and one.task_id is None for one in answers)
    assert all("accept-encoding: identity" in head and "cookie:" not in head for head in heads), heads


async def test_a_check_and_an_enqueue_of_one_job_at_once_have_one_starter(tmp_path: Path, tool: Tool) -> None:
    """Whoever comes first to Redis decides it, whichever of them is first in SQL."""
    with serving(tmp_path, tool, events=False, GATE_LIMIT="200") as served, ThreadPoolExecutor(2) as two:
        for _ in range(40):
            body = {"table": TABLE, "jobId": fresh()}
            asked, _ = two.map(
                lambda path, body=body: served.post(f"{MANAGER}/{path}", body).json(), ("check", "run-or-queue")
            )
            assert asked["available"] is not bool(tool.starts(body["jobId"])), "one of them starts it, and only one"


async def test_why_a_start_was_not_answered_is_kept_when_its_time_is_over(tmp_path: Path, tool: Tool) -> None:
    tool.answer = lambda body: (503, {"error": "no GPU"})
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="1") as served:
        enqueue(served)
        over = "select error from @deliveries where result = 'over'"
        await until(lambda: served.sql(over) == [("no GPU",)], "it is over, and says why")
