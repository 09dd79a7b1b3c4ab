"""Questions to the simulated provider: their count, and the answers that a test demands."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.calls import Caller
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(limit=5, keys={"k": {}, "l": {}}) as running:
        yield running


@pytest.fixture
def caller(simulator: Simulator) -> Caller:
    return Caller(simulator)


def seen_task(caller: Caller, task: str) -> dict[str, Any]:
    return next(one for one in caller.simulator.seen()["tasks"] if one["taskId"] == task)


def end(caller: Caller, task: str, **change: Any) -> None:
    caller.simulator.control(tasks={task: {"seconds": 0} | change})


async def over(caller: Caller, task: str) -> None:
    await until(lambda: seen_task(caller, task)["status"] not in ("QUEUED", "RUNNING"), "the task is over")


async def test_questions_are_counted_for_each_task_and_key(simulator: Simulator, caller: Caller) -> None:
    task, quiet = caller.run(), caller.run()
    caller.query(task), caller.outputs(task), caller.v1("status", taskId=task), Caller(simulator, "l").query(task)
    caller.cancel(task), caller.queue(), caller.account()
    seen = simulator.seen()
    assert (seen_task(caller, task)["questions"], seen_task(caller, task)["cancels"]) == (4, 1)
    assert (seen_task(caller, quiet)["questions"], seen_task(caller, quiet)["cancels"]) == (0, 0)
    assert seen["calls"] == {"query": 2, "outputs": 1, "status": 1, "cancel": 1, "queue": 1, "account": 1}
    assert (seen["questions"], seen["keys"]["k"]["questions"], seen["keys"]["l"]["questions"]) == (7, 6, 1)
    assert httpx2.get(f"{simulator.url}/control").json() == seen


async def test_the_most_questions_in_any_second_are_kept(simulator: Simulator, caller: Caller) -> None:
    task = caller.run()
    simulator.control(faults={"query": "hang"})
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(caller.query, task) for _ in range(6)]
        await until(lambda: simulator.seen()["questions"] == 6, "all of them have come")
        simulator.control(faults={"query": "none"})
        assert {one.result()["status"] for one in asked} == {"RUNNING"}
    most = simulator.seen()["most_questions_per_second"]
    assert most == caller.seen()["most_questions_per_second"] and 1 <= most <= 6
    assert simulator.seen()["keys"]["l"]["most_questions_per_second"] == 0


async def test_a_known_task_is_denied_as_often_as_demanded(caller: Caller) -> None:
    task = caller.run(denied=2)
    for _ in range(2):
        assert caller.query(task)["errorCode"] == "807"
        assert caller.outputs(task)["code"] == 807, "the further call belongs to the same question"
    assert caller.query(task)["status"] == "RUNNING" and caller.outputs(task)["code"] == 804
    caller.simulator.control(tasks={task: {"denied": 1}})
    assert caller.outputs(task)["code"] == 807 and caller.outputs(task)["code"] == 804


async def test_empty_successes_come_before_the_real_one(caller: Caller) -> None:
    task = caller.run(empty_first=2)
    assert caller.query(task)["status"] == "RUNNING", "a task that runs is not a success"
    end(caller, task)
    await over(caller, task)
    assert (caller.query(task)["status"], caller.query(task)["results"]) == ("SUCCESS", [])
    assert len(caller.query(task)["results"]) == len(caller.outputs(task)["data"]) == 1
    caller.simulator.control(tasks={task: {"empty_first": 1}})
    assert caller.outputs(task)["data"] == [] and len(caller.outputs(task)["data"]) == 1


async def test_a_task_runs_for_ever_until_it_is_cancelled(caller: Caller) -> None:
    task = caller.run(forever=True, seconds=0)
    assert [caller.query(task)["status"] for _ in range(3)] == ["RUNNING"] * 3
    assert caller.cancel(task) == 0 and caller.query(task)["status"] == "CANCELLED"


async def test_an_ended_task_refuses_a_cancel(caller: Caller) -> None:
    done, cancelled = caller.run(seconds=0), caller.run()
    await over(caller, done)
    assert caller.cancel(done) == 817 and caller.query(done)["status"] == "SUCCESS"
    assert (caller.cancel(cancelled), caller.cancel(cancelled)) == (0, 817)
    assert caller.v1("cancel", taskId=done).json() == {"code": 817, "msg": "APIKEY_TASK_CANCEL_NOT_ALLOWED", "data": None}


async def test_a_slow_cancel_ends_the_task_later(caller: Caller) -> None:
    task = caller.run(cancel_s=60)
    assert caller.cancel(task) == 0 and caller.query(task)["status"] == "RUNNING"
    assert caller.simulator.seen()["running"] == 1, "it still has its slot"
    soon = caller.run(cancel_s=0.1)
    assert caller.cancel(soon) == 0
    await over(caller, soon)
    assert caller.query(soon)["status"] == "CANCELLED" and seen_task(caller, soon)["cancelled"]
    end(caller, task)
    await over(caller, task)
    assert caller.query(task)["status"] == "SUCCESS", "it was over before the cancel had its effect"


async def test_a_deaf_task_accepts_a_cancel_and_goes_on(caller: Caller) -> None:
    task = caller.run(deaf=True)
    assert (caller.cancel(task), caller.cancel(task)) == (0, 0) and caller.query(task)["status"] == "RUNNING"
    end(caller, task)
    await over(caller, task)
    assert caller.query(task)["status"] == "SUCCESS" and not seen_task(caller, task)["cancelled"]


async def test_a_forgotten_task_is_unknown_and_goes_on(caller: Caller) -> None:
    task = caller.run(forgotten_s=60)
    assert caller.query(task)["status"] == "RUNNING"
    caller.simulator.control(tasks={task: {"forgotten_s": 0}})
    assert caller.query(task)["errorCode"] == "807" and caller.outputs(task)["code"] == caller.cancel(task) == 807
    assert caller.queue()["data"]["totalCurrentTasks"] == "1", "it still has its slot"
    end(caller, task)
    await over(caller, task)
    assert caller.query(task)["errorCode"] == "807"


async def test_the_provider_lies_about_a_task_on_demand(caller: Caller) -> None:
    task = caller.run(lie="SUCCESS")
    assert caller.query(task)["status"] == "SUCCESS" and len(caller.query(task)["results"]) == 1
    assert caller.v1("status", taskId=task).json()["data"] == "SUCCESS" and seen_task(caller, task)["status"] == "RUNNING"
    caller.simulator.control(tasks={task: {"lie": "CANCELLED"}})
    assert caller.query(task)["status"] == "CANCELLED" and caller.outputs(task)["code"] == 805
    assert caller.v1("status", taskId=task).json()["data"] == "FAILED"
    caller.simulator.control(tasks={task: {"lie": None}})
    assert caller.query(task)["status"] == "RUNNING"
