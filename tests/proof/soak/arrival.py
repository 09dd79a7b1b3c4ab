"""A thousand wait, one in five is cancelled from the middle: every position exact, grants in order of arrival.

python -m tests.proof.soak.arrival --waiters 1000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from gate.diagnostics.verify import verify
from tests.support.gate_process import Served


def play(served: Served, waiters: int, seed: int) -> list[str]:
    """What was wrong."""
    dice, wrong = random.Random(seed), []
    path = "/v1/pools/default"
    holders = [served.acquire().json() for _ in range(3)]
    arrived = []
    for number in range(waiters):
        job = served.acquire(job_id=f"w{number}").json()
        if job["position"] != number + 1:
            wrong.append(f"{job['job_id']} came {number + 1}. and is at {job['position']}")
        arrived.append(job["job_id"])
    gone = set(dice.sample(arrived, waiters // 5))
    for job_id in gone:
        served.post(f"{path}/jobs/{job_id}/cancel")
    left = [job_id for job_id in arrived if job_id not in gone]
    queue = served.http.get(path, params={"limit": 1000}).json()["queue"]
    if [job["job_id"] for job in queue] != left[:1000]:
        wrong.append("the queue is not who arrived, less who left")
    for place, job_id in enumerate(left, 1):
        seen = served.http.get(f"{path}/jobs/{job_id}").json()["position"]
        if seen != place:
            wrong.append(f"{job_id} is at {seen}, not {place}")
    granted = []
    while holders:
        served.act(holders.pop(0), "release", outcome="completed")
        if len(granted) < len(left):
            job = served.http.get(f"{path}/jobs/{left[len(granted)]}", params={"wait_seconds": 10}).json()
            if job["status"] != "granted":
                wrong.append(f"{job['job_id']} should be next and is {job['status']}")
                break
            granted.append(job["job_id"])
            holders.append(job)
    if granted != left:
        wrong.append("grants did not follow arrival")
    return wrong


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--waiters", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    environment = {"GATE_QUEUE_MAX": "100000", "GATE_QUEUE_SECONDS": "3600", "GATE_CLAIM_SECONDS": "3600"}
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), **environment) as served:
        wrong = play(served, given.waiters, given.seed)
        report = verify(served.sql_url, served.redis_url)
    print(f"{given.waiters} waiters, {given.waiters // 5} cancelled from the middle, seed {given.seed}")
    print(f"wrong: {wrong[:10] or 'nothing'}; verify: {report.breaches or 'clean'}")
    sys.exit(1 if wrong or report.breaches else 0)


if __name__ == "__main__":
    main()
