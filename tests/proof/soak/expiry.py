"""Two hundred leases run out without any call: all are expired and refunded in SQL within 2 s of their deadlines.

python -m tests.proof.soak.expiry --leases 200
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from gate.diagnostics.verify import verify
from tests.support.gate_process import Served

WITHIN_S = 2.0
LEASE_S = 3.0


def expire_all(served: Served, leases: int) -> dict[str, float]:
    """For each job the seconds from its deadline until SQL had it expired and refunded, by looking into the file."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda n: served.acquire(job_id=f"x{n}", credits=5, lease_seconds=LEASE_S).json(), range(leases))
        )
    assert [answer["status"] for answer in answers] == ["running"] * leases
    deadlines = {job["job_id"]: datetime.fromisoformat(job["lease"]["expires_at"]).timestamp() for job in answers}
    query = """select j.job_id from jobs j join ledger l on l.job_id = j.job_id and l.kind = 'refund' and l.amount = j.credits
        where j.status = 'expired' and j.end_reason = 'lease_timeout'"""
    took: dict[str, float] = {}
    beside = sqlite3.connect(served.sql_url.removeprefix("sqlite:///"))
    give_up = max(deadlines.values()) + 30
    while len(took) < leases and time.time() < give_up:
        for (job_id,) in beside.execute(query).fetchall():
            took.setdefault(job_id, time.time() - deadlines[job_id])
        time.sleep(0.02)
    beside.close()
    return took


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--leases", type=int, default=200)
    leases = options.parse_args().leases
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), GATE_LIMIT=str(leases)) as served:
        took = expire_all(served, leases)
        report = verify(served.sql_url, served.redis_url)
    late = sum(seconds > WITHIN_S for seconds in took.values())
    print(
        f"{len(took)} of {leases} expired and refunded with no call; the slowest {max(took.values()):.2f} s after its deadline"
    )
    print(f"earlier than its deadline: {sum(seconds < 0 for seconds in took.values())}; verify: {report.breaches or 'clean'}")
    sys.exit(1 if late or len(took) < leases or report.breaches else 0)


if __name__ == "__main__":
    main()
