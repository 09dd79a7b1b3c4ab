"""Callbacks that cannot be read, on a real server: kept, counted, shown, and applied to a job by an operator."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from tests.integration.http.test_webhooks import CONFIG, TOKEN, hub, look, running, signed
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh

HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("unread")
    with Served(folder, config=CONFIG) as served:
        yield served
        assert not verify(served.sql_url, served.redis_url).breaches
        assert served.stop() == 0
    assert TOKEN not in (folder / "errors.log").read_text(), "the token stands in no log"


def broken(task_id: str) -> bytes:
    return b'{"event": "TASK_END", "taskId": "%s", "eventData": {"unknown": ' % task_id.encode()


def call(served: Served, body: bytes, pool: str = "default", token: str = TOKEN) -> httpx2.Response:
    return served.http.post(f"/v1/webhooks/runninghub/{pool}?token={token}", content=body)


def unread(served: Served, task_id: str) -> list[dict[str, Any]]:
    rows, after = [], 0
    while after is not None:
        page = served.http.get("/v1/callbacks/unread", params={"after": after, "limit": 2}).json()
        rows, after = rows + page["rows"], page["next"]
    return [one for one in rows if one["task_id"] == task_id]


def kept(served: Served, task_id: str, pool: str = "default") -> dict[str, Any]:
    assert call(served, broken(task_id), pool).status_code == 422
    (one,) = unread(served, task_id)
    return one


def apply(
    served: Served, one: dict[str, Any], job_id: str, outcome: str = "failed", reason: str = "I read it"
) -> httpx2.Response:
    return served.post(f"/v1/callbacks/unread/{one['id']}/apply", {"job_id": job_id, "outcome": outcome, "reason": reason})


def counted(served: Served) -> float:
    (found,) = re.findall(
        r'^gate_callbacks_unread_total{provider="runninghub"} (\S+)$', served.http.get("/metrics").text, re.M
    )
    return float(found)


def refunds(served: Served, job_id: str) -> list[int]:
    rows = served.http.get("/v1/ledger", params={"job_id": job_id, "kind": "refund"}).json()["rows"]
    return [row["amount"] for row in rows]


def test_the_same_body_three_times_is_kept_once_and_counted_thrice(own: Served) -> None:
    task_id, before = fresh("task"), counted(own)
    for _ in range(3):
        answer = call(own, broken(task_id))
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (422, "invalid", "it is not JSON")
    (one,) = unread(own, task_id)
    assert (one["times"], one["provider"], one["pool"], one["why"]) == (3, "runninghub", "default", "body: it is not JSON")
    assert one["body"].encode() == broken(task_id) and one["applied_at"] is None and one["at"] < one["last_at"]
    assert counted(own) == before + 3
    logged = [json.loads(line) for line in (own.folder / "errors.log").read_text().splitlines() if task_id in line]
    assert [one["event"] for one in logged] == ["callback.unread"] * 3
    assert (logged[0]["provider"], logged[0]["pool"], logged[0]["why"]) == ("runninghub", "default", "body: it is not JSON")


def test_a_signed_callback_that_cannot_be_read_is_kept_too(own: Served) -> None:
    task_id = fresh("task")
    assert signed(own, {"task_id": task_id, "outcome": "exploded"}).status_code == 422
    (one,) = unread(own, task_id)
    assert (one["provider"], one["why"]) == ("standard", "data.outcome: must be completed, failed or cancelled")


def test_it_is_kept_where_the_queue_manager_was_called_back(own: Served) -> None:
    task_id = fresh("task")
    assert own.http.post(f"/functions/v1/runninghub-webhook?token={TOKEN}", content=broken(task_id)).status_code == 422
    assert [one["pool"] for one in unread(own, task_id)] == ["default"]


def test_without_the_secret_or_a_pool_nothing_is_kept(own: Served) -> None:
    task_id, before = fresh("task"), own.sql("select count(*) from @unread_callbacks")
    for token in ("", "wrong", TOKEN[:-1]):
        assert call(own, broken(task_id), token=token).json()["code"] == "forged"
    assert (
        signed(own, {"task_id": task_id, "outcome": "?"}, secret="whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCE=").status_code == 401
    )
    for pool in ("nowhere", "a%00b", "%ff"):
        assert call(own, broken(task_id), pool=pool).status_code == 422
    assert own.sql("select count(*) from @unread_callbacks") == before


def test_what_can_be_read_is_not_kept(own: Served) -> None:
    job, task_id = running(own)
    assert hub(own, task_id).json() == {"result": "applied"}
    assert unread(own, task_id) == [] and look(own, job)["status"] == "completed"


def test_applied_it_ends_the_job_once_and_its_slot_goes_to_the_next(own: Served) -> None:
    own.http.put("/v1/pools/narrow", json={"limit": 1}).raise_for_status()
    job = own.acquire("narrow", job_id=fresh(), credits=10).json()
    behind = own.acquire("narrow", job_id=fresh()).json()
    task_id = fresh("task")
    task = {"provider": "runninghub", "task_id": task_id}
    own.http.put(f"/v1/pools/narrow/jobs/{job['job_id']}/task", json=task).raise_for_status()
    one = kept(own, task_id, "narrow")
    applied = apply(own, one, job["job_id"])
    assert applied.status_code == 200, applied.text
    ended = applied.json()
    assert (ended["status"], ended["ended_by"], ended["error"], ended["refund"]["amount"]) == (
        "failed", "provider", "I read it", 10,
    )  # fmt: skip
    next_in_line = own.http.get(f"/v1/pools/narrow/jobs/{behind['job_id']}", params={"wait_seconds": 5}).json()
    assert next_in_line["status"] == "granted"
    again = apply(own, one, job["job_id"])
    assert (again.status_code, again.json()["code"]) == (409, "callback_applied")
    assert refunds(own, job["job_id"]) == [10]
    (row,) = unread(own, task_id)
    assert (row["job_id"], row["outcome"], row["reason"], row["applied_by"]) == (
        job["job_id"], "failed", "I read it", "operator",
    )  # fmt: skip
    history = own.http.get(f"/v1/pools/narrow/jobs/{job['job_id']}/history").json()["events"]
    assert (history[-1]["kind"], history[-1]["why"]) == ("callback", f"unread callback {one['id']}: I read it")
    own.act(next_in_line, "cancel")


def test_completed_its_body_is_the_output(own: Served) -> None:
    job, task_id = running(own)
    body = {"event": "TASK_END", "taskId": task_id, "eventData": [{"url": "https://f/1.png"}]}
    assert own.post(f"/v1/webhooks/runninghub/default?token={TOKEN}", body).status_code == 422
    (one,) = unread(own, task_id)
    ended = apply(own, one, job["job_id"], "completed").json()
    assert (ended["status"], ended["output"], ended["error"], ended["refund"]) == ("completed", {"raw": body}, None, None)


def test_a_success_that_is_read_after_the_expiry_is_late(own: Served) -> None:
    job, task_id = running(own, lease_seconds=0.5)
    path = f"/v1/pools/default/jobs/{job['job_id']}"
    assert own.http.get(path, params={"wait_seconds": 10, "status": "running"}).json()["status"] == "expired"
    late = apply(own, kept(own, task_id), job["job_id"], "completed").json()
    assert (late["status"], late["late_outcome"], late["refund"]["amount"]) == ("expired", "completed", 10)


def test_what_cannot_be_applied_is_refused_by_name(own: Served) -> None:
    task_id = fresh("task")
    one = kept(own, task_id)
    done = own.acquire(job_id=fresh()).json()
    own.act(done, "release", outcome="completed")
    assert apply(own, one, done["job_id"]).json()["code"] == "already_ended"
    assert apply(own, one, fresh()).json()["code"] == "job_unknown"
    elsewhere = own.acquire("other", job_id=fresh()).json()
    assert apply(own, one, elsewhere["job_id"]).json()["code"] == "job_unknown", "of another pool"
    own.act(elsewhere, "cancel")
    assert apply(own, {"id": 10**9}, done["job_id"]).json()["code"] == "callback_unknown"
    holders = [own.acquire(job_id=fresh()).json() for _ in range(3)]
    waits = own.acquire(job_id=fresh()).json()
    assert waits["status"] == "queued"
    refused = apply(own, one, waits["job_id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "not_running")
    for wrong in ({"outcome": "expired"}, {"reason": ""}, {"job_id": "no id"}, {"outcome": None}):
        body = {"job_id": done["job_id"], "outcome": "failed", "reason": "x"} | wrong
        assert own.post(f"/v1/callbacks/unread/{one['id']}/apply", body).json()["code"] == "invalid", wrong
    for job in (waits, *holders):
        own.act(job, "cancel")
    assert unread(own, task_id) == [one]


def test_while_sql_takes_nothing_the_provider_hears_503_and_comes_again(own: Served) -> None:
    if own.sql_url.startswith("postgresql"):
        pytest.skip("it holds a file of SQLite")
    task_id = fresh("task")
    engine = sa.create_engine(sa.make_url(own.sql_url).set(drivername="sqlite+pysqlite"))
    with engine.connect() as hand:
        hand.exec_driver_sql("begin immediate")
        answer = call(own, broken(task_id))
        assert (answer.status_code, answer.json()["code"]) == (503, "store_down") and answer.headers["retry-after"] == "1"
        hand.rollback()
    engine.dispose()
    until_kept = time.monotonic() + 10
    while call(own, broken(task_id)).status_code != 422:
        assert time.monotonic() < until_kept
    assert len(unread(own, task_id)) == 1


def test_explain_and_the_doctor_and_the_terminal_show_it(own: Served) -> None:
    job, task_id = running(own)
    one = kept(own, task_id)
    for name in (job["job_id"], task_id):
        said = run_gate("explain", name, cwd=own.folder).stdout
        assert f"callback {one['id']} of task {task_id} from runninghub that could not be read: body: it is not JSON" in said
        assert f"gate callbacks apply {one['id']} JOB" in said
    facts = json.loads(run_gate("explain", task_id, "--json", cwd=own.folder).stdout)
    assert [found["id"] for found in facts["unread_callbacks"]] == [one["id"]]
    unbound = fresh("unbound")
    stray = kept(own, unbound)
    nowhere = run_gate("explain", unbound, cwd=own.folder)
    assert nowhere.returncode == 1 and f"callback {stray['id']}, which could not be read, names that task" in nowhere.stderr
    found = json.loads(run_gate("doctor", "--json", cwd=own.folder).stdout)
    (finding,) = [about for about in found if about["what"] == "unread"]
    assert f"runninghub {unbound}" in finding["says"] and "gate callbacks apply ID JOB" in finding["helps"]
    listed = run_gate("callbacks", cwd=own.folder).stdout
    assert task_id in listed and unbound in listed
    words = ("callbacks", "apply", str(one["id"]), job["job_id"], "--outcome", "cancelled", "--reason", "they said so")
    done = run_gate(*words, "--json", cwd=own.folder)
    assert json.loads(done.stdout)["status"] == "cancelled", done.stderr
    again = run_gate(*words, cwd=own.folder)
    assert again.returncode == 1 and "callback_applied" in again.stderr
    said = run_gate("explain", job["job_id"], cwd=own.folder).stdout
    assert "applied as cancelled at" in said and "by operator: they said so" in said
    assert (
        f"a callback that could not be read was applied, by the operator: unread callback {one['id']}: they said so" in said
    )


def waiting(served: Served) -> float:
    pattern = r'^gate_callbacks_unread_waiting{provider="runninghub"} (\S+)$'
    (found,) = re.findall(pattern, served.http.get("/metrics").text, re.M)
    return float(found)


def doctor_names(served: Served, task_id: str) -> bool:
    found = json.loads(run_gate("doctor", "--json", cwd=served.folder).stdout)
    return any(task_id in one["says"] for one in found if one["what"] == "unread")


def test_a_dismissed_callback_is_kept_and_no_longer_reported(own: Served) -> None:
    task_id, other = fresh("task"), fresh("task")
    one, next_one = kept(own, task_id, "other"), kept(own, other, "other")
    before = waiting(own)
    assert doctor_names(own, task_id) and task_id in own.http.get("/pools/other", headers=HTML).text
    path = f"/v1/callbacks/unread/{one['id']}/dismiss"
    assert own.post(path, {"reason": ""}).json()["code"] == "invalid"
    done = own.post(path, {"reason": "a trial of ours"})
    assert done.status_code == 200, done.text
    said = {name: done.json()[name] for name in ("job_id", "outcome", "reason", "applied_by")}
    assert said == {"job_id": None, "outcome": "dismissed", "reason": "a trial of ours", "applied_by": "operator"}
    assert (own.post(path, {"reason": "again"}).json()["code"], apply(own, one, "a").json()["code"]) == (
        "callback_applied", "callback_applied",
    )  # fmt: skip
    assert own.post("/v1/callbacks/unread/1000000/dismiss", {"reason": "x"}).json()["code"] == "callback_unknown"
    words = ("callbacks", "dismiss", str(next_one["id"]), "--reason", "another trial")
    assert f"callback {next_one['id']} is dismissed: another trial" in run_gate(*words, cwd=own.folder).stdout
    assert "dismissed, by operator: another trial" in run_gate("callbacks", cwd=own.folder).stdout.replace("\n", " ")
    assert waiting(own) == before - 2
    assert not doctor_names(own, task_id) and task_id not in own.http.get("/pools/other", headers=HTML).text
    assert [row["id"] for row in unread(own, task_id)] == [one["id"]]


def test_a_callback_whose_job_has_ended_is_no_longer_reported(own: Served) -> None:
    job, task_id = running(own)
    kept(own, task_id)
    before = waiting(own)
    assert doctor_names(own, task_id)
    own.act(job, "cancel")
    assert waiting(own) == before - 1 and not doctor_names(own, task_id)
    assert task_id not in own.http.get("/pools/default", headers=HTML).text
    assert len(unread(own, task_id)) == 1


def test_the_panel_lists_it_and_an_operator_applies_it(own: Served) -> None:
    job = own.acquire("other", job_id=fresh(), credits=3).json()
    assert "Callbacks that could not be read" not in own.http.get("/pools/other", headers=HTML).text
    task_id = fresh("task")
    task = {"provider": "runninghub", "task_id": task_id}
    own.http.put(f"/v1/pools/other/jobs/{job['job_id']}/task", json=task).raise_for_status()
    one = kept(own, task_id, "other")
    form = f"/pools/other/callbacks/{one['id']}/do/apply"
    page = own.http.get("/pools/other", headers=HTML).text
    assert "Callbacks that could not be read" in page and task_id in page and form in page
    portuguese = own.http.get("/pools/other", headers=HTML | {"accept-language": "pt-BR"}).text
    assert "Callbacks que não puderam ser lidos" in portuguese and "Aplicar a um job" in portuguese
    of_job = own.http.get(f"/pools/other/jobs/{job['job_id']}", headers=HTML).text
    assert "Callbacks that could not be read" in of_job and form in of_job
    shown = own.http.get(form, headers=HTML).text
    assert f'value="{job["job_id"]}"' in shown, "the job that is bound to its task stands there"
    (token,) = re.findall(r'name="csrf" value="(\w+)"', shown)
    headers = HTML | {"sec-fetch-site": "same-origin", "origin": own.url}

    def send(**values: str) -> httpx2.Response:
        return own.http.post(form, data={"csrf": token} | values, headers=headers)

    good = {"job": job["job_id"], "outcome": "completed", "reason": "seen at the provider"}
    for wrong, status in (({"job": ""}, 404), ({"job": "nobody"}, 404), ({"outcome": ""}, 422), ({"reason": " "}, 422)):
        assert send(**(good | wrong)).status_code == status, wrong
    assert send(**good).status_code == 303
    assert own.http.get(f"/v1/pools/other/jobs/{job['job_id']}").json()["status"] == "completed"
    assert send(**good).status_code == 409
    assert form not in own.http.get("/pools/other", headers=HTML).text
    of_job = own.http.get(f"/pools/other/jobs/{job['job_id']}", headers=HTML).text
    assert "seen at the provider" in of_job and form not in of_job
    assert own.http.get(form.replace("other", "default"), headers=HTML).status_code == 404


def test_a_body_that_means_harm_is_shown_and_does_nothing(own: Served) -> None:
    job, task_id = running(own)
    body = broken(task_id) + b"<script>alert(1)</script>\xff\x00\xed\xa0\xbd"
    assert call(own, body).status_code == 422
    page = own.http.get(f"/pools/default/jobs/{job['job_id']}", headers=HTML)
    assert page.status_code == 200 and "<script>alert" not in page.text and "&lt;script&gt;alert" in page.text
    own.act(look(own, job), "cancel")
