"""From the front end through the functions and gate to the provider and back into the row that browsers watch."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import redis

from tests.proof.examples.platform import ANON_KEY
from tests.proof.examples.stage import MANAGER, TOKEN, Stage
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def running(stage: Stage) -> int:
    count: int = stage.simulator.seen()["running"]
    return count


def over(stage: Stage, job_id: str, **how: Any) -> None:
    """Its task comes to its end at the provider."""
    stage.simulator.control(tasks={stage.platform.row(job_id)["task_id"]: {"seconds": 0} | how})


def is_(stage: Stage, job_id: str, status: str) -> Callable[[], bool]:
    return lambda: stage.platform.row(job_id)["status"] == status


def burst(stage: Stage, n: int) -> list[tuple[str, dict[str, Any]]]:
    with ThreadPoolExecutor(n) as threads:
        return [(job_id, said.json()) for job_id, said in threads.map(lambda _: stage.run(), range(n))]


class Held:
    """The provider takes a call to start and does not answer before it may."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, path: str, _body: Any) -> Awaitable[None] | None:
        if path != "ai-app/run":
            return None
        self.asked.set()
        return self._answer()

    async def _answer(self) -> None:
        await asyncio.to_thread(self.go.wait, 20)


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """An address on which no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_three_run_the_fourth_waits_and_is_started_by_itself(empty: Stage) -> None:
    said = burst(empty, 4)
    started = [job_id for job_id, one in said if not one["queued"]]
    (waits,) = (job_id for job_id, one in said if one["queued"])
    assert running(empty) == len(started) == 3
    assert all(one == {"success": True, "queued": False, "position": 0, "totalQueued": one["totalQueued"], "status": "running",
                       "taskId": empty.platform.row(job_id)["task_id"]} for job_id, one in said if job_id != waits)  # fmt: skip
    for job_id in started:
        await until(is_(empty, job_id, "running"), "its row says that it runs")
    row = empty.platform.row(waits)
    assert (row["status"], row["position"], row["task_id"]) == ("queued", 1, None)

    over(empty, started[0])
    await until(is_(empty, started[0], "completed"), "the first is completed")
    first = empty.platform.row(started[0])
    assert first["output_url"] == f"https://files.invalid/{first['task_id']}.png"
    assert (first["error_message"], first["refunded_credits"]) == (None, 0)
    await until(is_(empty, waits, "running"), "the fourth runs")
    assert empty.platform.seen(waits) == ["queued", "starting", "running"]
    row = empty.platform.row(waits)
    assert row["position"] is None and row["task_id"] == empty.job(waits)["task"]["task_id"]
    assert running(empty) == 3 and empty.simulator.seen()["most_running"] == 3
    assert {one["answer"] for one in empty.simulator.seen()["callbacks"]} == {200}

    over(empty, waits, outcome="failed", error="no memory")
    await until(is_(empty, waits, "failed"), "it failed")
    row = empty.platform.row(waits)
    assert row["error_message"].startswith("no memory") and row["refunded_credits"] == 10


async def test_an_answer_that_is_older_than_the_row_is_not_written(empty: Stage) -> None:
    asked = empty.new()
    started = empty.ask("run-or-queue", **asked).json()
    over(empty, asked["jobId"])
    await until(is_(empty, asked["jobId"], "completed"), "it is completed")
    again = empty.ask("run-or-queue", **asked).json()
    assert again == started | {"status": "completed", "duplicate": True}, "a repeat"
    assert empty.platform.row(asked["jobId"])["status"] == "completed"


async def test_a_waiter_moves_up_in_its_row_too(empty: Stage) -> None:
    burst(empty, 3)
    waits = [empty.run()[0] for _ in range(3)]
    places = lambda: [empty.platform.row(job_id)["position"] for job_id in waits]  # noqa: E731
    await until(lambda: places() == [1, 2, 3], "they stand in line")
    empty.gate.post(f"/v1/pools/default/jobs/{waits[0]}/cancel")
    await until(lambda: places() == [None, 1, 2], "they have moved up")
    assert empty.platform.row(waits[0])["status"] == "cancelled"


async def test_a_job_that_is_cancelled_is_cancelled_at_the_provider(empty: Stage) -> None:
    job_id, said = empty.run()
    assert empty.gate.post(f"/v1/pools/default/jobs/{job_id}/cancel", {"reason": "his user"}).status_code == 200
    await until(lambda: running(empty) == 0, "its task is gone")
    assert said.json()["taskId"] in [task["taskId"] for task in empty.simulator.seen()["tasks"] if task["cancelled"]]
    await until(is_(empty, job_id, "cancelled"), "its row says so")
    row = empty.platform.row(job_id)
    assert (row["error_message"], row["refunded_credits"]) == ("his user", 10)


async def test_one_whose_callback_is_lost_expires(empty: Stage) -> None:
    empty.simulator.control(next=[{"callback": "lost"}])
    job_id, _ = empty.run()
    await until(is_(empty, job_id, "running"), "it runs")
    with redis.Redis.from_url(empty.gate.redis_url) as people:  # as if the time of its lease were over
        assert people.zadd("gate:{default}:slots", {job_id: 1}, xx=True, ch=True) == 1
    await until(is_(empty, job_id, "failed"), "its row says so")
    assert empty.job(job_id)["status"] == "expired"
    row = empty.platform.row(job_id)
    assert row["error_message"] and row["refunded_credits"] == 10
    assert empty.platform.seen(job_id)[-2:] == ["running", "failed"]
    await until(lambda: running(empty) == 0, "its task is cancelled")


async def test_a_provider_that_is_full_puts_it_back_to_its_place(empty: Stage) -> None:
    empty.simulator.control(next=[{"refuse": True}])
    job_id, said = empty.run()
    admitted = {"success": True, "queued": True, "position": 1, "totalQueued": 1, "status": "queued"}
    assert said.json() | {"totalQueued": 1} == admitted
    await until(is_(empty, job_id, "running"), "it is started after a while")
    assert empty.platform.seen(job_id) == ["queued", "starting", "queued", "starting", "running"]
    assert empty.platform.row(job_id)["refunded_credits"] == 0


async def test_a_start_that_fails_for_good_is_told_and_paid_back(empty: Stage) -> None:
    empty.platform.provider_hook = lambda path, _body: {"code": 433, "msg": "VALIDATE_PROMPT_FAILED", "data": None}
    job_id, said = empty.run()
    why = "VALIDATE_PROMPT_FAILED (code 433)"
    assert (said.status_code, said.json()) == (400, {"success": False, "error": why, "refunded": True})
    await until(lambda: empty.platform.row(job_id)["refunded_credits"] == 10, "the row says so")
    row = empty.platform.row(job_id)
    assert (row["status"], row["error_message"], row["task_id"]) == ("failed", why, None)


async def test_a_provider_that_breaks_off_starts_nothing_twice(empty: Stage) -> None:
    asked = []

    def broken(path: str, _body: Any) -> Any:
        asked.append(path)
        return "no object"

    empty.platform.provider_hook = broken
    job_id, said = empty.run()
    assert said.status_code == 400 and said.json()["refunded"] is True
    assert asked.count("ai-app/run") == 1
    await until(is_(empty, job_id, "failed"), "the row says so")


async def test_what_the_provider_is_asked_for(empty: Stage) -> None:
    asked = []
    empty.platform.provider_hook = lambda path, body: asked.append(body) if path == "ai-app/run" else None
    empty.run()
    callback = f"{empty.platform.url}/functions/v1/runninghub-webhook?token={TOKEN}"
    assert asked == [{"webappId": 7, "nodeInfoList": [], "webhookUrl": callback, "apiKey": "the-provider's-key"}]


async def test_a_start_call_that_comes_again_is_told_the_same_task(empty: Stage) -> None:
    job_id, said = empty.run()
    tasks = len(empty.simulator.seen()["tasks"])
    id_, job = empty.platform.row(job_id)["start_id"], empty.job(job_id)
    for _ in range(2):
        again = empty.send("start", id_, "job.start", job)
        assert (again.status_code, again.json()) == (200, {"task_id": said.json()["taskId"]})
    assert len(empty.simulator.seen()["tasks"]) == tasks


async def test_a_start_under_way_is_not_made_a_second_time(empty: Stage) -> None:
    held = empty.platform.provider_hook = Held()
    starting = asyncio.create_task(asyncio.to_thread(empty.run))
    await until(held.asked.is_set, "the provider is asked")
    (job,) = empty.gate.http.get("/v1/pools/default").json()["holders"]
    id_ = empty.platform.row(job["job_id"])["start_id"]
    again = empty.send("start", id_, "job.start", job)
    assert (again.status_code, again.json()) == (200, {"outcome": "starting"}), "gate asks again, under the same id"
    held.go.set()
    _, said = await starting
    assert empty.send("start", id_, "job.start", job).json() == {"task_id": said.json()["taskId"]}
    assert running(empty) == 1


async def test_a_task_that_starts_for_a_job_that_is_over_is_cancelled(empty: Stage) -> None:
    held = empty.platform.provider_hook = Held()
    starting = asyncio.create_task(asyncio.to_thread(empty.run))
    await until(held.asked.is_set, "the provider is asked")
    (job,) = empty.gate.http.get("/v1/pools/default").json()["holders"]
    empty.gate.act(job, "cancel")
    await until(is_(empty, job["job_id"], "cancelled"), "the row says so")
    before = len(empty.simulator.seen()["tasks"])
    held.go.set()
    await starting
    await until(lambda: len(empty.simulator.seen()["tasks"]) == before + 1, "the task was started all the same")
    await until(lambda: running(empty) == 0, "it is cancelled")
    assert empty.simulator.seen()["tasks"][-1]["cancelled"]
    late = empty.send("start", "another call", "job.start", job)
    assert late.status_code == 410 and running(empty) == 0, "a row that is over starts nothing"


async def test_a_provider_that_is_not_there_may_be_asked_again(empty: Stage) -> None:
    asked = empty.new()
    job = {"job_id": asked["jobId"], "tool": asked["table"], "payload": {}}
    with closed_port() as address:
        away = empty.serve(MANAGER, RUNNINGHUB_URL=address)
        first = empty.send("start", "one", "job.start", job, to=away.url)
    assert (first.status_code, first.json()) == (503, {"error": "the provider is not there"})
    second = empty.send("start", "one", "job.start", job)
    assert second.status_code == 200 and second.json()["task_id"] == empty.platform.row(asked["jobId"])["task_id"]


async def test_only_gate_may_start_and_tell(empty: Stage) -> None:
    asked = empty.new()
    job = {"job_id": asked["jobId"], "tool": asked["table"], "payload": {}, "pool": "default"}
    before = empty.platform.row(asked["jobId"])
    other = "whsec_" + "A" * 32
    for path, type_ in (("start", "job.start"), ("events", "job.completed")):
        for how in ({"secret": other}, {"at": datetime.now(UTC) - timedelta(minutes=6)}):
            assert empty.send(path, "one", type_, job, **how).status_code == 401
        assert empty.ask(path, type=type_, data=job).status_code == 401
    assert empty.platform.row(asked["jobId"]) == before and running(empty) == 0


async def test_an_event_that_is_late_or_of_another_changes_nothing(empty: Stage) -> None:
    job_id, _ = empty.run()
    await until(is_(empty, job_id, "running"), "it runs")
    before, job = empty.platform.row(job_id), empty.job(job_id)
    late = empty.send("events", "late", "job.queued", job, timestamp="2001-01-01T00:00:00.000Z")
    assert late.status_code == 200 and empty.platform.row(job_id) == before
    again = empty.send("events", "again", "job.queued", job, timestamp=before["gate_at"])
    assert again.status_code == 200 and empty.platform.row(job_id)["task_id"] == before["task_id"], "the task is of the start"
    empty.send("events", "again", "job.running", job, timestamp=before["gate_at"])
    before = empty.platform.row(job_id)
    for other in ({"tool": "user_credits"}, {"tool": None}, {"job_id": str(uuid.uuid4())}):
        assert empty.send("events", "other", "job.running", job | other).status_code == 200
    assert empty.send("events", "new", "job.something_new", job).json() == {"skipped": True}
    assert empty.platform.row(job_id) == before


async def test_a_refused_job_is_paid_back_by_gate_or_not_at_all(empty: Stage) -> None:
    """This gate was told of no GATE_JOB_SQL, so it knows of no charge. With one: tests/proof/examples/test_owner.py."""
    empty.run(user=(user := str(uuid.uuid4())))
    second = empty.new(user)
    said = empty.ask("run-or-queue", **second | {"creditCost": 1_000})
    assert (said.status_code, said.json()["code"], said.json()["refunded"]) == (400, "user_busy", False)
    assert user not in empty.platform.balances, "the function pays nothing by itself"
    assert empty.platform.row(second["jobId"])["status"] == "pending", "it is found again"
    assert empty.ask("run-or-queue", table="user_credits", jobId="x").json() == {"error": "Unknown table"}


async def test_a_gate_that_does_not_answer_is_told_in_words_and_never_by_its_key(empty: Stage) -> None:
    asked = empty.new()
    with closed_port() as address:
        alone = empty.serve(MANAGER, GATE_URL=address)
        said = httpx2.post(f"{alone.url}/{MANAGER}/run-or-queue", json=asked, timeout=20)
    assert said.status_code == 503 and said.headers["access-control-allow-origin"] == "*"
    assert said.json()["success"] is False and said.json()["code"] == "gate_unreachable" and said.json()["error"]
    told = said.text + str(said.headers) + "".join(alone.said)
    assert empty.key not in told and address not in told
    assert empty.platform.row(asked["jobId"])["status"] == "pending", "it may have been admitted: nothing is paid back"
    assert empty.ask("run-or-queue", **asked).json()["taskId"], "asked again, it is taken up"


async def test_a_tool_charges_its_user_and_leaves_the_rest_to_the_queue(empty: Stage) -> None:
    user, session = str(uuid.uuid4()), str(uuid.uuid4())
    empty.platform.users["ana's token"], empty.platform.balances[user] = user, 15

    def ask(token: str, **body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}", "apikey": ANON_KEY}
        return httpx2.post(f"{empty.platform.url}/functions/v1/upscaler", json=body, headers=headers, timeout=60)

    assert ask(ANON_KEY, imageUrl="https://x/y.png").status_code == 401
    assert ask("ana's token").status_code == 400
    said = ask("ana's token", imageUrl="https://x/y.png", sessionId=session)
    assert said.status_code == 200 and said.json()["success"] is True
    row = empty.platform.row(said.json()["jobId"])
    assert (row["user_id"], row["session_id"], row["user_credit_cost"]) == (user, session, 10)
    assert row["task_id"] == said.json()["taskId"] and empty.platform.balances[user] == 5
    job = empty.job(said.json()["jobId"])
    assert (job["user"], job["credits"], job["payload"]["webappId"]) == (user, 10, "1937")
    assert ask("ana's token", imageUrl="https://x/y.png").json() == {"success": False, "error": "Not enough credits"}
    empty.platform.balances[user], empty.platform.full = 10, True
    lost = ask("ana's token", imageUrl="https://x/y.png")
    empty.platform.full = False
    assert (lost.status_code, lost.json()["success"], empty.platform.balances[user]) == (500, False, 10), "no row, no charge"
    busy = ask("ana's token", imageUrl="https://x/y.png").json()
    assert (busy["code"], busy["refunded"], empty.platform.balances[user]) == ("user_busy", False, 0)


async def test_a_callback_needs_the_token(empty: Stage) -> None:
    address = f"{empty.platform.url}/functions/v1/runninghub-webhook"
    body = {"event": "TASK_END", "taskId": "1", "eventData": {"code": 0, "msg": "success", "data": []}}
    assert httpx2.post(address, json=body).status_code == 401
    assert httpx2.post(f"{address}?token=wrong", json=body).status_code == 401
    assert httpx2.post(f"{address}?token={TOKEN}", json=body).status_code == 200
