"""`gate demo --provider` as a user runs it: lost callbacks are recovered by questions, and a dead provider costs one refund."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.gate_process import run_gate


def test_demo_recovers_lost_callbacks_stops_a_cancelled_task_and_refunds_once_when_the_provider_is_dead(
    tmp_path: Path,
) -> None:
    (tmp_path / "gate.toml").write_text('[providers.runninghub]\ntoken = "a token of the test"\n')
    shown = run_gate("demo", "--provider", cwd=tmp_path)
    assert shown.returncode == 0 and "DIFFERS" not in shown.stdout, shown.stdout + shown.stderr
    job = r"demo-[0-9a-f]{6}-\d"
    lost = rf"^callback of ({job}) lost: asked (?:once|\d+ times), completed [\d.]+ s after the task's end, nothing refunded$"
    assert len(set(re.findall(lost, shown.stdout, re.MULTILINE))) == 2
    for line in (
        rf"^{job} cancelled: stopped at the provider, its slot given to {job} [\d.]+ s later$",
        rf"^the provider is dead: ({job}) expired after [\d.]+ s, refunds: 1 of 10$",
        rf"^the provider is back: the task of {job} is stopped$",
        r"^6 jobs: 1 cancelled, 4 completed, 1 expired; 2 refunds of 20 in all; \d+ questions to the provider$",
        r"^clean: I1-I9 hold in both stores",
    ):
        assert re.search(line, shown.stdout, re.MULTILINE), line
    assert "a token" not in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"], "and leaves nothing"
