"""The paths, bodies and answers of the queue manager that gate replaces, as old front ends call it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gate.diagnostics.verify import verify
from gate.http.legacy_supabase import MANAGER
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh

UPSCALER, POSE = "upscaler_jobs", "pose_changer_jobs"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("supabase"), GATE_LIMIT="2", GATE_MAX_ACTIVE_PER_USER="1") as served:
        yield served


@pytest.fixture
def empty(own: Served) -> Iterator[Served]:
    yield own
    view = own.http.get("/v1/pools/default").json()
    for job in view["queue"] + view["holders"]:
        own.act(job, "cancel")


def ask(served: Served, path: str, **body: Any) -> Any:
    answer = served.post(f"{MANAGER}/{path}", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store" and answer.headers["access-control-allow-origin"] == "*"
    return answer.json()


def enqueue(served: Served, table: str = UPSCALER, **body: Any) -> tuple[str, Any]:
    job_id = fresh()
    return job_id, ask(served, "run-or-queue", table=table, jobId=job_id, **body)


def test_a_check_that_names_no_job_promises_no_slot(empty: Served) -> None:
    """As the tools of the first plan send it: no body at all. Told of free slots, each of them would start a task."""
    free = {"available": False, "running": 0, "maxConcurrent": 2, "slotsAvailable": 0, "totalQueued": 0}
    assert ask(empty, "check") == ask(empty, "check", table=UPSCALER) == free
    bare = empty.http.post(f"{MANAGER}/check", headers={"content-type": "application/json"})
    assert bare.json() == free, "an empty body is {}"
    enqueue(empty), enqueue(empty), enqueue(empty)
    assert ask(empty, "check") == free | {"running": 2, "totalQueued": 1}, "what it counts is true"


def test_a_setting_keeps_the_counting_answer(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_CHECK_COUNTS="true") as served:
        assert ask(served, "check")["slotsAvailable"] == 3
        enqueue(served)
        assert ask(served, "check") == {
            "available": True, "running": 1, "maxConcurrent": 3, "slotsAvailable": 2, "totalQueued": 0,
        }  # fmt: skip


def test_a_repeat_says_so_and_how_the_job_stands(empty: Served) -> None:
    job_id, first = enqueue(empty)
    assert "duplicate" not in first and first["status"] == "running"
    again = ask(empty, "run-or-queue", table=UPSCALER, jobId=job_id)
    assert (again["duplicate"], again["status"]) == (True, "running")


def test_a_busy_user_is_told_which_job_keeps_it_busy(empty: Served) -> None:
    job_id, _ = enqueue(empty, userId="caio")
    refused = empty.post(f"{MANAGER}/run-or-queue", {"table": POSE, "jobId": fresh(), "userId": "caio"}).json()
    assert (refused["code"], refused["activeJobId"], refused["activeStatus"]) == ("user_busy", job_id, "running")


def test_a_tool_waits_in_its_own_line_with_its_own_times(tmp_path: Path) -> None:
    config = """
