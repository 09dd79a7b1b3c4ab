"""Who sees which servers run: the route, the terminal, the panel and the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import sqlalchemy as sa

from gate import __version__
from gate.diagnostics.server_findings import ROLLING_MS, server_findings
from gate.ledger import ServerRow
from tests.support.gate_process import Served, run_gate


def test_servers_are_shown_by_route_terminal_and_panel(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        (alone,) = served.http.get("/v1/servers").json()
        assert alone["version"] == __version__ and alone["lives"] and abs(alone["clock_ahead_seconds"]) < 2
        assert "h-servers" not in served.http.get("/", headers={"accept": "text/html"}).text
        with sa.create_engine(f"sqlite:///{tmp_path / '.gate' / 'gate.db'}").begin() as ledger:
            row = {"id": "gone", "version": "0.9", "started_at": 1, "seen_at": 1, "clock_ms": 1}
            ledger.execute(
                sa.text("insert into servers (id, version, started_at, seen_at, clock_ms) values (:id, :version, :started_at, :seen_at, :clock_ms)"),
                row,
            )  # fmt: skip
        said = json.loads(run_gate("servers", "--json", cwd=tmp_path).stdout)
        assert [(one["id"], one["lives"]) for one in said] == [("gone", False), (alone["id"], True)]
        assert "not seen lately" in served.http.get("/", headers={"accept": "text/html", "accept-language": "en"}).text


def test_the_doctor_finds_two_versions_for_long_and_a_clock_that_is_far_off() -> None:
    rows = [ServerRow("a", "1.0", 1_000, 1, 0.0, 0, True), ServerRow("b", "1.1", 2_000, 1, 0.0, -9_000, True)]
    late = ROLLING_MS + 2_001
    assert [(one.what, one.about) for one in server_findings(rows, late)] == [("servers", "gate serve"), ("servers", "b")]
    assert [one.about for one in server_findings(rows, late - 1)] == ["b"], "an upgrade takes its time"
    gone = [rows[0], ServerRow("b", "1.1", 2_000, 1, 9.0, -9_000, False)]
    assert list(server_findings(gone, late)) == []
