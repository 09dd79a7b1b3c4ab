"""Faults of the simulated provider: it is away, hangs, is slow, is broken, or answers too many requests with 1003."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from gate.simulator import Simulator
from tests.proof.simulator.calls import Caller
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(limit=3, keys={"k": {}, "l": {}}) as running:
        yield running


@pytest.fixture
def caller(simulator: Simulator) -> Caller:
    return Caller(simulator)


async def test_a_provider_that_is_away_refuses_connections_until_it_is_back(caller: Caller) -> None:
    task = caller.run()
    with httpx2.Client() as client:
        client.get(f"{caller.simulator.url}/control")
        caller.simulator.control(away_s=60)
        for get in (client.get, httpx2.get):
            with pytest.raises(httpx2.TransportError):
                get(f"{caller.simulator.url}/control")
    with pytest.raises(httpx2.ConnectError):
        caller.query(task)
    caller.simulator.control(away_s=0)
    assert caller.query(task)["status"] == "RUNNING", "its tasks went on"
    assert caller.simulator.seen()["questions"] == 1, "what is refused is not a question"


async def test_a_provider_is_back_by_itself(caller: Caller) -> None:
    httpx2.post(f"{caller.simulator.url}/control", json={"away_s": 0.4})

    def is_up() -> bool:
        try:
            return bool(caller.queue())
        except httpx2.TransportError:
            return False

    await until(lambda: not is_up(), "it is away")
    await until(is_up, "it is back")


async def test_a_provider_ends_while_it_is_away() -> None:
    with Simulator() as simulator:
        simulator.control(away_s=60)
    simulator.stop()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_broken_call_is_answered_with_its_status(caller: Caller, status: int) -> None:
    task = caller.run()
    caller.simulator.control(faults={"query": status})
    assert caller.v2("POST", "query", taskId=task).status_code == status
    assert caller.outputs(task)["code"] == 804, "the other calls go on"
    caller.simulator.control(faults={"all": status, "cancel": "none"})
    assert {caller.v1(verb, taskId=task).status_code for verb in ("run", "outputs", "status")} == {status}
    assert caller.v2("GET", "queue/status").status_code == status and caller.cancel(task) == 0
    caller.simulator.control(faults={"all": "none"})
    assert caller.query(task)["status"] == "CANCELLED"
    assert caller.simulator.seen()["tasks"][0]["questions"] == 5, "a failed question is one too"


async def test_a_call_that_hangs_is_answered_when_the_fault_is_over(caller: Caller) -> None:
    task = caller.run()
    caller.simulator.control(faults={"query": "hang"})
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{caller.simulator.url}/openapi/v2/query", json={"taskId": task}, timeout=0.2)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(caller.query, task)
        await until(lambda: caller.simulator.seen()["questions"] == 2, "the question has come")
        assert caller.outputs(task)["code"] == 804 and not asked.done()
        caller.simulator.control(faults={"query": "none"})
        assert asked.result()["status"] == "RUNNING"


async def test_a_hanging_call_does_not_keep_the_simulator_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        with Simulator() as simulator:
            simulator.control(faults={"all": "hang"})
            asked = pool.submit(Caller(simulator).v2, "POST", "query", taskId="1")
            await until(lambda: simulator.seen()["questions"] == 1, "the question has come")
        assert asked.result().status_code == 503


async def test_a_slow_provider_answers_later(caller: Caller) -> None:
    caller.simulator.control(delay_s=0.2)
    before = time.monotonic()
    assert caller.queue()["code"] == 0 and time.monotonic() - before >= 0.2


async def test_requests_beyond_the_rate_of_a_key_are_answered_1003(caller: Caller) -> None:
    caller.simulator.control(rate=2, faults={"query": "hang"})
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(caller.query, "1") for _ in range(5)]
        await until(lambda: caller.simulator.seen()["questions"] == 5, "all of them have come")
        caller.simulator.control(faults={"query": "none"})  # so that they go on in the same moment
        replies = [one.result() for one in asked]
    assert sorted(str(reply["errorCode"]) for reply in replies) == ["1003", "1003", "1003", "807", "807"]
    assert Caller(caller.simulator, "l").queue()["code"] == 0, "each key has its own rate"
    caller.simulator.control(rate=0)
    assert caller.query("1")["errorCode"] == "807"
