"""The terminal beside a running server, and without one."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.wait import until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    with Served(tmp_path_factory.mktemp("terminal")) as served:
        yield served


def said(own: Served, *words: str) -> Any:
    ended = run_gate(*words, "--json", cwd=own.folder)
    found = json.loads(ended.stdout)
    waits = words[0] == "acquire" and found["status"] != "running"
    assert ended.returncode == (3 if waits else 0), ended.stderr
    return found


def test_a_job_from_the_terminal(own: Served) -> None:
    job = said(own, "acquire", "--job-id", "t1", "--user", "ana", "--tool", "upscaler", "--credits", "5")
    assert (job["status"], job["credits"]) == ("running", 5)
    assert [held["job_id"] for held in said(own, "status")["holders"]] == ["t1"]
    assert own.http.get("/v1/pools/default/jobs/t1").json() == job
    ended = said(own, "release", "t1", "--outcome", "failed")
    assert (ended["status"], ended["refund"]["amount"]) == ("failed", 5)
    listed = {one["job_id"]: one["status"] for one in said(own, "jobs", "--status", "failed")}
    assert listed["t1"] == "failed" and set(listed.values()) == {"failed"}
    rows = said(own, "ledger", "--user", "ana")["rows"]
    assert [(row["kind"], row["amount"]) for row in rows] == [("charge", 5), ("refund", 5)]


def test_all_jobs_of_a_user_are_cancelled_at_once(own: Served) -> None:
    for number in range(3):
        said(own, "acquire", "--job-id", f"h{number}", "--user", "zoe")
    for number, user in enumerate(("zoe", "yara", "zoe")):
        said(own, "acquire", "--job-id", f"z{number}", "--user", user, "--session", f"tab-{number}", "--credits", "2")
    ended = said(own, "cancel", "--user", "zoe", "--reason", "she left")
    assert {(one["job_id"], one["status"], one["end_reason"]) for one in ended} == {
        ("z0", "cancelled", "she left"), ("z2", "cancelled", "she left"),
    }  # fmt: skip
    assert [one["job_id"] for one in said(own, "cancel", "--session", "tab-1")] == ["z1"]
    assert [one["job_id"] for one in said(own, "jobs", "--user", "zoe", "--status", "running")] == ["h2", "h1", "h0"]
    assert said(own, "ledger", "--user", "yara")["balance"] == {"user": "yara", "charged": 2, "refunded": 2, "net": 0}
    for number in range(3):
        said(own, "release", f"h{number}")
    whole = {status: 0 for status in ("completed", "cancelled")}
    for bucket in said(own, "trends", "--span", "day"):
        for status in whole:
            whole[status] += bucket["outcomes"].get(status, 0)
    assert whole["completed"] >= 3 and whole["cancelled"] >= 3


def test_what_is_changed_by_hand_is_kept_with_its_reason(own: Served) -> None:
    said(
        own,
        "pools",
        "set",
        "kept",
        "--create",
        "--limit",
        "2",
        "--cancel-refunds",
        "until_started",
        "--reason",
        "a second provider",
    )
    said(own, "pools", "set", "kept", "--limit", "4", "--lease-seconds", "900", "--reason", "they run longer now")
    said(own, "pause", "kept", "--reason", "lunch")
    found = said(own, "pools", "changes", "kept")
    assert [(one["kind"], one["why"]) for one in found] == [
        ("paused", "lunch"), ("reason", "they run longer now"), ("setting", "lease_seconds 900"), ("limit", "4"),
        ("reason", "a second provider"), ("limit", "2"),
    ]  # fmt: skip
    shown = run_gate("pools", "changes", "kept", cwd=own.folder).stdout
    assert shown.count("they run longer now") == 2 and shown.count("a second provider") == 1, (
        "beside what it is the reason of"
    )
    assert "there is no pool" in run_gate("pools", "changes", "nowhere", cwd=own.folder).stderr
    set_now = said(own, "pools", "settings", "kept")
    assert set_now == {
        "pool": "kept", "limit": 4, "lease_seconds": 900, "max_hold_seconds": 3600, "claim_seconds": 60, "queue_seconds": 600,
        "queue_max": 1000, "cooldown_seconds": 5, "max_active_per_user": 0, "queue_max_per_user": 0,
        "refusals_before_passing": 3, "cancel_refunds": "until_started", "paused": True,
    }  # fmt: skip
    shown = run_gate("pools", "settings", "kept", cwd=own.folder).stdout
    assert "kept, paused" in shown and re.search(r"lease_seconds +900 ", shown)
    assert "there is no pool" in run_gate("pools", "settings", "nowhere", cwd=own.folder).stderr


def test_a_pool_is_made_only_when_that_is_said_and_deleted_when_it_is_empty(own: Served) -> None:
    mistyped = run_gate("pools", "set", "vdieo", "--limit", "1", cwd=own.folder)
    assert mistyped.returncode == 1 and "there is no pool 'vdieo': --create makes it" in mistyped.stderr
    said(own, "pools", "set", "gone", "--create", "--limit", "1")
    said(own, "acquire", "--pool", "gone", "--job-id", "in-gone")
    refused = run_gate("pools", "delete", "gone", cwd=own.folder)
    assert refused.returncode == 1 and "pool_not_empty" in refused.stderr
    said(own, "release", "in-gone", "--pool", "gone")
    assert said(own, "pools", "delete", "gone", "--reason", "no longer sold") == {"pool": "gone", "deleted": True}
    assert own.acquire("gone").status_code == 404
    assert "gone" not in {one["pool"] for one in said(own, "pools")}
    last = said(own, "pools", "changes", "gone")[0]
    assert (last["kind"], last["why"]) == ("deleted", "no longer sold")
    assert [one["job_id"] for one in said(own, "jobs", "--pool", "gone")] == ["in-gone"]


def test_what_there_is_none_of_is_said_to_be_none(own: Served) -> None:
    said(own, "pools", "set", "bare", "--create", "--limit", "1")
    assert run_gate("jobs", "--pool", "bare", cwd=own.folder).stdout.split("\n")[2:3] == ["  none"]
    assert "  none" in run_gate("trends", "--pool", "bare", cwd=own.folder).stdout


def test_a_release_after_expiry_is_answered_so_and_is_no_holder_in_the_history(own: Served) -> None:
    said(own, "pools", "set", "run-out", "--create", "--limit", "1")
    job = own.acquire("run-out", job_id="run-out", lease_seconds=1, credits=2).json()
    asyncio.run(until(lambda: said(own, "explain", "run-out")["job"]["status"] == "expired", "its end"))
    refused = run_gate("release", "run-out", "--pool", "run-out", cwd=own.folder)
    assert refused.returncode == 1 and "already_ended: this job is expired already" in refused.stderr
    assert own.http.get("/v1/pools/run-out/jobs/run-out").json()["late_outcome"] is None, "no outcome was reported"
    named = run_gate("release", "run-out", "--pool", "run-out", "--lease-id", job["lease"]["lease_id"], cwd=own.folder)
    assert "lease_lost" in named.stderr
    late = [one for one in own.http.get("/v1/pools/run-out/jobs/run-out/history").json()["events"] if one["kind"] == "late"]
    assert [one["by"] for one in late] == ["operator"]


def test_a_job_is_found_by_its_task(own: Served) -> None:
    said(own, "acquire", "--job-id", "with-task")
    for provider, task in (("acme", "t-1"), ("zeta", "t-2")):
        own.http.put("/v1/pools/default/jobs/with-task/task", json={"provider": provider, "task_id": task})
        assert said(own, "explain", task)["job"]["job_id"] == "with-task"
    done = run_gate("explain", "t-3", cwd=own.folder)
    assert (done.returncode, "t-3" in done.stderr) == (1, True)
    said(own, "cancel", "with-task")


def test_a_wait_over_http_ends_when_the_terminal_releases(own: Served) -> None:
    for number in range(3):
        said(own, "acquire", "--job-id", f"w{number}")
    waiter = own.acquire(job_id="waiter").json()
    assert waiter["status"] == "queued"
    said(own, "release", "w0")
    path = "/v1/pools/default/jobs/waiter"
    assert own.http.get(path, params={"wait_seconds": 30}).json()["status"] == "granted"
    said(own, "cancel", "waiter", "--reason", "enough")
    for number in (1, 2):
        said(own, "cancel", f"w{number}")


def test_tables_are_for_people_and_names_are_never_markup(own: Served) -> None:
    own.acquire(job_id="m1", user="[bold]ana[/bold]", tool="[red]x")
    shown = run_gate("status", cwd=own.folder).stdout
    assert "[bold]ana[/bold]" in shown and "[red]x" in shown and "1 running" in shown
    assert "job m1: cancelled" in run_gate("cancel", "m1", cwd=own.folder).stdout
    assert "m1" in run_gate("jobs", cwd=own.folder).stdout
    assert run_gate("ledger", cwd=own.folder).returncode == 0


def test_verify_says_clean_or_what_is_not(own: Served) -> None:
    clean = run_gate("verify", cwd=own.folder)
    assert clean.returncode == 0 and "clean: I1-I9 hold in both stores" in clean.stdout
    assert json.loads(run_gate("verify", "--json", cwd=own.folder).stdout)["breaches"] == []


def test_a_refusal_is_one_line_and_exit_1(own: Served) -> None:
    held = own.acquire(job_id="great").json()
    for words, line in (
        (("release", "nobody"), "job_unknown"),
        (("cancel", "nobody"), "job_unknown"),
        (("status", "--pool", "nowhere"), "pool_unknown"),
        (("jobs", "--pool", "nowhere"), "pool_unknown"),
        (("acquire", "--credits", "5"), "credits need a job_id"),
        (("acquire", "--job-id", "-"), "job_id"),
        (("release", "great", "--outcome", "great"), "outcome"),
    ):
        ended = run_gate(*words, cwd=own.folder)
        assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1, ended.stderr
        assert line in ended.stderr
    own.act(held, "cancel")


def test_a_waiter_holds_no_slot_to_release(own: Served) -> None:
    jobs = [own.acquire(job_id=f"q{n}").json() for n in range(4)]
    ended = run_gate("release", "q3", cwd=own.folder)
    assert ended.returncode == 1 and "`gate cancel` ends it" in ended.stderr
    released = said(own, "release", "q0", "--outcome", "failed", "--error", "stuck")
    assert (released["ended_by"], released["error"]) == ("operator", "stuck")
    for job in jobs[1:]:
        run_gate("cancel", job["job_id"], cwd=own.folder)


def test_output_that_cannot_be_written_is_no_traceback(own: Served) -> None:
    for shell in ("status > /dev/full", "jobs --json | true", "status"):
        command = f"{sys.executable} -m gate {shell}"
        environment = gate_environment(PYTHONIOENCODING="ascii")
        ended = subprocess.run(["bash", "-c", command], cwd=own.folder, env=environment, capture_output=True, text=True)
        assert "Traceback" not in ended.stderr


def test_a_demo_where_no_gate_answers(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "notaurl"):
        ended = run_gate("demo", "--url", url, cwd=tmp_path)
        assert ended.returncode == 1 and "no gate answers" in ended.stderr and "Traceback" not in ended.stderr


def test_a_rebuild_keeps_leases_and_order(own: Served) -> None:
    jobs = [own.acquire(job_id=f"r{n}").json() for n in range(5)]
    before = own.http.get("/v1/pools/default").json()
    rebuilt = said(own, "rebuild")
    for shown in (rebuilt, own.http.get("/v1/pools/default").json()):
        assert {job["job_id"]: job["lease"] for job in shown["holders"]} == {
            j["job_id"]: j["lease"] for j in before["holders"]
        }
        assert [job["job_id"] for job in shown["queue"]] == ["r3", "r4"]
    assert own.act(jobs[0], "renew").status_code == 200
    for job in reversed(jobs):
        own.act(job, "cancel")


def test_a_backup_of_a_running_gate_is_a_whole_ledger(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        served.act(served.acquire(job_id="kept", credits=3).json(), "release", outcome="failed")
        copy = tmp_path / "copy.db"
        assert said(served, "backup", str(copy))["bytes"] == copy.stat().st_size
        again = run_gate("backup", str(copy), cwd=tmp_path)
        assert again.returncode == 1 and "never overwrites" in again.stderr
        assert run_gate("backup", "/proc/nowhere", cwd=tmp_path).returncode == 1
    url = f"sqlite:///{copy}"
    rows = json.loads(run_gate("ledger", "--job-id", "kept", "--json", cwd=tmp_path, GATE_DATABASE_URL=url).stdout)["rows"]
    assert [row["kind"] for row in rows] == ["charge", "refund"]


def test_what_is_pruned_keeps_its_id_its_outcome_and_its_money(own: Served) -> None:
    run_gate("prune", "--older-than", "0s", cwd=own.folder)
    own.act(
        own.acquire(job_id="old", credits=3, payload={"p": 1}, session="s").json(), "release", outcome="failed", error="e"
    )
    living = own.acquire(job_id="living", payload={"p": 2}).json()
    before = own.http.get("/v1/ledger", params={"job_id": "old"}).json()
    assert run_gate("prune", "--older-than", "1h", cwd=own.folder).stdout.startswith("0 jobs")
    assert said(own, "prune", "--older-than", "0s") == {"jobs": 1, "events": 2}
    assert said(own, "prune", "--older-than", "0s") == {"jobs": 0, "events": 0}
    old = own.http.get("/v1/pools/default/jobs/old").json()
    assert (old["status"], old["payload"], old["session"], old["error"]) == ("failed", None, None, None)
    assert (old["credits"], old["refund"]["amount"]) == (3, 3)
    assert own.http.get("/v1/ledger", params={"job_id": "old"}).json() == before
    assert own.acquire(job_id="old", credits=3, payload={"p": 1}).json()["code"] == "already_ended"
    assert own.http.get("/v1/pools/default/jobs/living").json()["payload"] == {"p": 2}
    own.act(living, "release", outcome="completed")
    assert run_gate("prune", "--older-than", "soon", cwd=own.folder).returncode == 2
    assert run_gate("verify", cwd=own.folder).returncode == 0


def test_the_schema_is_upgraded_by_hand_too(tmp_path: Path) -> None:
    assert "upgraded to" in run_gate("db", "upgrade", cwd=tmp_path).stdout
    assert "up to date" in run_gate("db", "upgrade", cwd=tmp_path).stdout


def test_which_gate_this_is() -> None:
    assert run_gate("--version", cwd=Path.cwd()).stdout.startswith("gate 0.")


def test_words_that_do_not_exist_are_exit_2(own: Served) -> None:
    for words in (("jobs", "--status", "great"), ("ledger", "--kind", "gift"), ("nothing",)):
        assert run_gate(*words, cwd=own.folder).returncode == 2


def test_without_a_server(tmp_path: Path) -> None:
    for words in (("status",), ("acquire",), ("cancel", "a"), ("release", "a")):
        ended = run_gate(*words, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "no gate runs in" in ended.stderr
    assert not (tmp_path / ".gate").exists(), "looking makes nothing"
    for words in (("jobs",), ("ledger",), ("verify",)):
        assert "there is no ledger" in run_gate(*words, cwd=tmp_path).stderr
    assert not (tmp_path / ".gate").exists()


def test_with_the_server_stopped_the_ledger_is_there_and_verify_checks_sql_alone(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        served.act(served.acquire(job_id="a", credits=5).json(), "release", outcome="failed")
    rows = json.loads(run_gate("ledger", "--json", cwd=tmp_path).stdout)["rows"]
    assert [row["kind"] for row in rows] == ["charge", "refund"]
    assert "failed" in run_gate("jobs", cwd=tmp_path).stdout
    checked = run_gate("verify", cwd=tmp_path)
    assert checked.returncode == 0 and "clean: I1-I6 and I8 hold in SQL alone" in checked.stdout


def test_the_demo_on_a_live_service(own: Served) -> None:
    shown = run_gate("demo", cwd=own.folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "DIFFERS" not in shown.stdout and "3 running, 1 queued" in shown.stdout
    own.acquire(job_id="busy")
    busy = run_gate("demo", cwd=own.folder)
    assert busy.returncode == 1 and "idle" in busy.stderr
    run_gate("cancel", "busy", cwd=own.folder)


def test_the_demo_brings_its_own_service(tmp_path: Path) -> None:
    steps = json.loads(run_gate("demo", "--json", cwd=tmp_path).stdout)
    assert len(steps) == 13 and all(step["ok"] for step in steps)
    assert list(tmp_path.iterdir()) == [], "and leaves nothing"


PROVIDERS = '[providers.runninghub]\ntoken = "a token & more"\n'


def test_the_demo_with_the_provider_on_a_live_service(tmp_path: Path) -> None:
    with Served(tmp_path, config="limit = 3\n" + PROVIDERS) as served:
        shown = run_gate("demo", "--provider", cwd=tmp_path)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "DIFFERS" not in shown.stdout and served.url in shown.stdout and "a token" not in shown.stdout
        assert re.search(r"most tasks the provider ever counted +3 +3 +ok", shown.stdout)
        ends = [job["status"] for job in said(served, "jobs")]
        assert sorted(ends) == ["completed"] * 5 + ["expired"] + ["failed"] * 2
        assert run_gate("verify", cwd=tmp_path).returncode == 0
        other = run_gate("demo", "--provider", cwd=tmp_path, GATE_PROVIDERS='{"runninghub": {"token": "another"}}')
        assert other.returncode == 1 and "does not know the token" in other.stderr and other.stderr.count("\n") == 1
        read = json.loads(run_gate("keys", "create", "demo", "--role", "tool", "--json", cwd=tmp_path).stdout)["key"]
        served.http.headers["authorization"] = f"Bearer {read}"
        asyncio.run(until(lambda: served.http.get("/v1/pools").status_code == 200, "the key counts", within_s=5))
        assert run_gate("demo", "--provider", "--key", read, cwd=tmp_path).returncode == 0


def test_the_demo_with_the_provider_brings_its_own_service_and_needs_a_token(tmp_path: Path) -> None:
    without = run_gate("demo", "--provider", cwd=tmp_path)
    assert (without.returncode, without.stdout, without.stderr.count("\n")) == (1, "", 1)
    assert "[providers.runninghub]" in without.stderr and "token" in without.stderr and "gate.toml" in without.stderr
    (tmp_path / "gate.toml").write_text(PROVIDERS)
    steps = json.loads(run_gate("demo", "--provider", "--json", cwd=tmp_path).stdout)
    assert len(steps) == 45 and all(step["ok"] for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"], "and leaves nothing"


def test_the_demo_can_fail() -> None:
    from gate.demo.acceptance import Step

    assert not Step("what", "3", "4").ok
