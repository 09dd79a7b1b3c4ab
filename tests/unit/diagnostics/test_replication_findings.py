"""What the doctor says of the standbys of a Postgres, by what Postgres says of them."""

from __future__ import annotations

import pytest

from gate.diagnostics.replication_findings import replica_findings, replication_findings
from gate.ledger.reports.replication import Replication, Standby

SYNC, ASYNC = Standby("b", "sync", 0, None), Standby("b", "async", 0, None)
FAR = Standby("b", "async", 64_000_000, 12.0)
LATE = Standby("b", "sync", 0, 45.0)
UNSEEN = Standby("b", "", None, None)


@pytest.mark.parametrize(
    "found, fails_over, says",
    [
        (None, True, []),
        (Replication("", "on", ()), True, []),
        (Replication("b", "on", (SYNC,)), True, []),
        (Replication("", "on", (ASYNC,)), False, []),
        (Replication("", "on", (UNSEEN,)), True, []),
        (Replication("b", "on", (UNSEEN,)), True, []),
        (Replication("", "on", (ASYNC,)), True, ["b is async, and lacks 0.0 MB of the log now: a failover to it loses"]),
        (Replication("b", "local", (SYNC,)), True, ["synchronous_commit is local for gate's role: a failover loses"]),
        (Replication("", "on", (FAR,)), False, ["b is async, and lacks 64.0 MB, 12.0 s of the log now: a failover to it loses"]),
        (Replication("b", "on", (LATE,)), True, ["b is sync, and lacks 0.0 MB, 45.0 s of the log now: a failover to it loses nothing"]),
        (Replication("c", "on", (ASYNC,)), True, ["synchronous_standby_names is 'c', and no such standby is connected"]),
        (Replication("", "off", ()), False, ["synchronous_commit is off for gate's role"]),
    ],
)  # fmt: skip
def test_a_standby_that_would_lose_acknowledged_jobs_is_a_finding(
    found: Replication | None, fails_over: bool, says: list[str]
) -> None:
    findings = [one.says for one in replication_findings(found, fails_over)]
    assert len(findings) == len(says)
    assert all(words in finding for words, finding in zip(says, findings, strict=True)), findings


def test_a_replica_that_is_away_is_a_finding_without_its_password() -> None:
    assert list(replica_findings(None)) == []
    (finding,) = replica_findings("postgresql://u:hunter2@127.0.0.1:1/d?sslpassword=hunter2")
    assert finding.what == "replica" and "does not answer" in finding.says
    assert "hunter2" not in f"{finding.about} {finding.says} {finding.helps}"
