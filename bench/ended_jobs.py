"""Fills a ledger with ended jobs, fast: a million take about a minute. The history is one that gate could have written.

python -m bench.ended_jobs sqlite:////tmp/full/gate.db              # a million
python -m bench.ended_jobs postgresql://… --jobs 50000 --pools 20
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

from bench.progress import say
from gate.ledger import Database, Ledger, PoolSettings
from gate.ledger.admin import migrate

YEAR_MS = 365 * 24 * 3_600_000
EPOCH = 1 << 32
"""Fences of the first life of a pool are below it, those of gate's next life above twice that."""
LIMIT = 3
USERS = 20_000
HEAVY = "u0"
"""A user with a hundredth of all jobs."""
AT_ONCE = 20_000
"""Jobs whose rows are written together."""
COLUMNS = {
    "jobs": (
        "job_id", "pool", "status", "user", "tool", "credits", "payload", "ticket", "fence", "lease_id", "lease_ms", "enqueued_at",
        "granted_at", "expires_at", "hard_expires_at", "ended_at", "ended_by", "end_reason", "error", "output", "provider", "task_id",
        "tells", "account",
    ),
    "tasks": ("provider", "task_id", "job_id", "lease_id", "at", "account"),
    "deliveries": ("webhook_id", "job_id", "tool", "kind", "type", "fence", "at", "due_at", "attempts", "done_at", "result"),
    "webhooks": ("at", "provider", "delivery_id", "pool", "task_id", "outcome", "output", "body", "verdict"),
    "ledger": ("at", "job_id", "user", "pool", "kind", "amount"),
    "events": ("at", "pool", "job_id", "kind", "fence", "by", "why"),
}  # fmt: skip
"""Tables and the columns that are filled, in an order that the foreign keys allow."""
Rows = dict[str, list[tuple[Any, ...]]]


class History:
    """Jobs one after another: half take a slot at once, half wait for one; each pool has LIMIT slots, and all end."""

    def __init__(self, jobs: int, pools: list[str], until_ms: int) -> None:
        self._jobs, self._pools = jobs, pools
        self._at, self._step = until_ms - YEAR_MS, YEAR_MS // max(jobs, 1)
        self._held: dict[str, deque[dict[str, Any]]] = {pool: deque() for pool in pools}
        self._counted = dict.fromkeys(pools, 0)
        self.rows: Rows = {table: [] for table in COLUMNS}

    def play(self) -> Iterator[Rows]:
        """The rows, AT_ONCE jobs at a time."""
        for number in range(self._jobs):
            self._at += self._step
            self._come(number, self._pools[number % len(self._pools)])
            if number % AT_ONCE == AT_ONCE - 1:
                yield self._taken()
        for held in self._held.values():
            while held:
                self._end(held.popleft())
        yield self._taken()

    def _taken(self) -> Rows:
        rows, self.rows = self.rows, {table: [] for table in COLUMNS}
        return rows

    def _come(self, number: int, pool: str) -> None:
        self._counted[pool] += 1
        mixed = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
        picked = int(mixed[:8], 16)
        job = {
            "job_id": f"{mixed[:8]}-{mixed[8:12]}-{mixed[12:16]}-{mixed[16:20]}-{mixed[20:]}", "pool": pool,
            "user": HEAVY if picked % 100 == 0 else f"u{1 + picked % USERS}", "tool": ("upscaler", "painter", "video")[picked % 3],
            "credits": 1 + picked % 40, "ticket": self._counted[pool], "fence": EPOCH + self._counted[pool], "lease_id": mixed,
            "at": self._at, "picked": picked, "number": number,
        }  # fmt: skip
        self._add("ledger", self._at, job["job_id"], job["user"], pool, "charge", job["credits"])
        waits = bool(picked & 1)
        if waits:
            self._event(job, "queued", "caller", None)
        held = self._held[pool]
        if len(held) == LIMIT:
            self._end(held.popleft())
        if waits:
            self._event(job, "granted", "gate", job["fence"])
            self._event(job, "running", "holder", job["fence"])
        else:
            self._event(job, "running", "caller", job["fence"])
        if picked & 2:
            self._event(job, "task", "holder", job["fence"], f"runninghub t{number}")
            self._add("tasks", "runninghub", f"t{number}", job["job_id"], mixed, self._at, "main")
        held.append(job)

    def _end(self, job: dict[str, Any]) -> None:
        of_task, die = bool(job["picked"] & 2), job["picked"] // 7 % 100
        status, by, why = (
            ("completed", "provider" if of_task else "holder", None) if die < 85 else ("failed", "holder", None) if die < 91
            else ("cancelled", "caller", None) if die < 96 else ("expired", "gate", "lease_timeout")
        )  # fmt: skip
        at, granted_at, done = self._at, job["at"], status == "completed"
        image = f"https://files.example/{job['job_id']}/image.png"
        task = ("runninghub", f"t{job['number']}", "main") if of_task else (None, None, None)
        self._add(
            "jobs", job["job_id"], job["pool"], status, job["user"], job["tool"], job["credits"],
            json.dumps({"image": image, "prompt": "a harbour in the fog, " * 12, "scale": 4, "steps": 30}), job["ticket"], job["fence"],
            job["lease_id"], 600_000, granted_at, granted_at, granted_at + 600_000, granted_at + 3_600_000, at, by, why,
            "out of memory" if status == "failed" else None,
            json.dumps({"urls": [f"{image}?out={place}" for place in range(2)], "seconds": 12.5}) if done else None,
            task[0], task[1], True, task[2],
        )  # fmt: skip
        if not done:
            self._add("ledger", at, job["job_id"], job["user"], job["pool"], "refund", job["credits"])
        self._event(job, status, by, job["fence"], why)
        webhook = f"msg_{job['number']}"
        self._add(
            "deliveries", webhook, job["job_id"], job["tool"], "event", f"job.{status}", 0, at, at, 1, at + 50, "delivered"
        )
        if of_task:
            body = json.dumps({"taskId": task[1], "event": "TASK_END", "data": image * 3})
            self._add(
                "webhooks", at, "runninghub", f"d{job['number']}", job["pool"], task[1], "completed", None, body, "applied"
            )

    def _event(self, job: dict[str, Any], kind: str, by: str, fence: int | None, why: str | None = None) -> None:
        self._add("events", self._at, job["pool"], job["job_id"], kind, fence, by, why)

    def _add(self, table: str, *values: Any) -> None:
        self.rows[table].append(values)


