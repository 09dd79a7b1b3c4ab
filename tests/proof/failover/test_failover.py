"""A primary of Postgres with a streaming standby: reports on the standby, a failover under gate, and a former primary that comes back as a
standby. `serializable` is the default of both.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.support.gate_process import Served, run_gate
from tests.support.names import fresh
from tests.support.needs import missing
from tests.support.servers import Postgres, lacking, wait_for
from tests.support.wait import until

pytestmark = pytest.mark.anyio
CALLERS, PAIRS = 6, 5
SECRET = "hunter2"
"""Password in the query of the address. Nothing that is printed has it."""


class Pair:
    """A primary and its standby."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.primary = Postgres(folder / "first")
        self.primary.start()
        self.primary.set(default_transaction_isolation="serializable")
        self.standby = Postgres(folder / "second", of=self.primary)
        self.standby.start()
        self.url = (
            f"postgresql://postgres@127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}/postgres?password={SECRET}"
        )

    def failover(self) -> None:
        """Kill the primary, and promote its standby."""
        self.primary.crash()
        self.standby.promote()

    def come_back(self) -> Postgres:
        """Start a standby of the new primary where the former one was."""
        self.primary = Postgres(self.folder / "third", of=self.standby, port=self.primary.port)
        self.primary.start()
        return self.primary

    def stop(self) -> None:
        for one in (self.primary, self.standby):
            one.crash()


@pytest.fixture
def pair() -> Iterator[Pair]:
    if lack := lacking("valkey", "postgres"):
        missing(f"needs {', '.join(lack)}")
    with tempfile.TemporaryDirectory(prefix="gate-failover-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Pair(Path(folder))
        try:
            yield made
        finally:
            made.stop()


def _one(server: Postgres, query: str) -> str:
    with psycopg.connect(server.url, options="-c default_transaction_isolation=read\\ committed") as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return str(row[0])


def _pairs(url: str) -> list[int]:
    """The codes of one caller's calls, who takes and gives back a slot again and again."""
    codes = []
    with httpx2.Client(base_url=url, timeout=70) as http:
        for _ in range(PAIRS):
            taken = http.post("/v1/pools/default/acquire", json={"job_id": fresh(), "user": "ana", "credits": 1})
            codes.append(taken.status_code)
            job = taken.json()
            held = {"lease_id": job["lease"]["lease_id"], "outcome": "completed"} if taken.status_code == 200 else {}
            codes.append(http.post(f"/v1/pools/default/jobs/{job.get('job_id')}/release", json=held).status_code)
    return codes


def _findings(folder: Path, **environment: str) -> dict[str, str]:
    done = run_gate("doctor", "--json", cwd=folder, **environment)
    assert SECRET not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    return {one["what"]: one["says"] for one in found}


async def test_gate_goes_on_at_the_standby_that_was_promoted_and_never_writes_to_the_former_primary(
    pair: Pair, tmp_path: Path
) -> None:
    stores = {"GATE_DATABASE_URL": pair.url, "GATE_DATABASE_READ_URL": pair.standby.url, "GATE_LIMIT": str(CALLERS)}
    with Served(tmp_path, from_nothing=True, **stores) as served:
        pair.primary.set(synchronous_standby_names="second")
        wait_for(lambda: _one(pair.primary, "select sync_state from pg_stat_replication") == "sync", "commits wait for it")
        assert _findings(tmp_path, **stores) == {}

        with ThreadPoolExecutor(CALLERS) as callers:
            codes = [code for of_one in callers.map(_pairs, [served.url] * CALLERS) for code in of_one]
        assert set(codes) == {200}, "serializable is the default, and no call is refused for it"

        assert served.http.get("/pools/default/trends").status_code == 200
        others = "backend_type = 'client backend' and pid <> pg_backend_pid()"
        assert _one(pair.standby, f"select count(*) from pg_stat_activity where {others}") != "0", "the trends are read there"

        job = served.acquire(job_id=fresh(), user="ana", credits=3).json()
        pair.failover()
        await until(
            lambda: served.act(job, "release", outcome="failed").status_code == 200, "the new primary takes the end", 20
        )

        pair.come_back()
        ended = "select count(*) from gate.jobs where status = 'failed'"
        wait_for(lambda: _one(pair.primary, ended) == "1", "the former primary has what the new one has")
        _one(pair.standby, f"select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where {others}")
        assert set(_pairs(served.url)) == {200}, (
            "of the two hosts it takes the one that may be written, although it is the second"
        )
        assert "loses the jobs and refunds" in _findings(tmp_path, **stores)["standby"], "its new standby is asynchronous"
        report = run_gate("verify", cwd=tmp_path, **stores)
        assert report.returncode == 0, report.stdout
    assert SECRET not in "".join((*served.said, (tmp_path / "errors.log").read_text(), report.stdout, report.stderr))
