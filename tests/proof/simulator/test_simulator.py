"""The simulator does what it is asked to, and its callbacks are what the provider's page reads."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

import httpx2
import pytest

from gate.model.messages import ProviderReport
from gate.providers import PROVIDERS
from gate.providers.callback import Callback
from gate.simulator.runninghub import Busy, Odd, Simulator
from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT
from tests.support.wait import until

pytestmark = pytest.mark.anyio


class Ear:
    """Where the callbacks go. `heard` is when, and what RunningHub's page makes of it."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, ProviderReport]] = []
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                query = dict(part.split("=") for part in self.path.partition("?")[2].split("&"))
                said = PROVIDERS["runninghub"].read(Callback(dict(self.headers), query, body, ["t"], 0))
                assert said is not None
                ear.heard.append((time.monotonic(), said))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/?token=t"

    def said(self) -> list[ProviderReport]:
        return [said for _, said in self.heard]


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(limit=2) as running:
        yield running


def ask(simulator: Simulator, verb: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{simulator.url}/task/openapi/{verb}", json={"apiKey": "k"} | body)
    assert answer.status_code == 200
    return answer.json()


def run(simulator: Simulator, ear: Ear | None = None, verb: str = "run", **test: Any) -> str:
    answer = ask(simulator, verb, webhookUrl=ear and ear.url, gateTest=test)
    assert answer["code"] == 0 and answer["msg"] == "success" and answer["data"]["taskStatus"] == "RUNNING"
    return answer["data"]["taskId"]


@pytest.mark.parametrize("as_string", [True, False])
@pytest.mark.parametrize("shape", ["old", "new"])
@pytest.mark.parametrize("verb", ["run", "create"])
async def test_a_task_runs_and_calls_back(simulator: Simulator, ear: Ear, verb: str, shape: str, as_string: bool) -> None:
    task = run(simulator, ear, verb, shape=shape, as_string=as_string)
    await until(lambda: ear.heard, "it called back")
    (said,) = ear.said()
    assert (said.task_id, said.outcome, said.error) == (task, "completed", None)
    (file,) = said.output["files"]
    assert file.items() >= {"url": f"https://files.invalid/{task}.png", "type": "png"}.items()
    assert ask(simulator, "status", taskId=task)["data"] == "SUCCESS"
    assert ask(simulator, "outputs", taskId=task)["data"][0]["fileUrl"].endswith(f"{task}.png")


@pytest.mark.parametrize("shape", ["old", "new"])
async def test_it_fails_or_succeeds_without_output_on_demand(simulator: Simulator, ear: Ear, shape: str) -> None:
    run(simulator, ear, outcome="failed", error="no memory", shape=shape, seconds=0)
    await until(lambda: len(ear.heard) == 1, "the failure")
    run(simulator, ear, outcome="empty", shape=shape, seconds=0)
    await until(lambda: len(ear.heard) == 2, "the success without output")
    failed, empty = ear.said()
    assert (failed.outcome, failed.error) == ("failed", "no memory (APIKEY_TASK_STATUS_ERROR)")
    assert empty.outcome == "failed" and "without output" in (empty.error or "")


@pytest.mark.parametrize("odd", get_args(Odd))
async def test_a_success_of_another_shape_is_what_gate_reads(simulator: Simulator, ear: Ear, odd: str) -> None:
    task = run(simulator, ear, odd=odd, seconds=0)
    await until(lambda: ear.heard, "it called back")
    (said,) = ear.said()
    assert (said.task_id, said.outcome, said.error, said.understood) == (task, "completed", None, odd != "unknown")
    url = f"https://files.invalid/{task}.png"
    addresses = [file["url"] for file in said.output["files"]]
    if odd == "long_address":
        assert [len(address) for address in addresses] == [4100] and addresses[0].startswith(url)
    elif odd in ("text", "unknown"):
        assert (
            addresses == [] and ("texts" in said.output) == (odd == "text") and ("raw" in said.output) == (odd == "unknown")
        )
    else:
        assert addresses == [url]
    failed = run(simulator, ear, odd=odd, outcome="failed", seconds=0)
    await until(lambda: len(ear.heard) == 2, "a failure has no other shape")
    assert (ear.said()[1].task_id, ear.said()[1].outcome) == (failed, "failed")


def test_the_newer_run_call_starts_a_task_and_answers_in_its_own_form(simulator: Simulator) -> None:
    def run_v2(**test: Any) -> Any:
        return httpx2.post(f"{simulator.url}/openapi/v2/run/ai-app/20", json={"nodeInfoList": [], "gateTest": test}).json()

    started = run_v2(seconds=60)
    task = started.pop("taskId")
    assert started == {"status": "RUNNING", "errorCode": "", "errorMessage": "", "results": None}
    assert ask(simulator, "status", taskId=task)["data"] == "RUNNING"
    run_v2(seconds=60)
    full = {"taskId": "", "status": "FAILED", "errorCode": 421, "errorMessage": "TASK_QUEUE_MAXED", "results": None}
    assert run_v2() == full
    assert simulator.seen()["refused"] == 1 and len(simulator.seen()["tasks"]) == 2


async def test_the_query_of_v2_shows_the_task_itself(simulator: Simulator) -> None:
    def query(task: str) -> Any:
        return httpx2.post(f"{simulator.url}/openapi/v2/query", json={"taskId": task}).json()

    queued = ask(simulator, "run", gateTest={"queued_s": 60})["data"]
    assert queued["taskStatus"] == "QUEUED" and query(queued["taskId"])["status"] == "QUEUED"
    assert ask(simulator, "outputs", taskId=queued["taskId"])["code"] == 813
    simulator.control(tasks={queued["taskId"]: {"queued_s": 0, "seconds": 60}})
    assert query(queued["taskId"])["status"] == "RUNNING"
    ask(simulator, "cancel", taskId=queued["taskId"])
    assert query(queued["taskId"])["status"] == "CANCELLED"
    done, failed = run(simulator, seconds=0), run(simulator, seconds=0, outcome="failed", error="no memory")
    await until(lambda: simulator.seen()["running"] == 0, "both are over")
    assert (query(done)["taskId"], query(done)["status"]) == (done, "SUCCESS")
    assert query(done)["results"] == [{"url": f"https://files.invalid/{done}.png", "outputType": "png"}]
    assert (query(failed)["status"], query(failed)["errorCode"]) == ("FAILED", "805")
    assert query(failed)["failedReason"]["exception_message"] == "no memory"
    assert (query("1")["errorCode"], query("1")["errorMessage"]) == ("807", "APIKEY_TASK_NOT_FOUND")


@pytest.mark.parametrize("busy", get_args(Busy))
@pytest.mark.parametrize("path", ["task/openapi/run", "openapi/v2/run/ai-app/20"])
def test_a_busy_start_starts_nothing_and_the_next_one_does(simulator: Simulator, path: str, busy: int) -> None:
    simulator.control(next=[{"busy": busy}])
    first, second = (httpx2.post(f"{simulator.url}/{path}", json={}) for _ in range(2))
    if busy in (429, 500, 503):
        assert first.status_code == busy
    else:
        assert first.status_code == 200 and first.json()["errorCode" if "v2" in path else "code"] == busy
    assert second.status_code == 200 and (second.json().get("data") or second.json())["taskId"]
    seen = simulator.seen()
    assert (seen["refused"], len(seen["tasks"])) == (1, 1)


async def test_a_slow_start_is_answered_later_than_its_callback(simulator: Simulator, ear: Ear) -> None:
    before = time.monotonic()
    task = run(simulator, ear, starting_s=1, seconds=0)
    answered = time.monotonic()
    await until(lambda: ear.heard, "it called back")
    assert ear.said()[0].task_id == task and ear.heard[0][0] < answered and answered - before >= 1
    simulator.control(next=[{"busy": 421, "starting_s": 0.2}])
    before = time.monotonic()
    assert ask(simulator, "run")["code"] == 421 and time.monotonic() - before >= 0.2


async def test_over_its_limit_it_refuses(simulator: Simulator) -> None:
    tasks = [run(simulator, seconds=60) for _ in range(2)]
    assert ask(simulator, "run") == {"code": 421, "msg": "TASK_QUEUE_MAXED", "data": None}
    assert ask(simulator, "status", taskId=tasks[0])["data"] == "RUNNING"
    assert ask(simulator, "outputs", taskId=tasks[0])["code"] == 804
    simulator.control(tasks={tasks[0]: {"seconds": 0}})
    await until(lambda: simulator.seen()["running"] == 1, "one is over on demand")
    run(simulator, seconds=60)
    seen = httpx2.get(f"{simulator.url}/control").json()
    assert (seen["running"], seen["most_running"], seen["refused"], len(seen["tasks"])) == (2, 2, 1, 3)
    simulator.control(limit=3)
    run(simulator, seconds=60)
    assert simulator.seen()["most_running"] == 3


async def test_a_cancelled_task_makes_room_and_is_told_as_failed(simulator: Simulator, ear: Ear) -> None:
    task = run(simulator, ear, seconds=60)
    assert ask(simulator, "cancel", taskId=task) == {"code": 0, "msg": "success", "data": None}
    assert simulator.seen()["running"] == 0
    await until(lambda: ear.heard, "the callback")
    assert ear.said()[0].outcome == "failed"
    assert ask(simulator, "outputs", taskId=task)["code"] == 805
    assert {ask(simulator, verb, taskId="1")["code"] for verb in ("status", "outputs", "cancel")} == {807}


async def test_a_callback_is_lost_doubled_late_or_early(simulator: Simulator, ear: Ear) -> None:
    run(simulator, ear, callback="lost", seconds=0)
    await until(lambda: simulator.seen()["running"] == 0, "the lost one is over")
    early = run(simulator, ear, early=True, seconds=0)
    assert [said.task_id for said in ear.said()] == [early], "it was heard before the answer"
    doubled = run(simulator, ear, callback="doubled", seconds=0)
    await until(lambda: len(ear.heard) == 3, "both")
    assert ear.said()[1] == ear.said()[2] and ear.said()[1].task_id == doubled
    before = time.monotonic()
    run(simulator, ear, late=0.4, seconds=0)
    await until(lambda: simulator.seen()["running"] == 0, "the late one is over")
    await until(lambda: len(ear.heard) == 4, "the late one called back")
    assert ear.heard[3][0] - before >= 0.4
    await until(lambda: len(simulator.seen()["callbacks"]) == 4, "the answers: written down after they are heard")
    sent = simulator.seen()["callbacks"]
    assert {one["answer"] for one in sent} == {200}
    assert not any("token" in one["url"] for one in sent)


async def test_the_next_runs_and_the_defaults_are_set_from_outside(simulator: Simulator, ear: Ear) -> None:
    simulator.control(defaults={"seconds": 0, "shape": "new"}, next=[{"refuse": True}, {"outcome": "failed"}])
    assert ask(simulator, "run")["code"] == 421
    for number in (1, 2):
        run(simulator, ear)
        await until(lambda wanted=number: len(ear.heard) == wanted, "it called back")
    assert [said.outcome for said in ear.said()] == ["failed", "completed"]
    assert "coins" in ear.said()[1].output, "the new shape"


async def test_what_is_not_of_the_form_is_said_and_changes_nothing(simulator: Simulator) -> None:
    before = simulator.seen()
    for wrong in ({"limit": -1}, {"limit": 5, "next": [{"x": 1}]}, {"limit": 5, "tasks": {"1": {}}}, {"x": 1}):
        with pytest.raises(ValueError):
            simulator.control(**wrong)
    assert ask(simulator, "run", webhookUrl=1)["code"] == 301
    assert ask(simulator, "run", gateTest=1)["code"] == 301
    assert httpx2.post(f"{simulator.url}/task/openapi/run", json={"gateTest": {"x": 1}}).status_code == 422
    assert simulator.seen() == before


async def test_an_unanswered_callback_does_not_stop_the_provider(simulator: Simulator) -> None:
    for url in ("http://127.0.0.1:1/", "no address", "http://[/"):
        assert ask(simulator, "run", webhookUrl=url, gateTest={"early": True, "seconds": 0})["code"] == 0
    assert [sent["answer"] for sent in simulator.seen()["callbacks"]] == [None] * 3


async def test_it_is_an_async_context_too_and_ends_while_tasks_run() -> None:
    async with Simulator(limit=1, seconds=60) as one, Simulator(limit=1) as other:
        run(one)
        run(other)
        assert one.url != other.url
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{one.url}/control")


def test_at_the_terminal_it_says_where_it_listens() -> None:
    command = [sys.executable, "-m", Simulator.__module__.rpartition(".")[0], "--port", "0", "--limit", "1"]
    process = subprocess.Popen(command, cwd=ROOT, env=gate_environment(), stdout=subprocess.PIPE, text=True)
    with contextlib.closing(process.stdout) as said:  # type: ignore[type-var]
        try:
            url = said.readline().strip()
            assert httpx2.get(f"{url}/control", timeout=20).json()["limit"] == 1
        finally:
            process.terminate()
            process.wait(20)