def fill(url: str, jobs: int, pools: int = 3, until_ms: int | None = None) -> list[str]:
    """Make the ledger and its pools where they are not there, and write that many ended jobs of the year before `until_ms`.

    Returns the names of the pools. No gate may serve meanwhile.
    """
    migrate.make(url)
    names = ["default", *(f"p{number:04}" for number in range(1, pools))]
    asyncio.run(_make(url, names))
    history = History(jobs, names, until_ms or round(time.time() * 1000) - 60_000)
    address = sa.make_url(url)
    (_into_sqlite if address.get_backend_name() == "sqlite" else _into_postgres)(url, history.play())
    return names


async def _make(url: str, names: Iterable[str]) -> None:
    database = Database(url)
    try:
        ledger = Ledger(database)
        for name in names:
            await ledger.make_pool(name, PoolSettings(LIMIT, 600_000, 3_600_000, 30_000, 3_600_000, 20_000, 5_000, 0))
    finally:
        database.close()


def _into_sqlite(url: str, history: Iterator[Rows]) -> None:
    """Without `analyze`: gate never runs it, so its plans have to be good without statistics."""
    file = sqlite3.connect(sa.make_url(url).database or "", isolation_level=None)
    for pragma in ("synchronous = off", "cache_size = -400000"):
        file.execute(f"pragma {pragma}")
    for rows in history:
        file.execute("begin immediate")
        for table, columns in COLUMNS.items():
            names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
            file.executemany(f"insert into {table} ({names}) values ({marks})", rows[table])
        file.execute("commit")
    file.execute("pragma wal_checkpoint(truncate)")
    file.close()


def _into_postgres(url: str, history: Iterator[Rows]) -> None:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("set synchronous_commit = off")
        connection.execute(
            "set session_replication_role = replica"
        )  # the rows fit each other: checking each would take minutes
        for rows in history:
            for table, columns in COLUMNS.items():
                names = ", ".join(f'"{name}"' for name in columns)
                with connection.cursor().copy(f"copy gate.{table} ({names}) from stdin") as copy:
                    for row in rows[table]:
                        copy.write_row(row)
            connection.commit()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("vacuum analyze")  # as autovacuum does within a minute


def main() -> None:
    reading = argparse.ArgumentParser(prog="python -m bench.ended_jobs", description=__doc__)
    reading.add_argument("url", help="of the ledger: sqlite:///FILE or postgresql://…; its tables are made if there are none")
    reading.add_argument("--jobs", type=int, default=1_000_000, help="ended jobs (%(default)s)")
    reading.add_argument("--pools", type=int, default=3, help="pools among which they are (%(default)s)")
    asked = reading.parse_args()
    began = time.monotonic()
    fill(asked.url, asked.jobs, asked.pools)
    say(f"{asked.jobs:,} ended jobs in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
