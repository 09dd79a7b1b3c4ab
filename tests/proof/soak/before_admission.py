"""Race an end of a job against its admission, on Postgres with the guide's SQL: every charge is settled exactly once.

    python -m tests.proof.soak.before_admission --rounds 500 --seed 1

Each round charges a user 60 credits, inserts the row, and sends two or three calls at the same moment: an admission, a browser's
`finish`, a cancel, the replacement function's end of a refused admission. Afterwards the job ran to `completed` and is paid, or it
went back exactly once, in the ledger and in the owner's balance; and `gate verify` is clean.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from tests.proof.pages.test_moving_over import MANAGER, Owner, block, file
from tests.support.gate_process import Served, run_gate
from tests.support.servers import Postgres
from tests.support.tool import SECRET
from tests.support.wait import until

PRICE = 60
BEFORE = 100
"""Credits of each user before the charge."""
SETTLE_S = 30.0
"""Longest wait (s) until gate owes nothing of a round any more."""
TABLE = "upscaler_jobs"
FINISH = f"{MANAGER}/finish"
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "admit": (f"{MANAGER}/run-or-queue", {}),
    "fail": (FINISH, {"status": "failed", "errorMessage": "the browser's clock"}),
    "cancel": ("/rest/v1/rpc/user_cancel_ai_job", {}),
    "not admitted": (FINISH, {"status": "failed", "errorMessage": "the queue was full", "notAdmitted": True}),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one job went through. `calls` are names of CALLS; `answers` the status code and the body of each, in the same order."""

    job_id: str
    user: str
    calls: tuple[str, ...]
    answers: tuple[tuple[int, Any], ...]


class Race:
    """A gate on the owner's Postgres, and rounds against it."""

    def __init__(self, owner: Owner, served: Served, seed: int) -> None:
        self.owner, self.served, self._random = owner, served, random.Random(seed)
        self.rounds: list[Round] = []

    def play(self) -> Round:
        """One round: two or three calls, let go at the same moment. A job that runs afterwards is completed."""
        job_id = self.owner.row("pending", price=PRICE, session_id="tab")
        names = tuple(self._random.choices(sorted(CALLS), k=self._random.choice((2, 3))))
        barrier = threading.Barrier(len(names))

        def call(name: str) -> tuple[int, Any]:
            path, more = CALLS[name]
            by_sql = {"p_table_name": TABLE, "p_job_id": job_id}
            body = by_sql if name == "cancel" else {"table": TABLE, "jobId": job_id} | more
            barrier.wait(10)
            answer = self.served.http.post(path, json=body)
            return answer.status_code, answer.json()

        with ThreadPoolExecutor(len(names)) as threads:
            answers = tuple(threads.map(call, names))
        done = Round(job_id, self.owner.user(job_id), names, answers)
        self.served.post(FINISH, {"table": TABLE, "jobId": job_id, "status": "completed"})
        self.rounds.append(done)
        return done

    def wrong(self) -> list[str]:
        """What is wrong once everything is settled, a line each. Empty where every charge is settled exactly once."""
        asyncio.run(until(self._is_settled, "gate owes nothing any more", SETTLE_S))
        found = [f"{one.calls} {one.job_id}: {wrong}" for one in self.rounds for wrong in self._wrong_with(one)]
        return found + [str(breach) for breach in verify(self.served.sql_url, self.served.redis_url).breaches]

    def outcomes(self) -> Counter[str]:
        return Counter(self.owner.of(one.job_id)[0] for one in self.rounds)

    def _is_settled(self) -> bool:
        queries = (
            "select count(*) from @jobs where ended_at is null",
            "select count(*) from @owed",
            "select count(*) from @deliveries where done_at is null",
        )
        return not any(self.served.sql(query)[0][0] for query in queries)

    def _wrong_with(self, one: Round) -> Iterator[str]:
        job = self.served.http.get(f"/v1/pools/default/jobs/{one.job_id}").json()
        status, refunded, balance = self.owner.of(one.job_id)
        paid = job.get("status") == "completed"
        if job.get("status") not in ("completed", "failed", "cancelled"):
            yield f"gate says {job}"
        if balance != (BEFORE - PRICE if paid else BEFORE):
            yield f"{job.get('status')}, and its user has {balance}; {one.answers}"
        if refunded is paid:
            yield f"{job.get('status')}, and credits_refunded is {refunded}"
        if status != job.get("status"):
            yield f"gate says {job.get('status')}, its row {status}"
        booked = self.served.sql("select kind, amount from @ledger where job_id = :job order by kind", job=one.job_id)
        if booked != [("charge", PRICE)] + [("refund", PRICE)] * (not paid):
            yield f"{job.get('status')}, and the ledger says {booked}"
        odd = [(name, answer) for name, answer in zip(one.calls, one.answers, strict=True) if answer[0] not in (200, 400)]
        if odd:
            yield f"answered {odd}"


def config(tool_url: str) -> str:
    """Settings of the guide, with a tool that starts every job at once."""
    return f"""cooldown_seconds = 0.5
job_sql = "select * from gate_job(:table_name, :job_id)"
refund_sql = "select gate_refund(:user, :amount, :description, :job_id)"
[tools.{TABLE}]
provider = "runninghub"
start_url = "{tool_url}/start"
events_url = "{tool_url}/events"
secret = "{SECRET}"
"""


@contextlib.contextmanager
def opened(folder: Path, seed: int) -> Iterator[Race]:
    """A Postgres of its own with the owner's tables and the guide's SQL, and a `gate serve` on it."""
    folder.chmod(0o755)  # Postgres runs as another user
    postgres = Postgres(folder / "postgres")
    postgres.start()
    try:
        owner = Owner(postgres.url)
        owner.sql(block("sql", "create role gate"))
        owner.sql(file("database.sql"))
        gate_url = sa.make_url(owner.url).set(username="gate").render_as_string()
        (folder / "gate").mkdir()
        with owner.tool.running():
            served = Served(folder / "gate", config=config(owner.tool.url), on_defaults=True, GATE_DATABASE_URL=gate_url)
            made = run_gate("keys", "create", "race", "--role", "tool", cwd=folder / "gate", GATE_DATABASE_URL=gate_url)
            with served:
                served.http = httpx2.Client(base_url=served.url, timeout=70, limits=httpx2.Limits(max_connections=None))
                served.http.headers["authorization"] = f"Bearer {made.stdout.split()[-1]}"
                asyncio.run(until(lambda: served.http.get("/v1/pools").status_code == 200, "the key counts"))
                yield Race(owner, served, seed)
    finally:
        postgres.crash()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        opened(Path(folder), options.seed) as race,
    ):
        for _ in range(options.rounds):
            race.play()
        wrong = race.wrong()
        print(f"{options.rounds} rounds with seed {options.seed}: {dict(race.outcomes())}")
    print("\n".join(wrong) or "every charge is settled exactly once, gate verify is clean")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
