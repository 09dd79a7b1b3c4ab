"""Version 1, over a real server: what goes in, what comes out, in the words of the contract."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from gate.ledger import Database, Ledger
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
JOB = {
    "job_id", "pool", "user", "tool", "session", "credits", "payload", "task", "status", "position", "queue_length",
    "reason", "eta_seconds", "enqueued_at", "lease", "ended_at", "ended_by", "end_reason", "error", "output", "refund",
    "late_outcome", "late_output", "started_by", "queue_expires_at", "likely", "account", "cancel_refunds", "retries", "error_kind",
}  # fmt: skip
POOL = {
    "pool", "limit", "running", "granted", "queued", "free", "draining", "paused", "cooling_until", "oldest_lease_seconds",
    "holders", "queue", "limit_in_force", "strangers", "accounts",
}  # fmt: skip


@pytest.fixture
def empty(served: Served):
    """Pool `default`, left as it was found."""
    yield served
    pool = served.http.get("/v1/pools/default").json()
    for job in [*pool["queue"], *pool["holders"]]:
        served.act(job, "cancel")


def problem(answer: httpx2.Response, status: int, code: str) -> dict:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert {"type", "title", "detail"} <= body.keys()
    return body


def test_three_run_the_fourth_waits(empty: Served) -> None:
    answers = [empty.acquire(user=f"u{n}", tool="Upscaler Arcano") for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 202]
    jobs = [answer.json() for answer in answers]
    assert [job["status"] for job in jobs] == ["running"] * 3 + ["queued"]
    waiter = jobs[3]
    assert (waiter["position"], waiter["queue_length"], waiter["reason"]) == (1, 1, "pool_full")
    assert all(job.keys() == JOB for job in jobs)
    lease = jobs[0]["lease"]
    assert lease.keys() == {"lease_id", "fence", "granted_at", "expires_at", "hard_expires_at"}
    assert MOMENT.fullmatch(lease["expires_at"]) and MOMENT.fullmatch(jobs[0]["enqueued_at"])

    pool = empty.http.get("/v1/pools/default").json()
    assert pool.keys() == POOL
    assert (pool["limit"], pool["running"], pool["granted"], pool["queued"], pool["free"]) == (3, 3, 0, 1, 0)
    assert {job["job_id"] for job in pool["holders"]} == {job["job_id"] for job in jobs[:3]}
    assert [job["position"] for job in pool["queue"]] == [1]

    assert empty.act(jobs[0], "release", outcome="completed").json()["status"] == "completed"
    path = f"/v1/pools/default/jobs/{waiter['job_id']}"
    granted = empty.http.get(path, params={"wait_seconds": 10}).json()
    assert granted["status"] == "granted" and granted["position"] is None
    claimed = empty.act(granted, "claim").json()
    assert (claimed["status"], claimed["lease"]["lease_id"]) == ("running", granted["lease"]["lease_id"])
    assert claimed["lease"]["expires_at"] > granted["lease"]["expires_at"]


def test_a_waiting_acquire_is_answered_when_its_turn_comes(empty: Served) -> None:
    holders = [empty.acquire().json() for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(empty.acquire, wait_seconds=30, job_id=fresh())
        while not empty.http.get("/v1/pools/default").json()["queued"]:
            pass
        empty.act(holders[0], "release", outcome="completed")
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["status"]) == (202, "granted")


@pytest.mark.parametrize("outcome, refunded", [("completed", None), ("failed", 7), ("cancelled", 7)])
def test_an_outcome_is_kept_and_paid_back(empty: Served, outcome: str, refunded: int | None) -> None:
    user = fresh("u")
    job = empty.acquire(job_id=fresh(), user=user, credits=7, payload={"prompt": "a cat"}).json()
    ended = empty.act(job, "release", outcome=outcome, error="why", output=["a.png"]).json()
    assert (ended["status"], ended["ended_by"]) == (outcome, "holder")
    assert (ended["error"], ended["output"]) == ("why", ["a.png"])
    assert ended["lease"] is None and MOMENT.fullmatch(ended["ended_at"])
    assert (ended["refund"] and ended["refund"]["amount"]) == refunded
    assert empty.act(job, "release", outcome=outcome).json() == ended, "a repeat answers as the first"
    balance = empty.http.get(f"/v1/ledger/balances/{user}").json()
    assert balance == {"user": user, "charged": 7, "refunded": refunded or 0, "net": 7 - (refunded or 0)}
    rows = empty.http.get("/v1/ledger", params={"user": user}).json()
    assert [row["kind"] for row in rows["rows"]] == ["charge"] + ["refund"] * bool(refunded)
    assert rows["next"] is None
    assert rows["rows"][0].keys() == {"id", "at", "job_id", "user", "pool", "kind", "amount"}
    other = "failed" if outcome != "failed" else "completed"
    assert problem(empty.act(job, "release", outcome=other), 409, "already_ended")["job"] == ended


def test_refused_goes_back_to_its_place_without_refund(empty: Served) -> None:
    jobs = [empty.acquire(job_id=fresh(), credits=5).json() for _ in range(5)]
    refused = empty.act(jobs[0], "release", outcome="refused").json()
    assert (refused["status"], refused["position"], refused["reason"]) == ("queued", 1, "cooling_down")
    assert (refused["refund"], refused["lease"]) == (None, None)
    pool = empty.http.get("/v1/pools/default").json()
    assert pool["cooling_until"] is not None and pool["free"] == 1
    assert [job["job_id"] for job in pool["queue"]] == [jobs[0]["job_id"], jobs[3]["job_id"], jobs[4]["job_id"]]
    assert empty.act(jobs[0], "release", outcome="refused").json()["status"] == "queued", "a repeat"


def test_renewing(empty: Served) -> None:
    job = empty.acquire(lease_seconds=5).json()
    renewed = empty.act(job, "renew", lease_seconds=50).json()
    assert renewed["lease"]["expires_at"] > job["lease"]["expires_at"]
    assert problem(empty.act(job, "renew", lease_id="0" * 32), 410, "lease_lost")["job"]["status"] == "running"


def test_cancelling(empty: Served) -> None:
    job = empty.acquire(job_id=fresh(), credits=5).json()
    cancelled = empty.act(job, "cancel", reason="no longer wanted").json()
    assert (cancelled["status"], cancelled["end_reason"], cancelled["ended_by"]) == (
        "cancelled", "no longer wanted", "operator")  # fmt: skip
    assert cancelled["refund"]["amount"] == 5
    assert empty.act(job, "cancel").json() == cancelled, "a repeat"
    problem(empty.act(job, "release", outcome="completed"), 409, "already_ended")
    problem(empty.act(job, "renew"), 409, "already_ended")


def test_a_reason_may_be_any_words(empty: Served) -> None:
    job = empty.acquire().json()
    assert empty.act(job, "cancel", reason="lease_timeout").json()["end_reason"] == "lease_timeout"


def test_the_same_job_id_is_the_same_job(empty: Served) -> None:
    body = {"job_id": fresh(), "user": "ana", "credits": 5, "payload": {"a": 1}}
    first = empty.acquire(**body).json()
    assert empty.acquire(**body).json() == first | {"replayed": True}
    assert empty.acquire(job_id=body["job_id"]).json() == first | {"replayed": True}, "what is not named is not compared"
    for other in ({"user": "bruno"}, {"credits": 6}, {"payload": {"a": 2}}, {"tool": "pose"}, {"session": "s"}):
        assert problem(empty.acquire(**(body | other)), 409, "job_id_reused")["job"]["user"] == "ana"
    problem(empty.acquire(pool="small", **body), 409, "job_id_reused")
    empty.act(first, "release", outcome="completed")
    assert problem(empty.acquire(**body), 409, "already_ended")["job"]["status"] == "completed"


def test_one_live_job_a_user_where_the_pool_says_so(served: Served) -> None:
    user = fresh("u")
    job = served.acquire(pool="capped", user=user).json()
    refused = problem(served.acquire(pool="capped", user=user), 409, "user_busy")
    assert refused["active_job_id"] == refused["job"]["job_id"] == job["job_id"]
    active = served.http.get(f"/v1/users/{user}/active").json()
    assert active == job
    served.act(job, "release", outcome="completed")
    assert served.http.get(f"/v1/users/{user}/active").json() is None
    served.act(served.acquire(pool="capped", user=user).json(), "release", outcome="completed")


def test_one_user_does_not_fill_the_queue(served: Served) -> None:
    ana, bruno = fresh("u"), fresh("u")
    jobs = [served.acquire(pool="shared", user=ana).json() for _ in range(2)]
    refused = fresh()
    answer = served.acquire(pool="shared", user=ana, job_id=refused, credits=5)
    problem(answer, 429, "user_queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert served.http.get("/v1/ledger", params={"job_id": refused}).json()["rows"] == []
    jobs.append(served.acquire(pool="shared", user=bruno).json())
    assert [job["status"] for job in jobs] == ["running", "queued", "queued"]
    for job in reversed(jobs):
        served.act(job, "cancel")


def test_a_full_queue(served: Served) -> None:
    jobs = [served.acquire(pool="small").json() for _ in range(2)]
    answer = served.acquire(pool="small")
    problem(answer, 429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    for job in reversed(jobs):
        served.act(job, "cancel")


def test_a_pool_changes_live_and_keeps_it_through_a_restart(tmp_path) -> None:
    own = Served(tmp_path, GATE_LIMIT="1")
    with own:
        jobs = [own.acquire(job_id=f"j{n}").json() for n in range(3)]
        raised = own.http.put("/v1/pools/default", json={"limit": 2, "lease_seconds": 30}).json()
        assert (raised["limit"], raised["running"] + raised["granted"], raised["queued"]) == (2, 2, 1)
        paused = own.post("/v1/pools/default/pause", {"reason": "provider is down"}).json()
        assert paused["paused"] is True
        own.act(jobs[0], "release", outcome="completed")
        waiter = own.http.get("/v1/pools/default/jobs/j2").json()
        assert (waiter["status"], waiter["reason"]) == ("queued", "paused")
    with own:
        pool = own.http.get("/v1/pools/default").json()
        assert (pool["limit"], pool["paused"]) == (2, True)
        assert own.post("/v1/pools/default/resume").json()["paused"] is False
        granted = own.http.get("/v1/pools/default/jobs/j2", params={"wait_seconds": 10}).json()
        assert granted["status"] == "granted"
        drained = own.http.put("/v1/pools/default", json={"limit": 0}).json()
        assert (drained["limit"], drained["granted"] + drained["running"], drained["free"]) == (0, 2, 0)
        assert own.post("/v1/pools/nowhere/pause").json()["code"] == "pool_unknown"
        for wrong in ({}, {"limit": -1}, {"limit": "5"}, {"colour": 1}, {"lease_seconds": 0.1}):
            assert own.http.put("/v1/pools/default", json=wrong).status_code == 422
        assert run_gate("verify", cwd=tmp_path).returncode == 0


def test_an_expiry_and_a_late_outcome(served: Served) -> None:
    job = served.acquire(job_id=fresh(), credits=5, lease_seconds=0.5).json()
    path = f"/v1/pools/default/jobs/{job['job_id']}"
    expired = served.http.get(path, params={"wait_seconds": 10, "status": "running"}).json()
    assert (expired["status"], expired["end_reason"], expired["ended_by"]) == ("expired", "lease_timeout", "gate")
    assert expired["refund"]["amount"] == 5
    late = problem(served.act(job, "release", outcome="completed"), 410, "lease_lost")
    assert late["job"]["late_outcome"] == "completed"
    assert served.http.get(path).json()["status"] == "expired"


def test_unknown_things(served: Served) -> None:
    problem(served.acquire(pool="nowhere"), 404, "pool_unknown")
    problem(served.http.get("/v1/pools/nowhere"), 404, "pool_unknown")
    problem(served.http.get("/v1/pools/nowhere/jobs/a"), 404, "pool_unknown")
    problem(served.http.get("/v1/pools/default/jobs/nobody"), 404, "job_unknown")
    for verb, body in (("claim", {}), ("renew", {}), ("release", {"outcome": "failed"})):
        path = f"/v1/pools/default/jobs/nobody/{verb}"
        problem(served.post(path, {"lease_id": "x"} | body), 404, "job_unknown")
    problem(served.post("/v1/pools/default/jobs/nobody/cancel"), 404, "job_unknown")
    problem(served.http.get("/nowhere"), 404, "not_found")
    answer = served.http.get("/v1/pools/default/acquire")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    problem(served.http.get("/v1/pools/default/"), 404, "not_found")


BAD = [
    ({"job_id": "-a"}, "job_id"), ({"job_id": "a\n"}, "job_id"), ({"job_id": "a" * 129}, "job_id"), ({"job_id": 5}, "job_id"),
    ({"user": ""}, "user"), ({"user": "a\nb"}, "user"), ({"user": "a" * 257}, "user"), ({"tool": "\x00"}, "tool"),
    ({"session": True}, "session"), ({"credits": -1}, "credits"), ({"credits": 10**9 + 1}, "credits"),
    ({"credits": 1.5}, "credits"), ({"credits": True}, "credits"), ({"credits": "5"}, "credits"), ({"credits": 5}, "job_id"),
    ({"payload": []}, "payload"), ({"payload": {"a": "x" * 17_000}}, "payload"), ({"payload": {"a": "\x00"}}, "payload"),
    ({"payload": {"a": json.loads("[" * 40 + "]" * 40)}}, "payload"), ({"lease_seconds": 0.4}, "lease_seconds"), ({"lease_seconds": "5"}, "lease_seconds"), ({"wait_seconds": 61}, "wait_seconds"),
    ({"wait_seconds": -1}, "wait_seconds"), ({"colour": "red"}, "colour"),
]  # fmt: skip


@pytest.mark.parametrize("body, field", BAD, ids=[f"{next(iter(body))}-{n}" for n, (body, _) in enumerate(BAD)])
def test_bad_input_names_its_field_and_changes_nothing(served: Served, body: dict, field: str) -> None:
    before = standing(served)
    refused = problem(served.acquire(**body), 422, "invalid")
    assert field in [error["field"] for error in refused["errors"]]
    assert standing(served) == before


def standing(served: Served) -> dict[str, object]:
    """The pool, but for what the passing of time changes."""
    return served.http.get("/v1/pools/default").json() | {"oldest_lease_seconds": None}


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '"a"', '{"credits": NaN, "job_id": "a"}', '{"lease_seconds": 1e309}', "\xff"]
)
def test_what_is_no_acquire_at_all(served: Served, text: str) -> None:
    answer = served.http.post(
        "/v1/pools/default/acquire", content=text.encode("latin-1"), headers={"content-type": "application/json"}
    )
    assert problem(answer, 422, "invalid")["errors"][0]["field"]


def test_where_the_json_breaks_is_told(served: Served) -> None:
    answer = served.http.post(
        "/v1/pools/default/acquire", content=b'{"user": "ana" "tool": "x"}', headers={"content-type": "application/json"}
    )
    told = problem(answer, 422, "invalid")
    assert told["detail"] == "body: it is not JSON: Expecting ',' delimiter, at character 15"
    assert told["errors"][0]["field"] == "body"


def test_every_field_at_fault_is_told_and_of_very_many_how_many(served: Served) -> None:
    body = {"credits": -1, "wait_seconds": 61} | {f"x{number}": 1 for number in range(9)}
    told = problem(served.http.post("/v1/pools/default/acquire", json=body), 422, "invalid")
    assert told["detail"].startswith("credits: ") and "; wait_seconds: " in told["detail"]
    assert told["detail"].endswith("; and 6 more") and len(told["errors"]) == 11


def test_an_unknown_parameter(served: Served) -> None:
    refused = problem(served.http.get("/v1/ledger", params={"usr": "ana"}), 422, "invalid")
    assert refused["errors"][0]["field"] == "usr"
    problem(served.http.get("/v1/pools/default", params={"limit": "5", "x": ""}), 422, "invalid")


def test_a_body_without_its_type_is_told_so(served: Served) -> None:
    answer = served.http.post("/v1/pools/default/acquire", content=b'{"user": "ana"}')
    assert "content-type: application/json" in problem(answer, 422, "invalid")["detail"]


def test_what_a_refusal_says_of_a_waiter_has_its_place(empty: Served) -> None:
    jobs = [empty.acquire().json() for _ in range(4)]
    for verb, more in (("claim", {}), ("renew", {}), ("release", {"outcome": "failed"})):
        refused = problem(empty.act(jobs[3], verb, lease_id="0" * 32, **more), 410, "lease_lost")
        assert refused["job"]["position"] == 1


def test_a_payload_may_speak_of_nul(empty: Served) -> None:
    payload = {"text": "\\u0000 is NUL", "deep": json.loads("[" * 30 + "]" * 30)}
    assert empty.acquire(payload=payload).json()["payload"] == payload


def test_a_user_with_a_slash(empty: Served) -> None:
    user = "a/b c"
    job = empty.acquire(user=user).json()
    assert empty.http.get("/v1/users/a%2Fb%20c/active").json()["job_id"] == job["job_id"]
    assert empty.http.get("/v1/ledger/balances/a%2Fb%20c").json()["user"] == user


def test_a_body_too_large(served: Served) -> None:
    problem(served.acquire(payload={"a": "x" * 300_000}), 413, "too_large")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"payload": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}", "it is nested too deep"),
        (b'{"credits": ' + b"9" * 5_000 + b"}", "a number is too large"),
        (b'{"user": "\xff"}', "it is not UTF-8, at byte 10"),
    ],
)
def test_json_that_cannot_be_read_is_told_why(served: Served, body: bytes, told: str) -> None:
    refused = served.http.post("/v1/pools/default/acquire", content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["detail"]) == (422, f"body: {told}")


def test_a_body_that_is_packed_is_told_so(served: Served) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    refused = served.http.post("/v1/pools/default/acquire", content=gzip.compress(b"{}"), headers=headers)
    assert (refused.status_code, refused.json()["detail"]) == (422, "body: send it as it is, without a content-encoding")


def test_another_method_is_told_which_there_are(served: Served) -> None:
    refused = served.http.patch("/v1/pools/default")
    known = "DELETE, GET, PUT"
    assert (refused.status_code, refused.headers["allow"], refused.json()["detail"]) == (405, known, f"here are {known}")


def test_what_belongs_into_the_body_is_told_so(served: Served) -> None:
    refused = served.http.post("/v1/pools/default/acquire?wait_seconds=5", json={"user": "ana"})
    assert refused.status_code == 422 and refused.json()["errors"] == [
        {"field": "wait_seconds", "message": "'wait_seconds' goes into the body"}
    ]


def test_health(served: Served) -> None:
    assert served.http.get("/healthz").json() == {"status": "alive"}
    assert served.http.get("/readyz").json() == {"status": "ready"}
    for path in ("/healthz", "/readyz"):  # as many a load balancer asks
        assert (served.http.head(path).status_code, served.http.head(path).content) == (200, b"")


def test_ready_gate_names_the_pools_that_it_holds(served: Served) -> None:
    def ready() -> dict:
        answer = served.http.get("/readyz")
        assert answer.status_code == 200, "it answers, and ends jobs"
        return answer.json()

    pool = fresh("held")
    served.http.put(f"/v1/pools/{pool}", json={"limit": 3}).raise_for_status()
    ledger = Ledger(database := Database(served.sql_url))
    try:
        asyncio.run(ledger.change_pool(pool, {"paused": True}, by="gate", reason="SQL has gone back"))
    finally:
        database.close()
    assert ready() == {"status": "ready", "held": [pool]}
    served.http.post(f"/v1/pools/{pool}/resume").raise_for_status()
    assert ready() == {"status": "ready"}


def test_openapi_names_every_route(served: Served) -> None:
    paths = served.http.get("/openapi.json").json()["paths"]
    assert {"/v1/pools/{pool}/acquire", "/v1/ledger/balances/{user}", "/v1/users/{user}/active"} <= paths.keys()
    assert served.http.get("/docs").status_code == 200
    assert [served.http.get(f"{path}?x=1").status_code for path in ("/docs", "/openapi.json")] == [422, 422]


def test_a_stop_answers_waiting_calls_and_ends_cleanly(tmp_path) -> None:
    with Served(tmp_path) as own:
        [own.acquire() for _ in range(3)]
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(own.acquire(job_id="last", wait_seconds=60)))
        waiting.start()
        while not own.http.get("/v1/pools/default").json()["queued"]:
            pass
        assert own.stop() == 0
        waiting.join(10)
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(202, "queued")]
