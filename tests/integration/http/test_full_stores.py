"""A store that answers and takes no writes: not ready, in the panel and in the log within five seconds, and so is its recovery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.full_disk import full_disk
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.servers import RedisServer
from tests.support.wait import until

pytestmark = pytest.mark.anyio

WITHIN_S = 5


def readiness(served: Served) -> tuple[int, dict[str, Any]]:
    answer = served.http.get("/readyz")
    return answer.status_code, answer.json()


def lines(served: Served, *events: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (served.folder / "errors.log").read_text().splitlines()]
    return [one for one in found if one["level"] != "info" and (not events or one["event"] in events)]


def alert(served: Served) -> str:
    """The alert of the page of a pool, as a browser is shown it."""
    page = served.http.get("/pools/default", headers={"accept": "text/html"}).text
    return page.partition('data-alert="refusing"')[2].partition("</div>")[0]


async def test_a_full_disk_is_known_before_a_caller_is_refused(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True) as served:
        running = served.acquire(job_id=fresh()).json()
        with full_disk(served.process.pid, tmp_path / ".gate" / "gate.db-wal"):
            await until(lambda: lines(served, "store.down"), "the log says so", WITHIN_S)
            status, says = readiness(served)
            assert (status, says["status"], says["store"]) == (503, "not ready", "sql")
            assert says["why"].startswith("SQL takes no writes: ")
            assert "SQL takes no writes" in alert(served)
            assert served.act(running, "release", outcome="completed").status_code == 503
            assert [readiness(served)[0] for _ in range(3)] == [503] * 3  # a small row still fits, and a job does not
        await until(lambda: readiness(served)[0] == 200, "it is ready again", WITHIN_S)
        await until(lambda: lines(served, "store.up"), "the log says so too", WITHIN_S)
        assert served.act(running, "release", outcome="completed").status_code == 200
        assert alert(served) == ""
        (down, up) = lines(served)
        assert (down["event"], down["store"], down["takes_no_writes"]) == ("store.down", "sql", True)
        assert (up["event"], up["store"]) == ("store.up", "sql")


@pytest.fixture(params=["no memory", "no snapshot", "no replica"])
def refused(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A Redis, and how it stops taking writes."""
    server = RedisServer("valkey", tmp_path / "redis")
    server.start("--save", "86400 1", "--enable-protected-configs", "yes")
    home = str(server.folder)
    (tmp_path / "gone").mkdir()

    def refuses() -> None:
        if request.param == "no memory":
            server.cli("config", "set", "maxmemory", "1000")
        elif request.param == "no replica":
            server.cli("config", "set", "min-replicas-to-write", "1")
        else:
            server.cli("config", "set", "dir", str(tmp_path / "gone"))
            (tmp_path / "gone").rmdir()
            server.cli("bgsave")

    def takes() -> None:
        server.cli("config", "set", "maxmemory", "0")
        server.cli("config", "set", "min-replicas-to-write", "0")
        server.cli("config", "set", "dir", home)
        server.cli("bgsave")

    yield server.url, refuses, takes
    server.kill()


async def test_a_redis_that_takes_no_writes_is_known_before_a_caller_is_refused(refused: Any, tmp_path: Path) -> None:
    url, refuses, takes = refused
    with Served(tmp_path, on_defaults=True, GATE_REDIS_URL=url) as served:
        refuses()
        await until(lambda: lines(served, "store.down"), "the log says so", WITHIN_S)
        status, says = readiness(served)
        assert (status, says["status"], says["store"]) == (503, "not ready", "redis")
        assert "maxmemory" in says["why"] or says["why"].startswith("Redis takes no writes: ")
        assert "Redis takes no writes" in alert(served)
        takes()
        await until(lambda: readiness(served)[0] == 200, "it is ready again", WITHIN_S)
        await until(lambda: lines(served, "store.up"), "the log says so too", WITHIN_S)
        assert served.acquire(job_id=fresh()).status_code == 200
        assert [one["event"] for one in lines(served)] == ["store.down", "store.up"]
