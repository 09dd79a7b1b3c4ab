"""Start calls: one task for each grant, or the job goes back to its place, or it is refunded."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from gate.workers.delivery import UNWELL_TRIES
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.started_by_gate import MANAGER, TABLE, call_back, enqueue, job, quietly, serving, tool
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
__all__ = ["tool"]


BUSY = [
    (200, {"outcome": "refused"}), (409, {}), (429, {"error": "busy"}),
    *((200, {"code": code, "msg": "busy", "data": None}) for code in (415, 421, 1003, 1011, 1520)),
    (200, {"taskId": "", "status": "", "errorCode": "421", "errorMessage": "TASK_QUEUE_MAXED"}),
    (400, {"errorCode": 1520}),
]  # fmt: skip


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


async def test_a_start_call_names_the_account_and_never_its_key(tmp_path: Path, tool: Tool) -> None:
    account = 'base_url = "http://127.0.0.1:9"\n[providers.runninghub.accounts.second]\nkey = "a-key-of-the-test-0123"\n'
    with serving(tmp_path, tool, account) as served:
        first, _ = enqueue(served)
        (start,) = tool.starts(first)
        assert start.job["account"] == "second" and "a-key-of-the-test" not in json.dumps(start.body)
        assert job(served, first)["account"] == "second"


async def test_a_poll_does_not_claim_a_job_that_gate_starts(tmp_path: Path, tool: Tool) -> None:
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


def cooling_s(served: Served) -> float:
    """How long the pool cools down from now on."""
    until_at = served.http.get("/v1/pools/default").json()["cooling_until"]
    return (datetime.fromisoformat(until_at) - datetime.now(UTC)).total_seconds() if until_at else 0.0


async def test_retry_after_of_a_refused_start_is_the_shortest_cool_down(tmp_path: Path, tool: Tool) -> None:
    tool.answer, tool.headers = lambda body: (429, {"error": "busy"}), {"Retry-After": "40"}
    with serving(tmp_path, tool, GATE_COOLDOWN_SECONDS="0.5") as served:
        job_id, _ = enqueue(served)
        await until(lambda: job(served, job_id)["reason"] == "cooling_down", "the pool cools down")
        assert 30 < cooling_s(served) <= 40
        assert len(tool.starts(job_id)) == 1


async def test_retry_after_of_an_unwell_tool_is_the_shortest_pause(tmp_path: Path, tool: Tool) -> None:
    tool.answer, tool.headers = lambda body: (503, {"error": "no GPU"}), {"Retry-After": "1"}
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        first, second = await until(lambda: len(found := tool.starts(job_id)) > 1 and found[:2], "it is called again")
        assert second.at - first.until > 0.98 and first.webhook_id == second.webhook_id, "the same grant"


async def test_unwell_tool_that_asks_for_more_than_the_claim_time_keeps_no_slot(tmp_path: Path, tool: Tool) -> None:
    tool.answer, tool.headers = lambda body: (503, {"error": "no GPU"}), {"Retry-After": "120"}
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="2") as served:
        job_id, _ = enqueue(served)
        await until(lambda: job(served, job_id)["reason"] == "cooling_down", "it is back at its place")
        assert 100 < cooling_s(served) <= 120
        assert len(tool.starts(job_id)) == 1


async def test_redirect_of_a_call_is_an_error_at_once_that_says_where_to(tmp_path: Path, tool: Tool) -> None:
    tool.answer = lambda body: (307, None)
    tool.events_answer = lambda body: 301
    tool.headers = {"Location": "https://ana:pass@new.example/start?token=a-secret#there"}
    with serving(tmp_path, tool) as served:
        job_id, _ = enqueue(served)
        await until(lambda: job(served, job_id)["reason"] == "tool_down", "the job is back at its place, not failed")
        errors = "select kind, error from @deliveries where error is not null order by kind"
        both = await until(lambda: len(found := served.sql(errors)) == 2 and found, "both calls say why")
        assert [kind for kind, _ in both] == ["event", "start"]
        assert all("redirects to https://new.example/start" in why for _, why in both), both
        log = (tmp_path / "errors.log").read_text()
        assert "delivery.redirected" in log and "tool.start_address_fails" in log
        assert "a-secret" not in log + str(both) and "pass@" not in log + str(both)
        assert len([call for call in tool.calls if call.path == "/start"]) == 1


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


async def test_a_start_that_is_under_way_is_asked_again_and_keeps_its_grant(tmp_path: Path, tool: Tool) -> None:
    """An earlier call of the same start was cut off, by a restart of gate for example, and the tool is still at it."""
    answers = itertools.chain([(202, {"outcome": "starting"})] * 4, itertools.repeat((200, {"task_id": "at last"})))
    tool.answer = lambda body: next(answers)
    with serving(tmp_path, tool, GATE_CLAIM_SECONDS="2") as served:
        job_id = fresh()
        asking = threading.Thread(target=quietly, args=(served, {"table": TABLE, "jobId": job_id}))
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
        asking = threading.Thread(target=quietly, args=(served, {"table": TABLE, "jobId": job_id}))
        asking.start()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 3, "three claim times pass", 10)
        assert job(served, job_id)["status"] == "granted"
        go.set()
        asking.join()
        assert job(served, job_id)["task"]["task_id"] == "slow"


async def test_a_check_and_an_enqueue_of_one_job_at_once_have_one_starter(tmp_path: Path, tool: Tool) -> None:
    """The first one in Redis decides, whichever is first in SQL."""
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
