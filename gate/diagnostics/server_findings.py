"""What is wrong with the servers of a gate as a set: two versions for long, and clocks that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gate.diagnostics.diagnosis import Diagnosis
from gate.ledger import ServerRow

ROLLING_MS = 3_600_000
"""Time (ms) that an upgrade may take, server by server, before two versions beside each other are reported."""
SKEW_MS = 2_000
"""Difference (ms) of a server's clock from SQL's that is not reported. It holds half a round trip, and a commit."""


def server_findings(servers: Sequence[ServerRow], now_ms: int) -> Iterator[Diagnosis]:
    """Find servers of different versions, and servers whose clock is far off.

    Args:
        servers: All servers.
        now_ms: Time by the clock of SQL (ms since 1970).
    """
    lives = [one for one in servers if one.lives]
    versions = sorted({one.version for one in lives})
    if len(versions) > 1 and now_ms - max(one.started_at for one in lives) > ROLLING_MS:
        says = f"servers of {len(versions)} versions have run beside each other for an hour: {', '.join(versions)}"
        old = ", ".join(one.id for one in lives if one.version == versions[0])
        yield Diagnosis("servers", "gate serve", says, f"end the upgrade: {old} still runs {versions[0]}")
    for one in lives:
        if abs(one.skew_ms) > SKEW_MS:
            far = f"{abs(one.skew_ms) / 1000:.1f} s {'ahead of' if one.skew_ms > 0 else 'behind'}"
            says = f"the clock of this server is {far} SQL's: times that it shows and retries of its calls are off"
            yield Diagnosis("servers", one.id, says, "let both keep time by NTP")
