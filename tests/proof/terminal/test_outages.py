"""gate doctor and gate verify end whatever is away or full, name it, look at the rest, and exit with 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.full_disk import full_disk
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.servers import RedisServer
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def asked(folder: Path, **environment: str) -> tuple[set[str], str, dict[str, Any]]:
    """The kinds of the doctor's findings, their words, and the report of verify. Both have exited with 1."""
    doctor = run_gate("doctor", "--json", cwd=folder, **environment)
    assert doctor.returncode == 1, doctor.stderr
    found = json.loads(doctor.stdout)
    verify = run_gate("verify", "--json", cwd=folder, **environment)
    assert verify.returncode == 1, verify.stderr
    says = " ".join(one["says"] for one in found)
    return {one["what"] for one in found}, says, json.loads(verify.stdout)


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        with full_disk(served.process.pid, tmp_path / ".gate" / "gate.db-wal"):
            assert served.acquire(job_id=fresh()).status_code == 503
            await until(lambda: served.http.get("/readyz").status_code == 503, "it is not ready")
            what, says, report = asked(tmp_path)
        assert what == {"sql"} and "takes no writes" in says
        assert "takes no writes" in report["outages"][0] and report["redis_checked"] and not report["breaches"]


async def test_a_redis_without_room_is_named(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served, redis.Redis.from_url(served.redis_url) as people:
        people.config_set("maxmemory", 1000)
        what, says, report = asked(tmp_path)
        assert what == {"redis"} and "maxmemory" in says
        assert "maxmemory" in report["outages"][0] and report["redis_checked"]


async def test_a_gate_that_was_killed_is_named_until_it_runs_again(tmp_path: Path) -> None:
    served = Served(tmp_path, on_defaults=True)
    served.start()
    served.kill()
    what, says, report = asked(tmp_path)
    assert what == {"server"} and "ended without a stop, and its embedded Redis with it: Redis was not looked at" in says
    assert len(report["outages"]) == 1 and not report["redis_checked"] and report["checked"]["pools"] == 1
    with served:
        assert run_gate("doctor", cwd=tmp_path).returncode == 0
    assert run_gate("verify", cwd=tmp_path).returncode == 0, "it was stopped in order"


async def test_a_redis_that_is_away_is_named_and_sql_is_looked_at(tmp_path: Path) -> None:
    server = RedisServer("valkey", tmp_path / "redis")
    server.start()
    with Served(tmp_path, on_defaults=True, GATE_REDIS_URL=server.url) as served:
        job = served.acquire(job_id=fresh(), credits=5).json()["job_id"]
        served.sql("update jobs set credits = 6 where job_id = :job", job=job)
        server.kill()
        what, says, report = asked(tmp_path, GATE_REDIS_URL=server.url)
        served.sql("update jobs set credits = 5 where job_id = :job", job=job)
        assert what == {"redis", "invariant"} and f"nothing in Redis at {server.url} was looked at" in says
        assert {one["about"] for one in report["breaches"]} == {job} and not report["redis_checked"]


async def test_sql_that_is_away_is_named_and_redis_is_looked_at(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served, redis.Redis.from_url(served.redis_url) as people:
        away = {"GATE_DATABASE_URL": "postgresql://gate:hunter2@127.0.0.1:1/gate"}
        what, says, report = asked(tmp_path, **away)
        assert what == {"sql"} and "hunter2" not in says + str(report)
        assert "were not looked at" in report["outages"][0] and "I1-I6, I8" in report["outages"][0]
        assert report["redis_checked"] and not report["sql_checked"] and not report["breaches"]
        assert report["checked"] == {"pools": 1, "slots": 0, "waiters": 0}
        people.zadd("gate:{default}:slots", {"ghost": 9e15})
        what, _, report = asked(tmp_path, **away)
        people.zrem("gate:{default}:slots", "ghost")
        assert what == {"sql", "invariant"}
        assert [(one["invariant"], one["about"]) for one in report["breaches"]] == [("I9", "ghost")]
        said = run_gate("verify", cwd=tmp_path, **away)
        assert said.returncode == 1 and "no breach of I7 and the places in I9 in Redis alone" in said.stdout


async def test_sql_that_is_away_without_a_redis_is_one_line(tmp_path: Path) -> None:
    verify = run_gate("verify", cwd=tmp_path, GATE_DATABASE_URL="postgresql://gate:hunter2@127.0.0.1:1/gate")
    assert verify.returncode == 1 and verify.stderr.startswith("gate: SQL at postgresql://")
    assert verify.stderr.count("\n") == 1 and "hunter2" not in verify.stderr
