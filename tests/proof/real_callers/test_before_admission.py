"""An end that comes before, beside or after the admission of a job that was charged already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proof.soak.before_admission import BEFORE, CALLS, FINISH, PRICE, TABLE, Race, opened
from tests.support.needs import missing
from tests.support.servers import lacking

ROUNDS = 20  # 500: python -m tests.proof.soak.before_admission


@pytest.fixture(scope="module")
def race() -> Iterator[Race]:
    if "postgres" in lacking("embedded", "postgres"):
        missing("needs Postgres: the owner's functions live there")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, opened(Path(folder), seed=1) as made:
        yield made


def test_every_charge_is_settled_once_when_an_end_races_its_admission(race: Race) -> None:
    for _ in range(ROUNDS):
        race.play()
    assert race.wrong() == []
    assert len(race.outcomes()) > 1, "the rounds did not all end the same way"


@pytest.mark.parametrize("name", ["fail", "cancel", "not admitted"])
def test_an_end_before_the_admission_gives_the_charge_back_and_a_late_admission_does_not_start(race: Race, name: str) -> None:
    job_id = race.owner.row("pending", price=PRICE)
    path, more = CALLS[name]
    body = {"p_table_name": TABLE, "p_job_id": job_id} if name == "cancel" else {"table": TABLE, "jobId": job_id} | more
    said = race.served.post(path, body).json()
    assert (said[0]["refunded_amount"] if name == "cancel" else said["refundedAmount"]) == PRICE
    late = race.served.post(CALLS["admit"][0], {"table": TABLE, "jobId": job_id})
    assert (late.status_code, late.json()["success"], late.json()["refunded"]) == (400, False, True)
    race.wrong()
    assert race.owner.of(job_id) == ("cancelled" if name == "cancel" else "failed", True, BEFORE)
    assert race.owner.tool.starts(job_id) == []


def test_the_end_of_a_refused_admission_leaves_an_admitted_job_alone(race: Race) -> None:
    job_id = race.owner.row("pending", price=PRICE)
    mine = {"table": TABLE, "jobId": job_id}
    assert race.served.post(CALLS["admit"][0], mine).json()["taskId"] == f"t-{job_id}"
    said = race.served.post(FINISH, mine | CALLS["not admitted"][1]).json()
    assert said == {"success": True, "skipped": True, "reason": "admitted"}
    assert race.served.http.get(f"/v1/pools/default/jobs/{job_id}").json()["status"] == "running"
    race.served.post(FINISH, mine | {"status": "completed"})
    race.wrong()
    assert race.owner.of(job_id) == ("completed", False, BEFORE - PRICE)
