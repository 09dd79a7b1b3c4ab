"""What a caller does with the charge after each answer of `acquire`: docs/concepts.md says it, and the ledger bears it out."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from gate.model.limits import BODY_MAX_BYTES
from tests.checks.reference import document
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.paths import ROOT
from tests.support.wait import until

pytestmark = pytest.mark.anyio

ACQUIRE = "/v1/pools/{pool}/acquire"
PAGE = ROOT / "docs" / "concepts.md"


def rule() -> dict[str, str]:
    """The table of the page: the first word of its rule, by code."""
    table = PAGE.read_text().partition("## The charge after a refused `acquire`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\| (\w+)", table, re.MULTILINE)
    return {code: word for codes, word in rows[1:] for code in re.findall(r"`(\w+)`", codes)}


KEYS: dict[str, str] = {}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = "[pools.capped]\nmax_active_per_user = 1\n[pools.small]\nlimit = 1\nqueue_max = 1\n"
    config += "[pools.shared]\nlimit = 1\nqueue_max_per_user = 1\n[pools.slow]\nlimit = 1\n"
    with Served(tmp_path_factory.mktemp("charges"), config=config, GATE_ADMIN_KEY="of-the-environment") as served:
        said = run_gate("keys", "create", "reads", "--role", "read", "--json", cwd=served.folder)
        KEYS["read"] = json.loads(said.stdout)["key"]
        served.http.headers["apikey"] = KEYS["read"]
        asyncio.run(until(lambda: served.http.get("/v1/pools").status_code == 200, "the key counts"))
        served.http.headers["apikey"] = "of-the-environment"
        yield served


def ask(own: Served, pool: str = "default", **body: Any) -> httpx2.Response:
    return own.acquire(pool, **{"job_id": fresh(), "user": fresh("user"), "credits": 7} | body)


def ended(own: Served) -> httpx2.Response:
    job = ask(own).json()
    own.act(job, "release", outcome="failed").raise_for_status()
    return ask(own, job_id=job["job_id"], user=job["user"])


def busy(own: Served) -> httpx2.Response:
    user = ask(own, "capped").json()["user"]
    return ask(own, "capped", user=user, job_id=CHARGED)


def full(own: Served) -> httpx2.Response:
    ask(own, "small"), ask(own, "small")
    return ask(own, "small", job_id=CHARGED)


def full_for_the_user(own: Served) -> httpx2.Response:
    user = fresh("user")
    ask(own, "shared"), ask(own, "shared", user=user)
    return ask(own, "shared", user=user, job_id=CHARGED)


def too_long(own: Served) -> httpx2.Response:
    own.act(ask(own, "slow").json(), "release", outcome="completed").raise_for_status()
    own.sql("update @jobs set granted_at = ended_at - 60000 where pool = 'slow' and status = 'completed'")
    ask(own, "slow")
    return ask(own, "slow", job_id=CHARGED, max_eta_seconds=1)


def reused(own: Served) -> httpx2.Response:
    return ask(own, job_id=ask(own, credits=3).json()["job_id"])


def with_key(own: Served, key: str) -> httpx2.Response:
    body = {"job_id": CHARGED, "credits": 7}
    return httpx2.post(f"{own.url}/v1/pools/default/acquire", json=body, headers={"apikey": key})


CHARGED = "charged-by-its-caller"
"""Job of a call that is refused without a job of its own."""
CODES: dict[str, Callable[[Served], httpx2.Response]] = {
    "unauthorized": lambda own: with_key(own, "none"),
    "forbidden": lambda own: with_key(own, KEYS["read"]),
    "pool_unknown": lambda own: ask(own, "nowhere", job_id=CHARGED),
    "invalid": lambda own: ask(own, job_id=CHARGED, lease_seconds=0),
    "too_large": lambda own: ask(own, job_id=CHARGED, session="x" * BODY_MAX_BYTES),
    "user_busy": busy,
    "queue_full": full,
    "user_queue_full": full_for_the_user,
    "too_long": too_long,
    "job_id_reused": reused,
    "already_ended": ended,
}


ELSEWHERE = {"job_unknown", "tool_unknown", "store_down", "not_found", "method_not_allowed", "too_slow"}
"""The owner's functions, a store that is away, and calls that reach no route."""


