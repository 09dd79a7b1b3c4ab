"""`gate prune --archive`: each job is on the disk before it is pruned, and no balance changes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bench import ended_jobs
from gate.diagnostics.verify import verify
from gate.ledger.admin import archive as module
from gate.ledger.admin.prune import prune
from gate.model.errors import CannotStart

JOBS, MAY_2026_MS = 40, 1_780_000_000_000
SUMS = "select user, kind, sum(amount) from ledger group by user, kind order by user, kind"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    ended_jobs.fill(f"sqlite:///{tmp_path / 'gate.db'}", JOBS, pools=1, until_ms=MAY_2026_MS)
    return tmp_path / "gate.db"


def rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(file) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for month in sorted(folder.iterdir()) for line in month.read_text().splitlines()]


def test_jobs_are_archived_by_month_with_all_that_is_said_of_them(file: Path, tmp_path: Path) -> None:
    before, carried = rows(file, SUMS), rows(file, "select job_id, payload, output from jobs order by job_id")
    callbacks = rows(file, "select count(*) from webhooks")[0][0]
    done = prune(f"sqlite:///{file}", 0, archive=tmp_path / "old")
    found = lines(tmp_path / "old")
    assert (done.jobs, len(found)) == (JOBS, JOBS)
    months = sorted(one.name for one in (tmp_path / "old").iterdir())
    assert len(months) >= 11 and months[-1] == "2026-05.ndjson"
    by_id = {one["job"]["job_id"]: one for one in found}
    for job_id, payload, output in carried:
        assert by_id[job_id]["job"]["payload"] == json.loads(payload)
        assert by_id[job_id]["job"].get("output") == (json.loads(output) if output else None)
        assert by_id[job_id]["events"][-1]["kind"] == by_id[job_id]["job"]["status"]
    assert sum(len(one["callbacks"]) for one in found) == callbacks > 0
    entries = [entry for one in found for entry in one["ledger"]]
    assert done.charged == sum(entry["amount"] for entry in entries if entry["kind"] == "charge") > done.refunded > 0
    assert rows(file, SUMS) == before, "the entries of the ledger stay"
    assert rows(file, "select count(*) from jobs where payload is not null or output is not null") == [(0,)]
    assert verify(f"sqlite:///{file}", None).breaches == []


def test_nothing_is_pruned_that_is_not_on_the_disk(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", failing)
    with pytest.raises(CannotStart, match=r"the archive cannot be written: .*No space left"):
        prune(f"sqlite:///{file}", 0, archive=tmp_path / "old")
    assert rows(file, "select count(*) from jobs where pruned_at is not null") == [(0,)]


def test_a_line_that_a_crash_has_cut_is_taken_away(file: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "2026-05.ndjson").write_text('{"whole": 1}\n{"job": {"job_id": "ha')
    prune(f"sqlite:///{file}", 0, archive=tmp_path / "old")
    found = lines(tmp_path / "old")
    assert len(found) == JOBS + 1 and {"whole": 1} in found
