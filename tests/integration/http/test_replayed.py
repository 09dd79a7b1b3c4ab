"""Two workers with one job_id read the same job under the same lease. `replayed` says which of them starts it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from gate.client import AsyncGate, Gate
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.wait import until

pytestmark = pytest.mark.anyio
HEADER = "idempotent-replayed"


@pytest.fixture
def pool(served: Served) -> str:
    name = fresh("replayed-")
    served.http.put(f"/v1/pools/{name}", json={"limit": 1}).raise_for_status()
    return name


def first_answers(answers: list[httpx2.Response]) -> int:
    for answer in answers:
        assert (answer.json().get("replayed", False), answer.headers.get(HEADER)) in ((True, "true"), (False, None))
    return sum("replayed" not in answer.json() for answer in answers)


def at_once(served: Served, path: str, body: dict[str, Any]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(8) as workers:
        return list(workers.map(lambda _: served.post(path, body), range(8)))


def test_one_of_the_workers_with_one_job_id_is_told_to_start_it(served: Served, pool: str) -> None:
    body = {"job_id": (job_id := fresh()), "user": "ana", "credits": 3}
    answers = at_once(served, f"/v1/pools/{pool}/acquire", body)
    assert Counter((answer.status_code, answer.json()["status"]) for answer in answers) == {(200, "running"): 8}
    assert first_answers(answers) == 1
    with_key = {"Idempotency-Key": fresh("key")}
    keyed = [served.http.post(f"/v1/pools/{pool}/acquire", json={}, headers=with_key) for _ in range(2)]
    assert [(answer.json().get("replayed"), answer.headers.get(HEADER)) for answer in keyed] == [(None, None), (True, "true")]
    read = served.http.get(f"/v1/pools/{pool}/jobs/{job_id}")
    assert "replayed" not in read.json() and HEADER not in read.headers, "a read starts nothing"


def test_one_of_the_workers_that_claim_one_grant_is_told_to_start_it(served: Served, pool: str) -> None:
    holder, waiter = (served.acquire(pool, job_id=fresh()).json() for _ in range(2))
    served.act(holder, "release", outcome="completed")
    granted = served.http.get(f"/v1/pools/{pool}/jobs/{waiter['job_id']}", params={"wait_seconds": 10}).json()
    assert granted["status"] == "granted"
    lease = {"lease_id": granted["lease"]["lease_id"]}
    answers = at_once(served, f"/v1/pools/{pool}/jobs/{waiter['job_id']}/claim", lease)
    assert {answer.status_code for answer in answers} == {200} and first_answers(answers) == 1
    assert "replayed" not in served.act(answers[0].json(), "renew").json()


async def test_slot_of_the_client_says_that_another_may_have_started_its_job(served: Served, pool: str) -> None:
    async with AsyncGate(served.url) as gate:
        async with gate.slot(pool) as own:
            assert not own.replayed
        job_id = fresh()
        async with gate.slot(pool, job_id=job_id) as first:
            with Gate(served.url) as other, other.slot(pool, job_id=job_id) as second:
                assert (first.replayed, second.replayed, second.lease_id) == (False, True, first.lease_id)


async def test_slot_of_the_client_that_finds_its_job_claimed_says_so(served: Served, pool: str) -> None:
    """Two wait for one job. One claims it, and the other reads that it runs."""
    holder = served.acquire(pool, job_id=fresh()).json()
    job_id, both = fresh(), threading.Barrier(2)

    def works(_: int) -> bool:
        with Gate(served.url) as gate, gate.slot(pool, job_id=job_id) as lease:
            both.wait(20)
            return lease.replayed

    with ThreadPoolExecutor(2) as workers:
        asked = [workers.submit(works, number) for number in range(2)]
        await until(lambda: served.http.get(f"/v1/pools/{pool}").json()["queued"] == 1, "it waits")
        served.act(holder, "release", outcome="completed")
        assert sorted(one.result(30) for one in asked) == [False, True]