@pytest.mark.parametrize("code", CODES)
def test_charge_after_a_refusal_is_where_the_table_says(own: Served, code: str) -> None:
    refused = CODES[code](own)
    assert refused.json()["code"] == code and refused.status_code in range(400, 500), refused.text
    job = refused.json().get("job")
    about = job["job_id"] if job and code in ("job_id_reused", "already_ended") else CHARGED
    rows = own.http.get("/v1/ledger", params={"job_id": about}).json()["rows"]
    booked = [(row["kind"], row["amount"]) for row in rows]
    assert (
        booked
        == {
            "keep": [("charge", 7), ("refund", 7)],  # gate has settled it
            "return": [("charge", 3)] if code == "job_id_reused" else [],  # that of the other job stays
        }[rule()[code]]
    )
    if code == "already_ended":
        assert job["refund"]["amount"] == 7


def test_each_code_of_acquire_has_a_row() -> None:
    described = document()["paths"][ACQUIRE]["post"]["responses"]
    refusals = [of["description"] for status, of in described.items() if status >= "400"]
    codes = {code for text in refusals for code in re.findall(r"`(\w+)`:", text)}
    assert rule().keys() == codes | ELSEWHERE
    assert codes - ELSEWHERE == CODES.keys(), "each that one server can be made to answer is tried"


def fill(own: Served) -> None:
    """Hold the only slot of the pool `small`, with an empty queue."""
    for job in own.http.get("/v1/pools/small").json()["queue"]:
        own.act(job, "cancel")
    ask(own, "small")
    for job in own.http.get("/v1/pools/small").json()["queue"]:
        own.act(job, "cancel")


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_own_job_that_ends_in_the_wait_is_answered_as_the_job(own: Served, end: str) -> None:
    """It was charged, and gate has refunded it. A refusal would have its caller give the charge back once more."""
    job_id, user, answers = fresh(), fresh("user"), list[httpx2.Response]()
    fill(own)
    if end == "expired":
        own.http.put("/v1/pools/small", json={"queue_seconds": 0.5}).raise_for_status()
    waits = threading.Thread(target=lambda: answers.append(ask(own, "small", job_id=job_id, user=user, wait_seconds=20)))
    waits.start()
    await until(lambda: own.http.get(f"/v1/pools/small/jobs/{job_id}").status_code == 200, "it waits")
    if end == "cancelled":
        own.act({"job_id": job_id, "pool": "small", "lease": None}, "cancel")
    waits.join(20)
    own.http.put("/v1/pools/small", json={"queue_seconds": 600})
    (answer,) = answers
    assert (answer.status_code, answer.json()["status"]) == (202, end), answer.text
    assert answer.json()["refund"]["amount"] == 7
    again = ask(own, "small", job_id=job_id, user=user)
    assert (again.status_code, again.json()["code"], again.json()["job"]["refund"]) == (
        409,
        "already_ended",
        answer.json()["refund"],
    )


async def test_terminal_exits_with_1_when_the_job_ended_in_the_wait(own: Served) -> None:
    fill(own)
    said = list[Any]()
    words = ["acquire", "--pool", "small", "--job-id", (job_id := fresh()), "--wait-seconds", "20"]
    waits = threading.Thread(target=lambda: said.append(run_gate(*words, cwd=own.folder)))
    waits.start()
    await until(lambda: own.http.get(f"/v1/pools/small/jobs/{job_id}").status_code == 200, "it waits")
    own.act({"job_id": job_id, "pool": "small", "lease": None}, "cancel")
    waits.join(20)
    assert said[0].returncode == 1 and f"job {job_id} is cancelled" in said[0].stderr
