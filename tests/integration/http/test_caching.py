"""No proxy and no browser keeps an answer about a job or a pool."""

from __future__ import annotations

from typing import Any

import httpx2

from gate.http.legacy_supabase import MANAGER
from tests.support.gate_process import Served
from tests.support.names import fresh

MANY = {"content-encoding": "identity"}
"""A header that the fast path leaves to the framework."""


def kept(answer: httpx2.Response) -> list[str]:
    return answer.headers.get_list("cache-control")


def test_no_answer_about_jobs_and_pools_may_be_stored(served: Served) -> None:
    pool, job_id, http = fresh(), fresh(), served.http
    at, job = f"/v1/pools/{pool}", f"/v1/pools/{pool}/jobs/{job_id}"
    answers = [http.put(at, json={"limit": 1}), served.acquire(pool, job_id=job_id)]
    lease: dict[str, Any] = {"lease_id": answers[-1].json()["lease"]["lease_id"]}
    answers += [http.post(f"{at}/acquire", json={"job_id": job_id}, headers=headers) for headers in ({}, MANY)]
    answers += [http.get(path) for path in (at, "/v1/pools", job, f"{job}/history", "/v1/ledger", "/v1/users/ana/active")]
    answers += [http.post(f"{job}/claim", json=lease, headers=headers) for headers in ({}, MANY)]
    answers += [http.post(f"{job}/renew", json={"lease_id": "stale"}, headers=headers) for headers in ({}, MANY)]
    answers += [http.post(f"{at}/acquire", json={"credits": "many"}, headers=headers) for headers in ({}, MANY)]
    answers += [http.post(f"{job}/release", json=lease | {"outcome": "completed"}), served.acquire(pool, job_id=job_id)]
    answers += [
        http.get(f"{job}x"),
        http.get("/v1/nothing"),
        http.delete("/v1/ledger"),
        http.get("/readyz"),
        http.get("/healthz"),
    ]
    answers += [http.post(f"{MANAGER}/{verb}", json={}) for verb in ("check", "enqueue", "nothing")]
    answers += [http.post("/rest/v1/rpc/nothing", json={}), http.post(f"/v1/webhooks/standard/{pool}", json={})]
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 404, 405, 409, 410, 422}
    assert [(str(answer.url), kept(answer)) for answer in answers if kept(answer) != ["no-store"]] == []


def test_an_answer_with_a_rule_of_its_own_keeps_it(served: Served) -> None:
    pool, job_id = fresh(), fresh()
    served.http.put(f"/v1/pools/{pool}", json={"limit": 1})
    lease = served.acquire(pool, job_id=job_id).json()["lease"]
    served.http.post(f"/v1/pools/{pool}/jobs/{job_id}/release", json={"lease_id": lease["lease_id"], "outcome": "completed"})
    assert kept(served.http.get(f"/v1/pools/{pool}/jobs/{job_id}/events")) == ["no-cache"]
