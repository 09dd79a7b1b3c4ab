"""`gate explain JOB`: in sentences, from both stores, or from SQL alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate_process import Served, gate_environment, run_gate
from tests.support.tool import Tool
from tests.support.wait import until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    config = "[pools.one]\nlimit = 1\n[pools.short]\nlimit = 1\nlease_seconds = 0.5\nmax_hold_seconds = 5\n"
    config += '[providers.runninghub]\ntoken = "token"\n'
    with Served(tmp_path_factory.mktemp("explain"), config=config) as served:
        yield served


def told(own: Served, job_id: str) -> str:
    done = run_gate("explain", job_id, cwd=own.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def facts(own: Served, job_id: str) -> Any:
    return json.loads(run_gate("explain", job_id, "--json", cwd=own.folder).stdout)


def test_where_a_job_is_and_which_jobs_are_ahead(own: Served) -> None:
    jobs = [own.acquire("one", job_id=f"w{n}", user="ana", credits=5).json() for n in range(10)]
    said = told(own, "w0")
    assert "It is running: slot 1 of 1, since " in said and "Its lease is good until " in said
    said = told(own, "w2")
    assert "at position 2 of 9" in said and "the only slot is held" in said
    assert "Who holds the slots: w0." in said and "Who is ahead: w1." in said
    assert "Who is ahead: w1, w2, w3, w4, w5 and 3 more." in told(own, "w9")
    found = facts(own, "w9")
    assert (found["stores"], found["job"]["position"], found["ahead_count"]) == (["sql", "redis"], 9, 8)
    assert found["holders"] == ["w0"] and found["ahead"] == [f"w{n}" for n in range(1, 9)]
    own.act(jobs[0], "release", outcome="failed", error="it broke")
    said = told(own, "w1")
    assert "It holds slot 1 of 1" in said and "its holder has to claim it until" in said
    said = told(own, "w0")
    assert "It has ended: failed" in said and "by its holder" in said and "The error: it broke" in said
    assert "5 credits charged to ana" in said and "5 credits refunded to ana" in said
    run_gate("pause", "one", "--reason", "the provider sleeps", cwd=own.folder)
    said = told(own, "w2")
    assert "the pool is paused by the operator at " in said and "the provider sleeps" in said
    assert facts(own, "w2")["paused"]["why"] == "the provider sleeps"
    run_gate("resume", "one", cwd=own.folder)
    for n in range(9, 0, -1):
        run_gate("cancel", f"w{n}", "--pool", "one", "--reason", "changed her mind", cwd=own.folder)
        if n == 9:
            assert "cancelled" in told(own, "w9") and "by an operator: changed her mind" in told(own, "w9")


def test_a_lease_without_renewal_and_a_late_outcome(own: Served) -> None:
    job = own.acquire("short", job_id="late", user="ana", credits=5).json()
    path = "/v1/pools/short/jobs/late"
    assert own.http.get(path, params={"wait_seconds": 30, "status": "running"}).json()["status"] == "expired"
    assert own.act(job, "release", outcome="completed").status_code == 410
    said = told(own, "late")
    assert "by gate: its lease was not renewed in time, until " in said
    assert "A report came too late: completed" in said and "5 credits refunded to ana" in said


def test_a_refund_that_is_owed_says_what_failed_last(own: Served) -> None:
    job = own.acquire(job_id="owed", user="ana", credits=5).json()
    own.sql(
        "insert into @owed (job_id, pool, amount, since, due_at, attempts, error)"
        " values ('owed', 'default', 5, 1700000000000, 1700000001000, 3, 'the till is shut')"
    )
    said = told(own, "owed")
    assert "5 credits owed since then, and not paid yet" in said and "2023-11-14" in said
    assert "asked 3 times, and said last: the till is shut" in said
    assert facts(own, "owed")["owed"]["error"] == "the till is shut"
    own.sql("delete from @owed")
    own.act(job, "cancel")


def test_each_wakeup_goes_to_its_waiter(tmp_path: Path) -> None:
    with Tool().running() as tool:
        config = tool.config() + '[providers.runninghub]\ntoken = "token"\n'
        with Served(tmp_path, config=config) as served:
            answers = iter([(500, None)])
            tool.answer = lambda body: next(answers, (200, {"task_id": "task-7"}))
            path = "/functions/v1/runninghub-queue-manager/run-or-queue"
            assert served.post(path, {"table": "upscaler_jobs", "jobId": "up", "userId": "ana"}).json()["success"]
            body = {
                "event": "TASK_END",
                "taskId": "task-7",
                "eventData": {"code": 0, "msg": "well", "data": [{"fileUrl": "u"}]},
            }
            served.http.post("/v1/webhooks/runninghub/default", params={"token": "token"}, json=body)
            asyncio.run(until(lambda: "job.completed" in tool.told("up"), "its tool was told"))
            undone = "select count(*) from @deliveries where done_at is null"
            asyncio.run(until(lambda: served.sql(undone) == [(0,)], "that is written down"))
            said = told(served, "up")
            assert "start call to upscaler_jobs: answered at " in said and "after 2 tries" in said
            assert "event job.completed to upscaler_jobs: answered at " in said
            assert "callback of task task-7 from runninghub: completed; the job ended by it. It said: " in said
            assert "by its provider" in said and "TASK_END" in said
            found = facts(served, "up")
            assert [one["kind"] for one in found["deliveries"]].count("start") == 1
            assert found["callbacks"][0]["verdict"] == "ended"


def test_each_line_fits_the_terminal(own: Served) -> None:
    own.acquire("one", job_id="narrow", user="ana " * 30, credits=5)
    shown = run_gate("explain", "narrow", cwd=own.folder, COLUMNS="40").stdout
    _, *lines = shown.splitlines()
    assert max(len(line) for line in lines) <= 40 and not any(line.endswith(" ") for line in lines)
    error = "; ".join(["an error that is longer than any terminal is wide"] * 8)
    run_gate("release", "narrow", "--pool", "one", "--outcome", "failed", "--error", error, cwd=own.folder)
    pipe = {name: value for name, value in gate_environment().items() if name != "COLUMNS"}
    words = [sys.executable, "-m", "gate", "explain", "narrow"]
    assert error in subprocess.run(words, cwd=own.folder, env=pipe, capture_output=True, text=True, check=True).stdout


def test_hostile_words_are_shown_and_do_nothing(own: Served) -> None:
    job = own.acquire(job_id="evil", user="[bold]ana[/bold]", tool="[red]x").json()
    own.act(job, "release", outcome="failed", error="\x1b[2J\u202egnp.exe\x9b31m[link=x]")
    said = told(own, "evil")
    assert "[bold]ana[/bold]" in said and "[red]x" in said and "[link=x]" in said
    raw = run_gate("explain", "evil", "--json", cwd=own.folder).stdout
    for shown in (said, raw):
        assert not {"\x1b", "\u202e", "\x9b"} & set(shown)
    assert json.loads(raw)["job"]["error"] == "\x1b[2J\u202egnp.exe\x9b31m[link=x]"


def test_an_unknown_job(own: Served) -> None:
    done = run_gate("explain", "nobody", cwd=own.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "job_unknown: no pool has, or ever had, a job 'nobody'" in done.stderr


def test_what_sql_alone_knows_and_that_it_is_that(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        for n in range(5):
            served.acquire(job_id=f"a{n}")
    for job_id, where in (("a0", "slot 1 of 3"), ("a4", "at position 2 of 2")):
        said = run_gate("explain", job_id, cwd=tmp_path).stdout
        assert where in said and "This is what SQL alone knows: no gate runs in" in said
    found = json.loads(run_gate("explain", "a4", "--json", cwd=tmp_path).stdout)
    assert (found["stores"], found["ahead"], found["job"]["reason"]) == (["sql"], ["a3"], "pool_full")
    assert "no gate runs" in found["redis_not_asked"]
    away = run_gate("explain", "a4", cwd=tmp_path, GATE_REDIS_URL="redis://127.0.0.1:1")
    assert away.returncode == 0 and "This is what SQL alone knows: " in away.stdout and "127.0.0.1:1" in away.stdout
