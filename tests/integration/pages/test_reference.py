"""docs/http.md: it is what the OpenAPI document says now."""

from __future__ import annotations

import re
from typing import Any

from gate.http.problems import TABLE as REFUSALS
from gate.model.limits import BODY_MAX_BYTES
from tests.checks.reference import PAGE, document, page
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.routes import TABLE


def test_it_is_what_the_command_makes_now() -> None:
    assert PAGE.read_text() == page(), "make it anew: python -m tests.checks.reference"


def test_it_is_written_from_what_a_server_shows(served: Served) -> None:
    assert served.http.get("/openapi.json").json() == document()


def test_every_route_is_there_and_says_which_roles_may_call_it(served: Served) -> None:
    routes = re.findall(r"^### (GET|PUT|POST|DELETE) (\S+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(routes) == len(set(routes)) == PAGE.read_text().count("*Who*: ")
    assert {(method, path) for method, path in routes} <= {(method, path.replace(":text}", "}")) for method, path in TABLE}


def test_each_refusal_is_named_where_it_is_met(served: Served) -> None:
    met = set()

    def refused(code: str, method: str, path: str, body: Any = None, pool: str = "default", **values: str) -> None:
        answer = served.http.request(method, path.format(pool=pool, **values), json=body)
        assert answer.json()["code"] == code, (path, answer.text)
        described = document()["paths"][path][method.lower()]["responses"][str(answer.status_code)]["description"]
        assert f"`{code}`" in described, path
        met.add(code)

    ended, live, other = (served.acquire(job_id=fresh()).json() for _ in range(3))
    served.act(ended, "release", outcome="completed")
    taken = {"provider": "standard", "task_id": fresh()}
    served.http.put(f"/v1/pools/default/jobs/{live['job_id']}/task", json=taken).raise_for_status()
    job = "/v1/pools/{pool}/jobs/{job_id}"
    bodies = {
        "claim": {},
        "renew": {},
        "release": {"outcome": "failed"},
        "task": {"provider": "standard", "task_id": fresh()},
    }
    for verb, more in bodies.items():
        method = "PUT" if verb == "task" else "POST"
        body = {"lease_id": ended["lease"]["lease_id"]} | more
        refused("already_ended", method, f"{job}/{verb}", body, job_id=ended["job_id"])
        refused("lease_lost", method, f"{job}/{verb}", body, job_id=live["job_id"])
        refused("job_unknown", method, f"{job}/{verb}", body, job_id=fresh())
        refused("pool_unknown", method, f"{job}/{verb}", body, pool="none", job_id=fresh())
        refused("invalid", method, f"{job}/{verb}", {"lease": 1}, job_id=fresh())
    refused("task_taken", "PUT", f"{job}/task", taken, job_id=other["job_id"])
    refused("no_task", "POST", f"{job}/ask", job_id=live["job_id"])
    refused("already_ended", "POST", f"{job}/cancel", job_id=ended["job_id"])
    for path in (job, f"{job}/events", f"{job}/history"):
        refused("job_unknown", "GET", path, job_id=fresh())
    acquire = "/v1/pools/{pool}/acquire"
    refused("already_ended", "POST", acquire, {"job_id": ended["job_id"]})
    refused("job_id_reused", "POST", acquire, {"job_id": live["job_id"]}, pool="small")
    refused("too_large", "POST", acquire, {"session": "x" * BODY_MAX_BYTES})
    served.act(served.acquire("small", job_id=fresh()).json(), "release", outcome="completed")
    served.sql("update @jobs set granted_at = ended_at - 60000 where pool = 'small' and status = 'completed'")
    user = fresh("user")
    kept = [served.acquire("capped", user=user).json(), served.acquire("small").json(), served.acquire("small").json()]
    kept += [served.acquire("shared", user=user).json() for _ in range(2)]
    refused("user_busy", "POST", acquire, {"user": user}, pool="capped")
    refused("queue_full", "POST", acquire, {"user": user}, pool="small")
    refused("pool_not_empty", "DELETE", "/v1/pools/{pool}", pool="small")
    refused("too_long", "POST", acquire, {"max_eta_seconds": 30}, pool="small")
    refused("user_queue_full", "POST", acquire, {"user": user}, pool="shared")
    webhook = "/v1/webhooks/{provider}/{pool}"
    refused("forged", "POST", webhook, {}, provider="standard")
    refused("provider_unknown", "POST", webhook, {}, provider="nobody")
    apply = "/v1/callbacks/unread/{callback_id}/apply"
    read = {"job_id": ended["job_id"], "outcome": "failed", "reason": "I read it"}
    refused("callback_unknown", "POST", apply, read, callback_id="1000")
    served.sql(
        "insert into @unread_callbacks (id, at, last_at, times, provider, pool, hash, body, why)"
        " values (7, 1, 1, 1, 'standard', 'small', 'x', '{', 'it is not JSON')"
    )
    refused("job_unknown", "POST", apply, read, callback_id="7")
    refused("not_running", "POST", apply, read | {"job_id": kept[2]["job_id"]}, callback_id="7")
    done = kept[1]["job_id"]
    served.post(apply.format(callback_id=7), read | {"job_id": done}).raise_for_status()
    refused("callback_applied", "POST", apply, read | {"job_id": done}, callback_id="7")
    dismiss = "/v1/callbacks/unread/{callback_id}/dismiss"
    refused("callback_applied", "POST", dismiss, {"reason": "a trial"}, callback_id="7")
    refused("callback_unknown", "POST", dismiss, {"reason": "a trial"}, callback_id="1000")
    for one in (live, other, *kept):
        served.act(one, "cancel")
    elsewhere = {"unauthorized", "forbidden", "started_by_gate", "store_down", "tool_unknown"}
    assert {code for _, code, _ in REFUSALS.values()} - met == elsewhere
