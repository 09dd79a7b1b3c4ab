"""A tenth of the acceptance of the questions to providers, without its figures of speed. The whole is `python -m tests.proof.soak.providers`.

Several accounts and strangers, whose looks take tens of seconds, are tested in `tests/proof/simulator`.
"""

from __future__ import annotations

from pathlib import Path

from tests.proof.soak.providers import echoes, ends

SCALE = 100
SEED = 7


def test_lost_callbacks_with_outages_and_kills_refund_no_finished_job(tmp_path: Path) -> None:
    result = ends.lost_callbacks(tmp_path, 200, SEED, SCALE, kills=3)
    assert result.missed() == [], result.text()


def test_provider_without_callbacks_refunds_no_finished_job(tmp_path: Path) -> None:
    result = ends.no_callbacks(tmp_path, 20, SEED, SCALE)
    assert result.missed() == [], result.text()


def test_cancelled_jobs_leave_no_task_beside_the_next_one(tmp_path: Path) -> None:
    result = ends.cancels(tmp_path, 20, SEED, scale=20)
    assert result.missed() == [], result.text()


def test_echoed_key_is_in_nothing_that_gate_keeps_or_shows(tmp_path: Path) -> None:
    result = echoes.echoed_key(tmp_path, 8, SEED, SCALE)
    assert result.missed() == [], result.text()
