"""An upgrade from the version before under load, both versions side by side, and the way back, as UPGRADING.md has them."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx2
import psycopg
import pytest

from gate.ledger.admin import migrate
from tests.proof.upgrade.previous import Previous, judges_by_tables, schema_of, unpack
from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.needs import missing
from tests.support.servers import Postgres, RedisServer, lacking

CALLERS = 3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The version before this one."""
    return unpack(tmp_path / "source")


@pytest.fixture
def stores(source: Path) -> Iterator[dict[str, str]]:
    """Settings that name a Postgres and a Redis of the test's own."""
    if lack := lacking("valkey", "postgres"):
        missing(f"needs {', '.join(lack)}")
    with tempfile.TemporaryDirectory(prefix="gate-upgrade-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        sql, redis = Postgres(Path(folder) / "postgres"), RedisServer("valkey", Path(folder) / "redis")
        try:
            sql.start()
            sql.set(fsync="off")
            redis.start()
            yield {"GATE_DATABASE_URL": sql.url, "GATE_REDIS_URL": redis.url, "GATE_LIMIT": "4"}
        finally:
            sql.crash()
            redis.kill()


class Load:
    """Callers that take slots and give them back until the block ends. Each call is at one of the servers, in turn."""

    def __init__(self, *urls: str) -> None:
        self._urls, self._over = urls, threading.Event()
        self.pairs, self.refused = 0, list[str]()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def _call(self, number: int) -> None:
        servers = [httpx2.Client(base_url=url, timeout=70) for url in self._urls]
        while not self._over.is_set():
            take, give = servers[number % len(servers)], servers[(number + 1) % len(servers)]
            number += 1
            try:
                self._pair(take, give)
            except httpx2.HTTPError as error:
                self.refused.append(repr(error))
        for one in servers:
            one.close()

    def _pair(self, take: httpx2.Client, give: httpx2.Client) -> None:
        job_id = fresh()
        wish = {"job_id": job_id, "user": "ana", "credits": 2, "wait_seconds": 20}
        taken = take.post("/v1/pools/default/acquire", json=wish)
        if taken.status_code == 200:
            where = f"/v1/pools/default/jobs/{job_id}/release"
            taken = give.post(where, json={"lease_id": taken.json()["lease"]["lease_id"], "outcome": "failed"})
            self.pairs += taken.status_code == 200
        if taken.status_code != 200:
            self.refused.append(taken.text)

    def until(self, pairs: int) -> None:
        """Wait until so many more pairs are done."""
        wanted = self.pairs + pairs
        while self.pairs < wanted and not self.refused:
            self._over.wait(0.01)
        assert not self.refused, self.refused[:3]


def _stamp(sql_url: str, revision: str) -> None:
    """The statement that UPGRADING.md names."""
    with psycopg.connect(sql_url) as connection:
        connection.execute("update gate.alembic_version set version_num = %s", (revision,))


def test_an_upgrade_under_load_and_the_way_back(source: Path, stores: dict[str, str], tmp_path: Path) -> None:
    before = schema_of(source)

    def gate(*words: str) -> tuple[int, str]:
        done = run_gate(*words, cwd=tmp_path, **stores)
        return done.returncode, done.stdout + done.stderr

    new = Served(tmp_path, **stores)
    with Previous(source, tmp_path / "old", **stores) as old:
        with Load(old.url) as load:
            load.until(10)
            if before < migrate.HEAD:
                code, says = gate("db", "upgrade", "--check")
                assert code == 1 and f"schema {before}" in says and f"  {migrate.HEAD} " in says
                assert gate("db", "upgrade") == (0, f"upgraded to {migrate.HEAD}\n")
            load.until(10)
            new.start()
        with Load(old.url, new.url) as load:
            load.until(30)
            half_way = old.http.post("/v1/pools/default/acquire", json={"job_id": "half-way", "user": "ana"}).json()
    with contextlib.ExitStack() as closing:
        closing.push(new)
        assert new.act(half_way, "renew").status_code == 200
        with Load(new.url) as load:
            load.until(10)
        _back(source, tmp_path, stores, new)
        assert new.act(half_way, "release", outcome="completed").status_code == 200
        assert gate("verify")[0] == 0


def _back(source: Path, folder: Path, stores: dict[str, str], new: Served) -> None:
    """The old version beside the new one, then alone, on the new schema; then the new version again."""
    sql_url, stamps = stores["GATE_DATABASE_URL"], not judges_by_tables(source)
    if stamps:
        _stamp(sql_url, schema_of(source))
    with Previous(source, folder / "old", **stores) as old:
        with Load(old.url, new.url) as load:
            load.until(30)
        new.stop()
        with Load(old.url) as load:
            load.until(10)
        if stamps:
            _stamp(sql_url, migrate.HEAD)
        new.start()
