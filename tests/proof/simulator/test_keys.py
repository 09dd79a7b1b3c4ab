"""Keys of the simulated provider: each has its tasks, its limit, its count and its faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import httpx2
import pytest

from gate.simulator import Simulator
from gate.simulator.plan import KeyCode
from tests.proof.simulator.calls import Caller
from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(limit=3, keys={"one": {"limit": 2}, "other": {}}) as running:
        yield running


@pytest.fixture
def one(simulator: Simulator) -> Caller:
    return Caller(simulator, "one")


@pytest.fixture
def other(simulator: Simulator) -> Caller:
    return Caller(simulator, "other")


def test_a_key_knows_only_its_own_tasks(one: Caller, other: Caller) -> None:
    task = one.run()
    assert one.query(task)["status"] == "RUNNING" and one.outputs(task)["code"] == 804
    assert other.query(task) == {
        "taskId": "", "status": "", "errorCode": "807", "errorMessage": "APIKEY_TASK_NOT_FOUND", "failedReason": {},
        "results": None,
    }  # fmt: skip
    assert [other.v1(verb, taskId=task).json()["code"] for verb in ("outputs", "status", "cancel")] == [807] * 3
    assert one.query(task)["status"] == "RUNNING", "the cancel of another key has no effect"


def test_each_key_has_its_own_limit(one: Caller, other: Caller) -> None:
    for caller, limit in ((one, 2), (other, 3)):
        for _ in range(limit):
            caller.run()
        assert caller.v1("run").json()["code"] == 421
        assert caller.v2("POST", "run/workflow/20").json()["errorCode"] == 421
        assert caller.seen()["most_running"] == caller.seen()["running"] == limit and caller.seen()["refused"] == 2
    assert one.simulator.seen()["most_running"] == 5


def test_a_wrong_key_is_refused_by_every_call(simulator: Simulator, one: Caller) -> None:
    task, wrong = one.run(), Caller(simulator, "wrong")
    bad = {"code": 802, "msg": "APIKEY_UNAUTHORIZED", "data": None}
    assert [wrong.v1(verb, taskId=task).json() for verb in ("run", "outputs", "status", "cancel")] == [bad] * 4
    assert wrong.account() == bad
    for method, path in (("POST", "query"), ("POST", "run/ai-app/20"), ("GET", "queue/status")):
        reply = wrong.v2(method, path)
        assert (reply.status_code, reply.json()) == (401, {"code": 401, "msg": "ApiKey verification failed"})
    assert len(simulator.seen()["tasks"]) == 1 and set(simulator.seen()["keys"]) == {"one", "other"}


@pytest.mark.parametrize("code", get_args(KeyCode))
def test_a_key_is_revoked_or_its_wallet_is_empty_on_demand(one: Caller, other: Caller, code: int) -> None:
    task = one.run()
    one.simulator.control(keys={"one": {"code": code}})
    if code in (401, 403):
        assert one.v2("POST", "query", taskId=task).status_code == one.v1("outputs", taskId=task).status_code == code
    else:
        assert one.query(task)["errorCode"] == one.outputs(task)["code"] == one.account()["code"] == code
    assert other.run(), "the other key goes on"
    one.simulator.control(keys={"one": {"code": None}})
    assert one.query(task)["status"] == "RUNNING", "its tasks went on too"


def test_both_counts_tell_the_tasks_of_a_key(one: Caller) -> None:
    one.run()
    one.run(queued_s=60)
    assert one.queue() == {
        "code": 0, "msg": "success",
        "data": {"apiKeyType": "SHARED", "concurrentLimit": 2, "runningCount": "1", "queuedCount": "1", "totalCurrentTasks": "2"},
    }  # fmt: skip
    assert one.account()["data"]["currentTaskCounts"] == "2"
    assert httpx2.post(f"{one.simulator.url}/uc/openapi/accountStatus", json={"apiKey": "one"}).json()["code"] == 1601


def test_a_key_without_the_queue_status_has_the_account_status(one: Caller) -> None:
    one.simulator.control(keys={"one": {"has_queue_status": False}})
    assert one.queue()["code"] == 1009 and one.account()["data"]["currentTaskCounts"] == "0"


def test_tasks_of_strangers_count_towards_the_limit(one: Caller) -> None:
    one.simulator.control(keys={"one": {"strangers": 1}})
    one.run()
    assert one.v1("run").json()["code"] == 421
    assert one.queue()["data"]["totalCurrentTasks"] == one.account()["data"]["currentTaskCounts"] == "2"
    one.simulator.control(keys={"one": {"strangers": 0}})
    one.run()
    assert one.seen()["most_running"] == 2


def test_a_counter_is_stuck_on_demand(one: Caller) -> None:
    one.simulator.control(keys={"one": {"counter": 2}})
    assert one.queue()["data"]["totalCurrentTasks"] == one.account()["data"]["currentTaskCounts"] == "2"
    one.run(), one.run()
    assert one.queue()["data"]["totalCurrentTasks"] == "2", "only the counter is stuck: tasks start"
    one.simulator.control(keys={"one": {"counter": None}}, tasks={})
    assert one.queue()["data"]["runningCount"] == "2"


def test_without_configured_keys_any_key_sees_every_task() -> None:
    with Simulator(limit=2) as simulator:
        task = Caller(simulator, "a").run()
        assert Caller(simulator, "b").query(task)["status"] == Caller(simulator, "").query(task)["status"] == "RUNNING"
        simulator.control(keys={"*": {"strangers": 1}})
        assert Caller(simulator, "b").v1("run").json()["code"] == 421
        assert simulator.seen()["keys"]["*"]["most_running"] == 1
        simulator.control(keys={"a": {}})
        assert Caller(simulator, "b").v1("run").json()["code"] == 802, "a key is demanded from the first on"
        assert Caller(simulator, "a").query(task)["errorCode"] == "807"


def test_a_wrong_plan_of_a_key_changes_nothing(simulator: Simulator) -> None:
    before = simulator.seen()
    for keys in ({"one": {"limit": -1}}, {"new": {}, "one": {"x": 1}}, {"one": {"code": 1}}):
        with pytest.raises(ValueError):
            simulator.control(limit=9, keys=keys)
        assert httpx2.post(f"{simulator.url}/control", json={"keys": keys}).status_code == 422
    assert simulator.seen() == before


def test_the_key_is_echoed_on_demand(one: Caller) -> None:
    done, failed = one.run(seconds=0), one.run(seconds=0, outcome="failed")
    assert "one" not in json.dumps([one.query(done), one.query(failed), one.outputs("1"), one.queue()])
    one.simulator.control(echo=True)

    def texts(body: dict[str, Any]) -> str:
        return json.dumps({name: value for name, value in body.items() if name != "apiKey"})

    for body in (
        one.query(done),
        one.query(failed),
        one.outputs(done),
        one.outputs(failed),
        one.outputs("1"),
        one.query("1"),
    ):
        assert body["apiKey"] == "one" and "one" in texts(body)
    assert one.query(done)["usage"]["apiKey"] == one.queue()["apiKey"] == "one"


def test_the_terminal_takes_keys() -> None:
    command = [sys.executable, "-m", "gate.simulator", "--limit", "1", "--key", "one", "--key", "other"]
    process = subprocess.Popen(command, cwd=ROOT, env=gate_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        try:
            url = output.readline().strip()
            assert set(httpx2.get(f"{url}/control", timeout=20).json()["keys"]) == {"one", "other"}
        finally:
            process.terminate()
            process.wait(20)
