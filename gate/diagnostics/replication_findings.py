"""Findings about the standbys of Postgres: what a crash or a failover would lose, and a replica that does not serve."""

from __future__ import annotations

from collections.abc import Iterator

from gate.diagnostics.diagnosis import Diagnosis
from gate.ledger.reports.replication import Replication, Standby, behind_s
from gate.model import store_url
from gate.model.errors import CannotStart

LAG_S = 30.0
"""Delay (s) of a standby or a replica above which it is reported. A busy one catches up sooner."""
LACK_BYTES = 16 * 1024 * 1024
"""What a standby may lack of the log (bytes), one file of it, before that is reported."""


def replication_findings(found: Replication | None, fails_over: bool) -> Iterator[Diagnosis]:
    """Find what a crash of Postgres or a failover to a standby would lose.

    Args:
        found: What Postgres says; None on SQLite.
        fails_over: The address names several hosts, so gate goes on at a standby that is promoted.
    """
    if found is None:
        return
    if found.commit == "off" or (found.commit == "local" and found.names):
        lost_by = "a crash of Postgres" if found.commit == "off" else "a failover"
        says = f"synchronous_commit is {found.commit} for gate's role: {lost_by} loses jobs that gate has acknowledged"
        yield Diagnosis("durability", "SQL", says, "alter role … set synchronous_commit = on, for the role of gate")
    if found.waits and not any(one.synchronous or not one.state for one in found.standbys):
        says = f"synchronous_standby_names is {found.names!r}, and no such standby is connected: each commit waits for one"
        helps = (
            "start the standby; to go on without it: alter system set synchronous_standby_names = '', then pg_reload_conf()"
        )
        yield Diagnosis("standby", "SQL", says, helps)
    for one in found.standbys:
        lags = (one.lags_s or 0) > LAG_S or (one.lacks_bytes or 0) > LACK_BYTES
        asynchronous = one.state == "async" and not found.waits
        if one.state and (lags or (fails_over and asynchronous)):
            yield _behind(one, asynchronous or not one.synchronous)


def _behind(one: Standby, loses: bool) -> Diagnosis:
    lacks = f"{(one.lacks_bytes or 0) / 1e6:.1f} MB" + (f", {one.lags_s:.1f} s" if one.lags_s else "")
    says = f"the standby {one.name} is {one.state}, and lacks {lacks} of the log now"
    if loses:
        says += ": a failover to it loses the jobs and refunds in that, which gate has acknowledged"
        helps = f"put it into synchronous_standby_names ('ANY 1 ({one.name}, …)'); after such a failover gate pauses its pools (gone_back)"
    else:
        says += ": a failover to it loses nothing, but it shows an old state until it has caught up"
        helps = "look at its disk and at the network between the two"
    return Diagnosis("standby", one.name, says, helps)


def replica_findings(url: str | None) -> Iterator[Diagnosis]:
    """Ask the replica that answers reports.

    Args:
        url: GATE_DATABASE_READ_URL; None when it is not set.
    """
    if url is None:
        return
    about = store_url.shown(url, "GATE_DATABASE_READ_URL")
    try:
        lag_s = behind_s(url)
    except CannotStart as error:
        says = f"it does not answer, so the primary runs its reports: {error.detail}"
        yield Diagnosis("replica", about, says, "start it, or take GATE_DATABASE_READ_URL out")
        return
    if lag_s > LAG_S:
        says = f"it is {lag_s:.0f} s behind, and reports show that state"
        yield Diagnosis("replica", about, says, "look at its disk and at the network between the two")
