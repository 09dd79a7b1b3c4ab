"""`started_by` of acquire: gate calls the tool's start_url itself, over HTTP, by the client and at the terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gate.client import AlreadyEnded, AsyncGate, Gate, Invalid
from gate.diagnostics.verify import verify
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.tool import Tool
from tests.support.wait import until

pytestmark = pytest.mark.anyio
TABLE = "upscaler_jobs"
WAIT_S = 20


@pytest.fixture(scope="module")
def tool() -> Iterator[Tool]:
    with Tool().running() as running:
        yield running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Iterator[Served]:
    config = tool.config() + '[tools.without]\nname = "Without a start_url"\n[pools.one]\nlimit = 1\ncooldown_seconds = 0.5\n'
    with Served(tmp_path_factory.mktemp("started_by"), config=config) as served:
        yield served
        assert not verify(served.sql_url, served.redis_url).breaches


@pytest.fixture
def empty(own: Served, tool: Tool) -> Iterator[Served]:
    answer = tool.answer
    yield own
    tool.answer = answer
    view = own.http.get("/v1/pools/one").json()
    for job in view["queue"] + view["holders"]:
        own.act(job, "cancel")


def acquire(served: Served, **body: Any) -> Any:
    return served.post("/v1/pools/one/acquire", {"tool": TABLE, "started_by": "gate"} | body)


def job(served: Served, job_id: str, **query: Any) -> Any:
    return served.http.get(f"/v1/pools/one/jobs/{job_id}", params=query).json()


def test_a_free_slot_is_started_within_the_wait(empty: Served, tool: Tool) -> None:
    job_id = fresh()
    answer = acquire(empty, job_id=job_id, user="ana", credits=3, payload={"prompt": "a fox"}, wait_seconds=WAIT_S)
    assert answer.status_code == 200, answer.text
    started = answer.json()
    assert (started["status"], started["started_by"]) == ("running", "gate")
    assert started["task"] == {"provider": "runninghub", "task_id": f"t-{job_id}"}
    (call,) = tool.starts(job_id)
    assert call.job["payload"] == {"prompt": "a fox"} and call.job["started_by"] == "gate"
    again = acquire(empty, job_id=job_id, wait_seconds=WAIT_S)
    assert (again.status_code, again.json()) == (200, started | {"replayed": True}), "a repeat is answered as the first"
    assert len(tool.starts(job_id)) == 1


def test_without_a_wait_the_answer_is_granted_and_the_start_follows(empty: Served, tool: Tool) -> None:
    go = threading.Event()
    tool.answer = lambda body: ((go.wait(10) and 200) or 503, {"task_id": "t-" + body["data"]["job_id"]})
    answer = acquire(empty, job_id=(job_id := fresh()))
    assert (answer.status_code, answer.json()["status"], answer.json()["started_by"]) == (202, "granted", "gate")
    claimed = empty.act(answer.json(), "claim", lease_id=answer.json()["lease"]["lease_id"])
    assert (claimed.status_code, claimed.json()["code"]) == (409, "started_by_gate")
    go.set()
    assert job(empty, job_id, wait_seconds=WAIT_S, status="granted")["status"] == "running"


def test_a_job_that_waits_in_line_is_started_later_by_itself(empty: Served, tool: Tool) -> None:
    holder = empty.acquire("one").json()
    assert holder["started_by"] == "caller"
    answer = acquire(empty, job_id=(job_id := fresh()), wait_seconds=0.05)
    assert (answer.status_code, answer.json()["status"], answer.json()["position"]) == (202, "queued", 1)
    assert not tool.starts(job_id)
    empty.act(holder, "release", outcome="completed")
    assert job(empty, job_id, wait_seconds=WAIT_S)["status"] in ("granted", "running")
    assert acquire(empty, job_id=job_id, wait_seconds=WAIT_S).json()["status"] == "running"
    assert len(tool.starts(job_id)) == 1


async def test_the_wait_goes_on_through_the_line_and_through_a_refusal_of_the_provider(empty: Served, tool: Tool) -> None:
    holder = empty.acquire("one").json()
    calls: list[str] = []

    def busy_at_first(body: dict[str, Any]) -> tuple[int, Any]:
        calls.append(body["data"]["job_id"])
        return (429, {"error": "busy"}) if len(calls) == 1 else (200, {"task_id": f"t-{calls[0]}"})

    tool.answer = busy_at_first
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(acquire(empty, job_id=fresh(), wait_seconds=WAIT_S)))
    asking.start()
    await until(lambda: empty.http.get("/v1/pools/one").json()["queued"] == 1, "it waits")
    empty.act(holder, "release", outcome="completed")
    asking.join(30)
    (answer,) = answers
    assert (answer.status_code, answer.json()["status"], len(calls)) == (200, "running", 2), answer.text


def test_a_start_that_fails_for_good_is_told_with_its_refund(empty: Served, tool: Tool) -> None:
    tool.answer = lambda body: (400, {"error": "no such app"})
    answer = acquire(empty, job_id=fresh(), user="ana", credits=4, wait_seconds=WAIT_S)
    assert answer.status_code == 202, answer.text
    ended = answer.json()
    assert (ended["status"], ended["error"], ended["refund"]["amount"]) == ("failed", "no such app", 4)


@pytest.mark.parametrize("named", [{"tool": "without"}, {"tool": "nobody_configured_it"}, {"tool": None}])
def test_a_tool_that_gate_cannot_start_is_refused_and_nothing_is_written(empty: Served, named: dict[str, Any]) -> None:
    answer = acquire(empty, job_id=(job_id := fresh()), user="ana", credits=5, **named)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid")
    assert [error["field"] for error in problem["errors"]] == ["started_by"]
    assert empty.http.get(f"/v1/pools/one/jobs/{job_id}").status_code == 404
    assert empty.http.get("/v1/ledger", params={"job_id": job_id}).json()["rows"] == []
    assert empty.http.get("/v1/pools/one").json()["running"] == 0


def test_only_the_two_words_are_taken(empty: Served) -> None:
    answer = acquire(empty, started_by="me")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "started_by")
    assert acquire(empty, tool="without", started_by="caller").json()["started_by"] == "caller"


async def test_both_clients_ask_gate_to_start(empty: Served, tool: Tool) -> None:
    async with AsyncGate(empty.url) as client:
        started = await client.acquire("one", tool=TABLE, started_by="gate", wait_seconds=WAIT_S)
        assert (started.status, started.started_by, len(tool.starts(started.job_id))) == ("running", "gate", 1)
        await client.cancel("one", started.job_id)
        with pytest.raises(Invalid):
            await client.acquire("one", tool="without", started_by="gate")
    with Gate(empty.url) as plain:
        started = plain.acquire("one", tool=TABLE, started_by="gate", wait_seconds=WAIT_S)
        assert (started.status, started.started_by, len(tool.starts(started.job_id))) == ("running", "gate", 1)
        plain.cancel("one", started.job_id)
        with pytest.raises(AlreadyEnded):
            plain.acquire("one", job_id=started.job_id, tool=TABLE, started_by="gate")


def test_the_terminal_asks_gate_to_start(empty: Served, tool: Tool) -> None:
    words = ("acquire", "--pool", "one", "--started-by", "gate", "--json")
    done = run_gate(*words, "--tool", TABLE, "--wait-seconds", "60", cwd=empty.folder)
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout)
    assert (started["status"], started["started_by"], len(tool.starts(started["job_id"]))) == ("running", "gate", 1)
    refused = run_gate(*words, "--tool", "without", cwd=empty.folder)
    assert refused.returncode == 1 and "'without' has no start_url" in refused.stderr
    refused = run_gate(*words, "--tool", "Upscaler Arcano", cwd=empty.folder)
    assert refused.returncode == 1 and f"it is the name of [tools.{TABLE}]; send '{TABLE}' as the tool" in refused.stderr
    wrong = run_gate("acquire", "--started-by", "me", cwd=empty.folder)
    assert wrong.returncode == 1 and wrong.stderr.startswith("gate: started_by:")