[pools.video]
limit = 1
[tools.video_upscaler_jobs]
pool = "video"
lease_seconds = 1800
queue_seconds = 2
"""
    video = "video_upscaler_jobs"
    with Served(tmp_path, config=config, GATE_LIMIT="2") as served:
        for _ in range(3):
            enqueue(served)  # the default pool is full
        job_id, said = enqueue(served, video, sessionId="tab")
        assert (said["queued"], said["status"]) == (False, "running")
        job = served.http.get(f"/v1/pools/video/jobs/{job_id}").json()
        assert job["pool"] == "video"
        lease = job["lease"]
        assert datetime.fromisoformat(lease["expires_at"]) - datetime.fromisoformat(lease["granted_at"]) == timedelta(
            minutes=30
        )
        waits, said = enqueue(served, video, sessionId="tab")
        assert (said["queued"], said["position"], said["totalQueued"]) == (True, 1, 1), "of its own line"
        overdue = served.http.get(f"/v1/pools/video/jobs/{waits}", params={"wait_seconds": 20}).json()
        assert (overdue["status"], overdue["end_reason"]) == ("expired", "queue_timeout")
        status = ask(served, "status")
        assert (status["totalMaxSlots"], status["totalRunning"], status["totalQueued"]) == (3, 3, 1)
        waits, _ = enqueue(served, video, sessionId="tab")
        assert ask(served, "cancel-session", sessionId="tab")["cancelledJobs"] == [{"table": video, "id": waits}]
        assert ask(served, "check", table=video)["maxConcurrent"] == 1
        done = {"table": video, "jobId": job_id, "status": "completed"}
        assert ask(served, "finish", **done) == {"success": True, "refundedAmount": 0}


def test_a_cancel_after_the_start_claims_no_refund(tmp_path: Path) -> None:
    config = f'limit = 1\n[tools.{POSE}]\ncancel_refunds = "until_started"\n'
    with Served(tmp_path, config=config, GATE_ADMIN_KEY="a key") as served:
        served.http.headers["apikey"] = "a key"
        for path in ("user_cancel_ai_job", "finish", "operator"):
            runs, _ = enqueue(served, POSE, creditCost=4)
            waits, _ = enqueue(served, POSE, creditCost=4)
            for job_id, refunded in ((waits, 4), (runs, 0)):
                for _ in range(2):
                    if path == "finish":
                        said = ask(served, "finish", table=POSE, jobId=job_id, status="cancelled")
                        assert said["refundedAmount"] == refunded
                    elif path == "operator":
                        said = served.post(f"/v1/pools/default/jobs/{job_id}/cancel").json()
                        assert (said["refund"] or {"amount": 0})["amount"] == refunded
                    else:
                        (said,) = served.post(f"/rest/v1/rpc/{path}", {"p_table_name": POSE, "p_job_id": job_id}).json()
                        assert said == {"success": True, "refunded_amount": refunded, "error_message": None}
            again = served.post(f"{MANAGER}/run-or-queue", {"table": POSE, "jobId": runs, "creditCost": 4})
            assert again.status_code == 400 and again.json()["refunded"] is False
            known = served.http.get(f"/v1/pools/default/jobs/{runs}").json()
            assert (known["status"], known["refund"], known["cancel_refunds"]) == ("cancelled", None, "until_started")
            assert served.sql("select kind, amount from @ledger where job_id = :job order by id", job=runs) == [("charge", 4)]
        other, _ = enqueue(served, creditCost=4)
        (said,) = served.post("/rest/v1/rpc/user_cancel_ai_job", {"p_table_name": UPSCALER, "p_job_id": other}).json()
        assert said["refunded_amount"] == 4, "a tool without a setting has that of the pool"
        told = run_gate("explain", runs, cwd=served.folder).stdout
        assert (
            "No refund: it was cancelled after its start, and the pool refunds cancelled jobs until they start"
            in " ".join(told.split())
        )
        assert not verify(served.sql_url, served.redis_url).breaches


def test_a_short_queue_time_is_kept_behind_a_longer_one(tmp_path: Path) -> None:
    config = "[tools.pose_changer_jobs]\nqueue_seconds = 1\n"
    with Served(tmp_path, config=config, GATE_LIMIT="1") as served:
        enqueue(served)
        patient, _ = enqueue(served)
        hasty, _ = enqueue(served, POSE)
        at = f"/v1/pools/default/jobs/{hasty}"
        assert served.http.get(at, params={"wait_seconds": 20}).json()["end_reason"] == "queue_timeout"
        assert served.http.get(f"/v1/pools/default/jobs/{patient}").json()["status"] == "queued"


END_TEXTS = {
    "errorMessage": ["x" * 5000, "cut \ud83d", "a\x00b", {"message": "an object"}, 17],
    "outputUrl": ["https://x/" + "y" * 5000, "https://x/\x00.png"],
    "taskId": [1900000000000000001],
    "webhookPayload": [{"eventData": "x" * 300_000}, "text", None],
    "rhCost": ["a text", "NaN"],
}


@pytest.mark.parametrize("field", END_TEXTS)
def test_an_end_is_never_refused_for_its_text(empty: Served, field: str) -> None:
    for value in END_TEXTS[field]:
        job_id, _ = enqueue(empty, creditCost=3)
        body = {"table": UPSCALER, "jobId": job_id, "status": "failed", field: value}
        content = json.dumps(body).encode()
        answer = empty.http.post(f"{MANAGER}/finish", content=content)
        assert (answer.status_code, answer.json()["refundedAmount"]) == (200, 3), (value, answer.text)
        job = empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()
        assert job["status"] == "failed" and "\x00" not in str(job)
        if value == "x" * 5000:
            assert job["error"].startswith("xxx") and job["error"].endswith("… (cut)")


@pytest.mark.parametrize("payload", ["[" * 3000 + "]" * 3000, "9" * 5000, "1e999"], ids=["deep", "digits", "infinity"])
def test_an_end_is_an_end_whatever_stands_beside_it(empty: Served, payload: str) -> None:
    job_id, _ = enqueue(empty)
    body = f'{{"table": "{UPSCALER}", "jobId": "{job_id}", "status": "failed", "webhookPayload": {payload}}}'
    assert empty.http.post(f"{MANAGER}/finish", content=body).status_code == 200
    taken = empty.acquire(job_id=fresh()).json()
    body = f'{{"lease_id": "{taken["lease"]["lease_id"]}", "outcome": "failed", "output": {payload}}}'
    at = f"/v1/pools/default/jobs/{taken['job_id']}/release"
    released = empty.http.post(at, content=body, headers={"content-type": "application/json"})
    assert released.status_code == 200, released.text


def test_an_end_in_broken_utf_8_is_still_an_end(empty: Served) -> None:
    job_id, _ = enqueue(empty)
    body = f'{{"table": "{UPSCALER}", "jobId": "{job_id}", "status": "failed", "errorMessage": "caf'.encode() + b'\xe9"}'
    assert empty.http.post(f"{MANAGER}/finish", content=body).status_code == 200


def test_a_job_that_was_checked_may_be_enqueued_with_more_than_the_check_named(empty: Served) -> None:
    body = {"table": POSE, "jobId": fresh()}
    assert ask(empty, "check", **body)["available"] is True
    more = {"sessionId": "s-1", "userId": "ana", "webappId": "w-1", "job_payload": {"scale": 2}}
    assert ask(empty, "enqueue", **body, **more)["duplicate"] is True


def test_a_check_with_a_job_takes_a_slot_and_says_so_again_when_asked_again(empty: Served) -> None:
    mine = {"table": UPSCALER, "jobId": fresh(), "userId": "ana", "creditCost": 10}
    first = ask(empty, "check", **mine)
    assert first == {"available": True, "running": 0, "maxConcurrent": 2, "slotsAvailable": 2, "totalQueued": 0}
    assert ask(empty, "check", **mine) == first
    second = ask(empty, "check", table=POSE, jobId=fresh())
    assert (second["available"], second["running"], second["slotsAvailable"]) == (True, 1, 1)
    none = ask(empty, "check", table=POSE, jobId=fresh())
    assert (none["available"], none["running"], none["slotsAvailable"], none["totalQueued"]) == (False, 2, 0, 0)
    assert ask(empty, "status")["totalQueued"] == 0, "without a free slot nothing is queued"
    assert ask(empty, "check", **mine)["available"] is True


def test_a_slot_is_not_available_while_anyone_waits_or_the_pool_is_paused(empty: Served) -> None:
    empty.post("/v1/pools/default/pause")
    waits, _ = enqueue(empty)
    for body in ({}, {"table": POSE, "jobId": fresh()}):
        said = ask(empty, "check", **body)
        assert (said["available"], said["slotsAvailable"], said["totalQueued"]) == (False, 0, 1)
    empty.post("/v1/pools/default/resume")
    assert empty.http.get(f"/v1/pools/default/jobs/{waits}", params={"wait_seconds": 10}).json()["status"] == "granted"


def test_what_is_enqueued_runs_or_waits_in_order(empty: Served) -> None:
    said = [enqueue(empty, userId=fresh("u"))[1] for _ in range(4)]
    assert [(one["success"], one["queued"], one["position"]) for one in said] == [
        (True, False, 0), (True, False, 0), (True, True, 1), (True, True, 2),
    ]  # fmt: skip
    assert [one["totalQueued"] for one in said] == [0, 0, 1, 2]
    pose, _ = enqueue(empty, POSE)
    status = ask(empty, "status")
    assert status["queuedByTool"] == {UPSCALER: 2, POSE: 1}
    names = (
        "totalMaxSlots",
        "totalRunning",
        "totalSlotsAvailable",
        "totalQueued",
        "running",
        "maxConcurrent",
        "slotsAvailable",
    )
    assert [status[name] for name in names] == [2, 2, 0, 3, 2, 2, 0] and status["accounts"] == []
    assert ask(empty, "process-next") == {"processed": False, "reason": "Global limit reached"}
    assert ask(empty, "enqueue", table=POSE, jobId=pose)["position"] == 3, "a repeat stands where it stood"


def test_active_jobs_of_a_user(empty: Served) -> None:
    job_id, _ = enqueue(empty, userId="bia")
    active = {"hasActiveJob": True, "activeTool": "Upscaler Arcano", "activeJobId": job_id, "activeStatus": "running"}
    assert ask(empty, "check-user-active", userId="bia") == active
    assert ask(empty, "check-user-active", userId="nobody") == {"hasActiveJob": False, "activeTool": None}
    refused = empty.post(f"{MANAGER}/run-or-queue", {"table": POSE, "jobId": fresh(), "userId": "bia"})
    assert refused.status_code == 400
    assert {name: refused.json()[name] for name in ("success", "code", "refunded")} == {
        "success": False, "code": "user_busy", "refunded": False,
    }  # fmt: skip


def test_every_table_of_the_owner_has_the_display_name_that_front_ends_map_back(empty: Served) -> None:
    names = {
        "upscaler_jobs": "Upscaler Arcano", "pose_changer_jobs": "Pose Changer", "veste_ai_jobs": "Veste AI",
        "video_upscaler_jobs": "Video Upscaler", "arcano_cloner_jobs": "Arcano Cloner",
        "character_generator_jobs": "Gerador Personagem", "flyer_maker_jobs": "Flyer Maker",
        "bg_remover_jobs": "Remover Fundo", "image_generator_jobs": "Gerar Imagem",
        "video_generator_jobs": "Gerar Vídeo", "movieled_maker_jobs": "MovieLed Maker",
    }  # fmt: skip
    for table in names:
        enqueue(empty, table, userId=f"user-of-{table}")
    active = {table: ask(empty, "check-user-active", userId=f"user-of-{table}")["activeTool"] for table in names}
    assert active == names


def test_finish_frees_the_slot_pays_back_once_and_skips_a_repeat(empty: Served) -> None:
    job_id, _ = enqueue(empty, creditCost=7)
    _, _ = enqueue(empty)
    third, waits = enqueue(empty)
    assert waits["queued"]
    done = {
        "table": UPSCALER,
        "jobId": job_id,
        "status": "failed",
        "errorMessage": "no",
        "rhCost": 3,
        "webhookPayload": {"a": 1},
    }
    assert ask(empty, "finish", **done) == {"success": True, "refundedAmount": 7}
    over = {"success": True, "skipped": True, "reason": "already_terminal", "refundedAmount": 7}
    assert ask(empty, "finish", **done) == over
    assert ask(empty, "finish", **done | {"notAdmitted": True}) == over
    assert ask(empty, "finish", **done | {"status": "completed"}) == over, "a late success is kept, and the refund stands"
    granted = empty.http.get(f"/v1/pools/default/jobs/{third}", params={"wait_seconds": 10}).json()
    assert granted["status"] == "granted"
    assert ask(empty, "check-user-active", userId="ana")["hasActiveJob"] is False
    fine = {"table": UPSCALER, "jobId": third, "status": "completed", "outputUrl": "https://x/y.png"}
    assert ask(empty, "finish", **fine) == {"success": True, "refundedAmount": 0}
    assert empty.http.get(f"/v1/pools/default/jobs/{third}").json()["output"] == {"url": "https://x/y.png"}


STATUS_WORDS = {
    "completed": ["completed", "SUCCESS", "success", " Completed "],
    "failed": ["failed", "FAILED", "error", "Timeout"],
    "cancelled": ["cancelled", "CANCELED", "cancel"],
}


@pytest.mark.parametrize("outcome", STATUS_WORDS)
def test_status_words_of_callers_and_providers_end_a_job(empty: Served, outcome: str) -> None:
    for word in STATUS_WORDS[outcome]:
        job_id, _ = enqueue(empty, creditCost=3)
        back = 0 if outcome == "completed" else 3
        said = ask(empty, "finish", table=UPSCALER, jobId=job_id, status=word)
        assert said == {"success": True, "refundedAmount": back}, word
        assert empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()["status"] == outcome


@pytest.mark.parametrize("status", ["", "running", "RUNNING", "QUEUED", 1, None, ["failed"]])
def test_a_status_word_that_means_no_end_is_refused(empty: Served, status: Any) -> None:
    job_id, _ = enqueue(empty)
    answer = empty.post(f"{MANAGER}/finish", {"table": UPSCALER, "jobId": job_id, "status": status})
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, "status")
    assert empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()["status"] == "running"


def explained(served: Served, job_id: str) -> str:
    return run_gate("explain", job_id, cwd=served.folder).stdout


def test_what_a_browser_ends_while_it_waits_is_ended_by_its_caller(empty: Served) -> None:
    enqueue(empty), enqueue(empty)
    failed, _ = enqueue(empty)
    ask(empty, "finish", table=UPSCALER, jobId=failed, status="failed", errorMessage="the upload failed")
    job = empty.http.get(f"/v1/pools/default/jobs/{failed}").json()
    assert (job["status"], job["ended_by"], job["error"]) == ("failed", "caller", "the upload failed")
    said = explained(empty, failed)
    assert ", by its caller." in said and "The error: the upload failed" in said and "operator" not in said
    closed, _ = enqueue(empty, sessionId="a-tab")
    assert ask(empty, "cancel-session", sessionId="a-tab")["cancelledCount"] == 1
    said = explained(empty, closed)
    assert "by its caller: its session was cancelled" in said and "operator" not in said
    given_up, _ = enqueue(empty)
    body = {"p_table_name": UPSCALER, "p_job_id": given_up}
    assert empty.post("/rest/v1/rpc/user_cancel_ai_job", body).json()[0]["success"] is True
    assert "by its caller: cancelled by its user" in explained(empty, given_up)


def test_what_a_provider_said_comes_with_a_finish_and_is_kept_once(empty: Served) -> None:
    job_id, _ = enqueue(empty, creditCost=3)
    payload = {"event": "TASK_END", "taskId": "19", "eventData": {"code": 805, "msg": "não"}}
    body = {"table": UPSCALER, "jobId": job_id, "status": "failed", "taskId": "19", "webhookPayload": payload}
    assert ask(empty, "finish", **body)["refundedAmount"] == 3
    assert ask(empty, "finish", **body)["reason"] == "already_terminal"
    facts = json.loads(run_gate("explain", job_id, "--json", cwd=empty.folder).stdout)
    (kept,) = facts["callbacks"]
    assert (kept["verdict"], kept["task_id"], kept["outcome"], json.loads(kept["body"])) == (
        "relayed",
        "19",
        "failed",
        payload,
    )
    assert 'passed on by a call of finish, and not applied by itself. It said: {"event": "TASK_END"' in explained(
        empty, job_id
    )
    page = empty.http.get(f"/pools/default/jobs/{job_id}", headers={"accept": "text/html"}).text
    assert "passed on by a call of finish" in page
    assert facts["job"]["late_outcome"] is None and facts["job"]["ended_by"] == "holder"


def test_no_more_payloads_of_a_job_are_kept_than_callbacks(empty: Served) -> None:
    job_id, _ = enqueue(empty)
    body = {"table": UPSCALER, "jobId": job_id, "status": "failed"}
    for n in range(23):
        ask(empty, "finish", **body, webhookPayload="x" * 70_000 if n == 0 else {"n": n})
    facts = json.loads(run_gate("explain", job_id, "--json", cwd=empty.folder).stdout)
    assert [len(one["body"]) for one in facts["callbacks"][:1]] == [64 * 1024]
    assert len(facts["callbacks"]) == 20


def test_what_the_provider_is_to_run_is_handed_over_and_what_it_cost_is_kept(empty: Served) -> None:
    job_id, _ = enqueue(empty, webappId="1900000000000000001", job_payload={"prompt": "a fox"})
    running = empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()
    assert running["payload"] == {"webappId": "1900000000000000001", "prompt": "a fox"}
    ask(empty, "finish", table=UPSCALER, jobId=job_id, status="completed", outputUrl="https://x/y.png", rhCost=2.5)
    assert empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()["output"] == {"url": "https://x/y.png", "rhCost": 2.5}
    odd, _ = enqueue(empty, webappId={"a": 1})
    body = (
        f'{{"table": "{UPSCALER}", "jobId": "{odd}", "status": "completed", "rhCost": NaN, "webhookPayload": {{"a": NaN}}}}'
    )
    assert empty.http.post(f"{MANAGER}/finish", content=body).json() == {"success": True, "refundedAmount": 0}
    assert empty.http.get(f"/v1/pools/default/jobs/{odd}").json()["output"] is None


def test_what_is_done_is_not_paid_back_though_it_waited(empty: Served) -> None:
    enqueue(empty), enqueue(empty)
    waits, said = enqueue(empty, creditCost=5, sessionId="")
    assert said["queued"]
    done = {"table": UPSCALER, "jobId": waits, "status": "completed"}
    assert ask(empty, "finish", **done) == {"success": True, "refundedAmount": 0}
    assert empty.http.get(f"/v1/pools/default/jobs/{waits}").json()["status"] == "completed"


def test_an_outcome_that_comes_too_late_is_kept(empty: Served) -> None:
    taken = empty.acquire(job_id=fresh(), tool=UPSCALER, lease_seconds=0.5).json()
    at = f"/v1/pools/default/jobs/{taken['job_id']}"
    assert empty.http.get(at, params={"wait_seconds": 10, "status": "running"}).json()["status"] == "expired"
    assert ask(empty, "finish", table=UPSCALER, jobId=taken["job_id"], status="completed")["skipped"] is True
    assert empty.http.get(at).json()["late_outcome"] == "completed"


@pytest.mark.parametrize("path", ["", "/", "/nobody", "/check/more"])
def test_an_unknown_path_is_said_in_words_that_a_browser_may_read(empty: Served, path: str) -> None:
    answer = empty.http.post(MANAGER + path)
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid endpoint"})
    other = empty.http.post("/rest/v1/rpc/nobody")
    assert (other.status_code, other.json()["error"]) == (400, "Invalid endpoint")
    assert empty.http.options(MANAGER + path).status_code == 204
    taken = empty.http.post(f"{MANAGER}/check", json={"jobId": "a"})
    assert (taken.status_code, taken.json()) == (400, {"error": "Missing table"})
    large = empty.http.post(f"{MANAGER}/check", content=b" " * 300_000)
    wrong = empty.http.get(f"{MANAGER}/check")
    assert (large.status_code, wrong.status_code) == (413, 405)
    for one in (answer, other, taken, large, wrong):
        assert (
            one.headers["access-control-allow-origin"] == "*"
            and one.headers["cache-control"] == "no-store"
            and one.json()["error"]
        )


def test_the_word_of_an_earlier_task_ends_nothing(empty: Served) -> None:
    job_id, _ = enqueue(empty)
    empty.http.put(f"/v1/pools/default/jobs/{job_id}/task", json={"provider": "runninghub", "task_id": f"now-{job_id}"})
    late = {"table": UPSCALER, "jobId": job_id, "status": "failed", "taskId": "before"}
    said = {"success": True, "skipped": True, "reason": "another_task", "taskId": f"now-{job_id}"}
    assert ask(empty, "finish", **late) == said, "and the caller is told which task counts"
    assert empty.http.get(f"/v1/pools/default/jobs/{job_id}").json()["status"] == "running"


def test_a_session_is_cancelled(empty: Served) -> None:
    for _ in range(2):
        enqueue(empty)
    mine, _ = enqueue(empty, POSE, sessionId="tab", creditCost=2)
    said = ask(empty, "cancel-session", sessionId="tab")
    assert said == {"success": True, "cancelledCount": 1, "cancelledJobs": [{"table": POSE, "id": mine}]}
    assert ask(empty, "cancel-session", sessionId="tab")["cancelledCount"] == 0


def test_the_procedures(empty: Served) -> None:
    job_id, _ = enqueue(empty, creditCost=4)

    def call(name: str, **body: Any) -> Any:
        return empty.post(f"/rest/v1/rpc/{name}", body)

    assert call("cleanup_all_stale_ai_jobs").json() == []
    mine = {"p_table_name": UPSCALER, "p_job_id": job_id}
    assert call("user_cancel_ai_job", **mine).json() == [{"success": True, "refunded_amount": 4, "error_message": None}]
    assert call("user_cancel_ai_job", **mine).json()[0]["refunded_amount"] == 4, "a repeat is told the same, and pays nothing"
    done, _ = enqueue(empty)
    ask(empty, "finish", table=UPSCALER, jobId=done, status="completed")
    (late,) = call("user_cancel_ai_job", p_table_name=UPSCALER, p_job_id=done).json()
    assert late == {"success": False, "refunded_amount": 0, "error_message": "this job is completed already"}
    assert call("user_cancel_ai_job", p_table_name=POSE, p_job_id=job_id).status_code == 404


def test_what_is_wrong_is_told_in_their_words(empty: Served) -> None:
    def wrong(path: str, body: Any = None) -> tuple[int, str]:
        answer = empty.post(f"{MANAGER}/{path}", body)
        return answer.status_code, answer.json()["error"]

    assert wrong("nothing") == (400, "Invalid endpoint") and wrong("") == (400, "Invalid endpoint")
    assert wrong("enqueue", {"jobId": "a"}) == (400, "Missing table")
    assert wrong("check-user-active") == (400, "Missing userId")
    assert wrong("cancel-session") == (400, "Missing sessionId or userId")
    assert wrong("finish", {"table": UPSCALER, "jobId": fresh(), "status": "failed"})[0] == 404
    for body in ("{", "[]", '"x"', "NaN", '{"jobId": "\\ud800", "table": "t"}', "[" * 20_000):
        answer = empty.http.post(f"{MANAGER}/enqueue", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"], body[:20]
    assert ask(empty, "status")["totalRunning"] == 0


def test_a_page_of_another_origin_may_ask(empty: Served) -> None:
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,x-client-info,apikey,content-type"}  # fmt: skip
    answer = empty.http.options(f"{MANAGER}/check", headers=asked)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "*"
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {
        "authorization", "x-client-info", "apikey", "content-type", "content-profile", "accept-profile", "accept", "prefer",
        "range", "x-region", "x-supabase-api-version", "x-retry-count", "x-request-id", "traceparent", "tracestate", "baggage",
    } == set(allowed)  # fmt: skip
    assert answer.headers["access-control-allow-methods"] == "POST, GET, HEAD, OPTIONS"
    for path in (MANAGER, f"{MANAGER}/finish", "/rest/v1/rpc/user_cancel_ai_job", "/rest/v1/rpc/any_other"):
        other = empty.http.options(path, headers=asked)
        assert (other.status_code, other.headers["access-control-allow-headers"]) == (204, ", ".join(allowed)), path


def test_a_refused_procedure_has_the_fields_of_postgrest(empty: Served) -> None:
    def refused(name: str, content: bytes = b"{}", **headers: str) -> tuple[int, dict[str, Any]]:
        answer = empty.http.post(f"/rest/v1/rpc/{name}", content=content, headers=headers)
        body = answer.json()
        assert body["message"] and body["error"] and body["code"], "supabase-js shows `message`, gate's callers `error`"
        assert {"details": None, "hint": None}.items() <= body.items()
        assert answer.headers["access-control-expose-headers"] == "Retry-After, Content-Range"
        assert answer.headers["access-control-allow-origin"] == "*" and answer.headers["cache-control"] == "no-store"
        return answer.status_code, body

    mine = json.dumps({"p_table_name": UPSCALER, "p_job_id": fresh()}).encode()
    status, body = refused("user_cancel_ai_job", mine)
    assert (status, body["code"], body["message"]) == (404, "job_unknown", body["error"])
    status, body = refused("nobody")
    assert (status, body["code"], body["error"]) == (400, "PGRST202", "Invalid endpoint")
    assert body["message"] == "Could not find the function public.nobody in the schema cache"
    assert refused("user_cancel_ai_job")[1]["message"] == "Missing p_table_name"
    assert refused("user_cancel_ai_job", b"{")[0] == 400
    assert refused("cleanup_all_stale_ai_jobs", b"{}", **{"x-forwarded-for": "1.2.3.4"})[0] == 401
    assert refused("cleanup_all_stale_ai_jobs", b" " * 300_000)[0] == 413
    assert empty.http.get("/rest/v1/rpc/user_cancel_ai_job").json()["message"]
