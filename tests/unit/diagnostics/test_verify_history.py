"""`gate verify` on a ledger of some hundred ended jobs: it is clean, keeps few jobs in memory, and each breach is found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench import ended_jobs
from gate.diagnostics import history, verify
from gate.diagnostics.verify import Report

JOBS = 400
Tamper = Callable[[str], Report]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("filled") / "gate.db"
    ended_jobs.fill(f"sqlite:///{file}", JOBS, pools=2)
    return file


@pytest.fixture
def tamper(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tamper:
    monkeypatch.setattr(verify, "STAYS_S", 0)
    monkeypatch.setattr(history, "AT_A_TIME", 50)
    file = tmp_path / "gate.db"
    shutil.copyfile(filled, file)

    def tampered(statements: str) -> Report:
        with sqlite3.connect(file) as connection:
            connection.executescript(statements)
        connection.close()
        return verify.verify(f"sqlite:///{file}", None)

    return tampered


def job(number: int) -> str:
    """SQL for the job_id of one of the jobs of `default`, by its ticket."""
    return f"(select job_id from jobs where pool = 'default' and ticket = {number})"


def found(report: Report) -> list[tuple[str, str]]:
    return [(one.invariant, one.finding) for one in report.breaches]


def test_a_history_in_order_is_clean(tamper: Tamper) -> None:
    report = tamper("")
    assert report.breaches == [] and report.checked["jobs"] == JOBS


def test_the_replay_keeps_the_live_jobs_and_those_of_a_page_alone(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "AT_A_TIME", 20)
    engine = sa.create_engine(f"sqlite:///{filled}")
    with engine.connect() as sql:
        replay, kept = history._Replay(sql, "", ()), []
        assert replay.run(lambda done: kept.append(len(replay._live) + len(replay._over))) == []
    engine.dispose()
    assert len(kept) > 50 and max(kept) <= 2 * ended_jobs.LIMIT + 20


BREACHES = {
    "an end without its event": (
        f"delete from events where job_id = {job(9)} and kind in ('completed', 'failed', 'cancelled', 'expired')", "I4"),
    "an end without any event": (f"delete from events where job_id = {job(9)}", "I4"),
    "a job that does not exist": (
        "insert into events (at, pool, job_id, kind, by) values (1, 'default', 'ghost', 'callback', 'provider')", "I5"),
    "a fence of another job": (
        f"update events set fence = (select fence from jobs where job_id = {job(9)}) where fence is not null and job_id = {job(10)}",
        "I8"),
    "a grant after the end under an older fence": (
        "insert into events (at, pool, job_id, kind, fence, by)"
        f" select 4000000000000, 'default', {job(9)}, 'granted', fence - 7, 'gate' from jobs where job_id = {job(9)}", "I8"),
    "an older ticket after a newer one": (f"update jobs set ticket = 1000 where job_id = {job(9)}", "I6"),
    "another charge than the credits": (f"update jobs set credits = 99 where status = 'completed' and job_id = {job(1)}", "I3"),
    "a refund of a completed job": (
        "insert into ledger (at, job_id, pool, kind, amount)"
        " select 1, job_id, pool, 'refund', credits from jobs where status = 'completed' limit 1", "I2"),
    "a failed job without a refund": (
        "drop trigger jobs_outcome_stays; update jobs set status = 'failed' where job_id = (select job_id from jobs where status = 'completed' limit 1)", "I2"),
    "credits without a charge": (
        "update jobs set ticket = 7 where ticket = 8; insert into jobs (job_id, pool, status, credits, ticket, fence, lease_ms,"
        " enqueued_at, ended_at, ended_by, pruned_at) values ('uncharged', 'default', 'completed', 5, 9999, 1, 1, 1, 1, 'holder', 2)",
        "I3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_found(tamper: Tamper, name: str) -> None:
    statements, invariant = BREACHES[name]
    assert {one for one, _ in found(tamper(statements))} == {invariant}


def test_more_slots_in_use_than_the_limit_are_found(tamper: Tamper) -> None:
    report = tamper("update events set why = '2' where kind = 'limit' and pool = 'default'")
    assert report.breaches and {one.finding for one in report.breaches} == {"3 slots in use, limit 2"}


def test_a_job_that_was_ended_by_hand_counts_for_no_slot(tamper: Tamper) -> None:
    """Its end has no event, so by its events it would hold a slot for ever."""
    (only,) = tamper(BREACHES["an end without its event"][0]).breaches
    assert "ended by hand" in only.finding
