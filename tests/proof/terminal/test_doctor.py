"""gate doctor: six kinds of damage made by hand, each named, and mended where that is safe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.servers import wait_for
from tests.support.tool import Tool


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[Served]:
    """A gate whose reconciler has just swept, so that for ten seconds nothing repairs what a test breaks."""
    with Served(tmp_path, config='[providers.runninghub]\ntoken = "t"\n') as served:
        yield served


def doctor(served: Served, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    done = run_gate("doctor", "--json", *flags, cwd=served.folder)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def named(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["what"], one["about"]) for one in found}


def test_of_a_gate_that_is_well_it_finds_nothing(sleeping: Served) -> None:
    sleeping.acquire()
    assert doctor(sleeping) == (0, [])
    said = run_gate("doctor", cwd=sleeping.folder)
    assert (said.returncode, said.stdout) == (0, "nothing is wrong in both stores\n")


def test_drift_is_named_and_mended(sleeping: Served) -> None:
    jobs = [sleeping.acquire(job_id=fresh()).json()["job_id"] for _ in range(5)]
    with redis.Redis.from_url(sleeping.redis_url) as people:
        people.zrem("gate:{default}:slots", jobs[0])
        people.lrem("gate:{default}:queue", 1, jobs[4])
        people.hdel("gate:{default}:jobs", jobs[4])
        people.hset("gate:{default}:meta", "limit", 4)
    code, found = doctor(sleeping)
    drift = {one for one in named(found) if one[0] == "drift"}
    assert code == 1 and drift <= {("drift", jobs[0]), ("drift", jobs[4]), ("drift", "default")} and drift
    doctor(sleeping, "--fix")
    assert doctor(sleeping) == (0, [])
    line = sleeping.http.get("/v1/pools/default").json()
    assert [one["job_id"] for one in line["queue"]] == jobs[3:] and line["limit"] == 3


def test_unanswered_calls_and_a_removed_tool_are_named(tmp_path: Path) -> None:
    with Tool().running() as tool, Served(tmp_path, config=tool.config()) as served:
        tool.events_answer = lambda body: 500
        body = {"table": "upscaler_jobs", "jobId": fresh(), "creditCost": 5}
        assert served.post("/functions/v1/runninghub-queue-manager/run-or-queue", body).json()["success"]
        assert named(doctor(served)[1]) == {("undelivered", "default")}
        page = served.http.get("/pools/default", headers={"accept": "text/html"}).text
        assert "Calls that a tool has not answered: 1" in page and "500" in page.split('data-alert="undelivered"')[1][:400]
        (served.folder / "gate.toml").write_text(
            (served.folder / "gate.toml").read_text().replace("[tools.upscaler", "[tools.other")
        )
        assert named(doctor(served)[1]) == {("undelivered", "default"), ("undelivered", "upscaler_jobs")}


def test_a_user_who_has_most_of_a_queue_is_named_while_no_user_has_a_cap(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        for number in range(14):
            assert served.acquire(user="ana", job_id=f"ana-{number}").is_success
        assert named(doctor(served)[1]) == set(), "no other user waits"
        served.acquire(user="bruno")
        (finding,) = doctor(served)[1]
        assert (finding["what"], finding["about"]) == ("crowded", "default")
        assert finding["says"] == "user ana has 11 of 12 waiting jobs; other users who wait: 1"
        assert served.http.put("/v1/pools/default", json={"queue_max_per_user": 20}).is_success
        assert named(doctor(served)[1]) == set()


def test_jobs_that_no_start_address_and_no_caller_starts_are_named(tmp_path: Path) -> None:
    """A job that was admitted with a start address, whose section is gone; and one that its caller left without a start."""
    with Tool().running() as tool, Served(tmp_path, config=tool.config(), GATE_LIMIT="1", GATE_CLAIM_SECONDS="0.5") as served:
        holder = served.acquire(job_id=fresh()).json()
        enqueue = "/functions/v1/runninghub-queue-manager/enqueue"
        unclaimed, behind = fresh(), fresh()
        served.post(enqueue, {"table": "bg_remover_jobs", "jobId": unclaimed}).raise_for_status()
        served.post(enqueue, {"table": "upscaler_jobs", "jobId": behind}).raise_for_status()
        assert "unstarted" not in {what for what, _ in named(doctor(served)[1])}
        config = served.folder / "gate.toml"
        written = config.read_text()
        config.write_text(written.replace("[tools.upscaler", "[tools.other"))
        assert ("unstarted", "upscaler_jobs") in named(doctor(served)[1])
        config.write_text(written)
        served.act(holder, "release", outcome="completed")
        path = f"/v1/pools/default/jobs/{unclaimed}"
        assert served.http.get(path, params={"wait_seconds": 20, "status": "queued"}).json()["status"] in (
            "granted",
            "expired",
        )
        assert served.http.get(path, params={"wait_seconds": 20, "status": "granted"}).json()["end_reason"] == "claim_timeout"
        (finding,) = [one for one in doctor(served)[1] if one["what"] == "unstarted"]
        assert (finding["about"], "claim time was over: 1" in finding["says"]) == ("bg_remover_jobs", True)
        served.post(f"/v1/pools/default/jobs/{behind}/cancel", {}).raise_for_status()
        started = served.acquire(job_id=fresh(), tool="bg_remover_jobs").json()
        served.act(started, "release", outcome="completed")
        assert "unstarted" not in {what for what, _ in named(doctor(served)[1])}


def test_unbound_callbacks_are_named(sleeping: Served) -> None:
    body = {"event": "TASK_END", "taskId": "nobody's", "eventData": {"code": 0, "data": [{"fileUrl": "https://f/1.png"}]}}
    assert sleeping.post("/v1/webhooks/runninghub/default?token=t", body).json() == {"result": "kept"}
    found = doctor(sleeping)[1]
    assert named(found) == {("unbound", "webhooks")}
    assert found[0]["says"].endswith(": 1; of runninghub nobody's")


def test_an_unbound_task_is_named_once_and_not_after_its_job_has_ended(sleeping: Served) -> None:
    def call(task_id: str, code: int) -> None:
        body = {"event": "TASK_END", "taskId": task_id, "eventData": {"code": code, "msg": "no"}}
        assert sleeping.post("/v1/webhooks/runninghub/default?token=t", body).json() == {"result": "kept"}

    call("twice", 805), call("of-a-job", 805)
    columns = "at, provider, pool, task_id, outcome, verdict"
    sleeping.sql(
        f"insert into @webhooks (delivery_id, {columns}) select 'again', {columns} from @webhooks where task_id = 'twice'"
    )
    (finding,) = doctor(sleeping)[1]
    assert finding["says"].endswith(": 3; the newest of runninghub twice, runninghub of-a-job")
    job = sleeping.acquire(job_id=fresh()).json()
    sleeping.sql("update @webhooks set job_id = :job where task_id = 'of-a-job'", job=job["job_id"])
    assert doctor(sleeping)[1] == [finding]
    sleeping.act(job, "release", outcome="failed")
    (finding,) = doctor(sleeping)[1]
    assert finding["says"].endswith(": 2; the newest of runninghub twice")


def test_a_pool_that_refuses_more_than_it_runs_is_named(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_LIMIT="20") as served:
        for job in [served.acquire().json() for _ in range(12)]:
            assert served.act(job, "release", outcome="refused").status_code == 200
        assert ("refusals", "default") in named(doctor(served)[1])


def test_a_redis_that_may_evict_or_is_away_is_named(sleeping: Served) -> None:
    with redis.Redis.from_url(sleeping.redis_url) as people:
        people.config_set("maxmemory-policy", "allkeys-lru")
        code, found = doctor(sleeping)
        assert code == 1 and "may evict" in found[0]["says"]
        people.config_set("maxmemory-policy", "noeviction")


def test_money_that_is_wrong_is_named_and_never_mended(sleeping: Served) -> None:
    job = sleeping.acquire(job_id=fresh(), credits=5).json()
    sleeping.sql("update @jobs set credits = 6 where job_id = :job", job=job["job_id"])
    for flags in ((), ("--fix",)):
        code, found = doctor(sleeping, *flags)
        assert code == 1 and ("invariant", job["job_id"]) in named(found)
    sleeping.sql("update @jobs set credits = 5 where job_id = :job", job=job["job_id"])


def test_tables_of_a_newer_version_are_named_when_they_lack_what_this_one_needs(tmp_path: Path) -> None:
    from gate.ledger.admin import migrate
    from gate.ledger.sql import engines

    url = f"sqlite:///{tmp_path / '.gate' / 'gate.db'}"
    migrate.make(url)

    def doctor_after(statement: str) -> list[dict[str, Any]]:
        with engines.visit(url, "the test", writes=True) as connection:
            connection.exec_driver_sql(statement)
        found: list[dict[str, Any]] = json.loads(run_gate("doctor", "--json", cwd=tmp_path).stdout)
        return found

    assert doctor_after("update alembic_version set version_num = '9999'") == []
    (finding,) = doctor_after("alter table jobs rename column error_kind to kind_of_error")
    assert finding["what"] == "migrations" and "jobs.error_kind is gone" in finding["says"] and "newer" in finding["helps"]


def test_tables_that_are_not_of_the_version_they_name_are_a_finding(sleeping: Served) -> None:
    sleeping.stop()
    sleeping.sql("update alembic_version set version_num = '0003'")
    for flags in ((), ("--fix",)):
        code, found = doctor(sleeping, *flags)
        assert code == 1 and named(found) == {("migrations", found[0]["about"])}
    assert "duplicate column" in found[0]["says"] and not found[0]["mended"]


def test_a_job_ended_by_hand_in_sql_leaves_its_slot_and_a_history_that_adds_up(sleeping: Served) -> None:
    ended = sleeping.acquire().json()["job_id"]
    sleeping.sql("update @jobs set status = 'cancelled', ended_at = 1, ended_by = 'operator' where job_id = :job", job=ended)
    assert named(doctor(sleeping)[1]) == {("drift", ended), ("invariant", ended)}
    doctor(sleeping, "--fix")
    assert doctor(sleeping) == (0, [])
    for _ in range(3):
        assert sleeping.acquire().json()["status"] == "running"
    assert doctor(sleeping) == (0, [])


def test_what_is_said_as_drift_is_not_said_again_as_a_breach(sleeping: Served) -> None:
    job = sleeping.acquire().json()["job_id"]
    with redis.Redis.from_url(sleeping.redis_url) as people:
        people.zrem("gate:{default}:slots", job)
    assert named(doctor(sleeping)[1]) <= {("drift", job)}


def test_a_job_that_is_always_refused_is_named_and_explained(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_LIMIT="1", GATE_COOLDOWN_SECONDS="0.5", GATE_REFUSALS_BEFORE_PASSING="2") as served:
        poison, behind = (served.acquire(job_id=fresh(), wait_seconds=0).json() for _ in range(2))
        for _ in range(2):
            held = served.http.get(f"/v1/pools/default/jobs/{poison['job_id']}", params={"wait_seconds": 10}).json()
            assert served.act(held, "release", outcome="refused").status_code == 200
        assert "poison" not in {what for what, _ in named(doctor(served)[1])}, "nothing shows that the provider is not full"
        started = served.http.get(f"/v1/pools/default/jobs/{behind['job_id']}", params={"wait_seconds": 10}).json()
        assert served.act(started, "claim").json()["status"] == "running", "it was tried next"
        assert named(doctor(served)[1]) == {("poison", poison["job_id"])}
        said = run_gate("explain", poison["job_id"], cwd=served.folder).stdout
        assert "This job is a poison job: its provider has refused it 2 times in a row" in said
        last = served.acquire(job_id=fresh()).json()
        assert f"Job {poison['job_id']} is a poison job" in run_gate("explain", last["job_id"], cwd=served.folder).stdout
        for one in (last, poison, started):
            served.act(one, "cancel")
        assert doctor(served) == (0, [])


def test_a_queue_that_is_longer_than_its_time_allows_is_named(tmp_path: Path) -> None:
    with Served(tmp_path, GATE_QUEUE_MAX="100", GATE_QUEUE_SECONDS="60", GATE_LIMIT="2") as served:
        for _ in range(10):
            served.act(served.acquire(job_id=fresh()).json(), "release", outcome="completed")
        assert doctor(served) == (0, []), "runs of no time at all fit"
        served.sql("update @jobs set granted_at = ended_at - 30000")
        jobs = [served.acquire(job_id=fresh()).json() for _ in range(5)]
        assert doctor(served) == (0, []), "the three that wait have a turn in time"
        jobs += [served.acquire(job_id=fresh()).json() for _ in range(2)]
        ((what, about),) = named(found := doctor(served)[1])
        assert (what, about) == ("queue", "default")
        assert "a run takes 30 s, so 4 waiters have a turn within queue_seconds (60), and 100 may wait" in found[0]["says"]
        assert found[0]["says"].endswith("; 5 wait now")
        for job in jobs[2:]:
            served.act(job, "cancel")
        assert doctor(served) == (0, []), "it can be served again"
        served.sql("update @jobs set end_reason = 'queue_timeout' where job_id = :job", job=jobs[-1]["job_id"])
        found = [one for one in doctor(served)[1] if one["what"] == "queue"]
        assert found[0]["says"].endswith("; 1 expired in the queue in the last day")
        assert found[0]["helps"] == "gate pools set default --queue-max 4, or --queue-seconds 1500"
        assert run_gate("pools", "set", "default", "--queue-max", "4", cwd=served.folder).returncode == 0
        assert "queue" not in {what for what, _ in named(doctor(served)[1])}


def test_a_step_of_the_clock_of_redis_is_named_for_a_day(sleeping: Served) -> None:
    job = sleeping.acquire(job_id=fresh()).json()
    with redis.Redis.from_url(sleeping.redis_url) as people:
        people.hincrby("gate:{default}:meta", "ahead_ms", -600_000)  # to the scripts the clock goes ahead by that much
        wait_for(lambda: people.hget("gate:{default}:meta", "ahead_ms") == b"0", "the step has been met")
    wait_for(lambda: sleeping.sql("select id from @events where kind = 'clock_stepped'"), "and is recorded")
    code, found = doctor(sleeping)
    assert code == 1 and named(found) == {("clock", "default")}
    assert "stepped 1 times, the last time by +600.0 s" in found[0]["says"]
    assert sleeping.http.get(f"/v1/pools/default/jobs/{job['job_id']}").json()["status"] == "running"
    history = run_gate("pools", "changes", "default", cwd=sleeping.folder)
    assert "clock_stepped" in history.stdout
