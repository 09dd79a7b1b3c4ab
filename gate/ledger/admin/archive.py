"""Write jobs to files before they are pruned: one line of JSON for each job, one file for each month in which jobs ended.

A line has the row of the job and every row that names it, its ledger entries included. Those entries stay in SQL too, so balances
and sums do not change. A crash may leave jobs in a file that were not pruned. They are written again, and the later line is as
complete as the former.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gate.ledger.sql.tables import deliveries, events, jobs, ledger, tasks, unread_callbacks, webhooks

OF_A_JOB = {
    "events": events,
    "ledger": ledger,
    "deliveries": deliveries,
    "tasks": tasks,
    "callbacks": webhooks,
    "unread_callbacks": unread_callbacks,
}
"""Tables with rows about a job, by their name in its line."""
JSON_COLUMNS = ("payload", "output", "late_output")
"""Columns that hold JSON as text."""


class Archive:
    """Files of a directory to which jobs are added.

    Attributes:
        jobs: Number of jobs that were added.
        charged, refunded: Sums of their ledger entries, in credits.
    """

    def __init__(self, folder: Path) -> None:
        """Open an archive, which is made if there is none. Only its owner may read it, because it holds payloads.

        Args:
            folder: Its directory.

        Raises:
            OSError: The directory cannot be made.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self.jobs = self.charged = self.refunded = 0

    def add(self, connection: Connection, job_ids: Sequence[str]) -> None:
        """Write jobs, and return when they are on the disk.

        Args:
            connection: A connection in a transaction, which prunes the jobs after this call.
            job_ids: Jobs that have ended.

        Raises:
            OSError: They could not be written.
        """
        locked = sa.select(jobs).where(jobs.c.job_id.in_(job_ids)).order_by(jobs.c.job_id).with_for_update()
        rows = connection.execute(locked).mappings().all()  # first: a late outcome may be on its way
        found = {name: _by_job(connection, table, job_ids) for name, table in OF_A_JOB.items()}
        lines: defaultdict[str, list[bytes]] = defaultdict(list)
        for row in rows:
            job_id = row["job_id"]
            line: dict[str, Any] = {"job": _as_json(row)} | {name: of_it.get(job_id, []) for name, of_it in found.items()}
            lines[time.strftime("%Y-%m", time.gmtime(row["ended_at"] / 1000))].append(json.dumps(line).encode() + b"\n")
            for entry in line["ledger"]:
                self.charged += entry["amount"] * (entry["kind"] == "charge")
                self.refunded += entry["amount"] * (entry["kind"] == "refund")
            self.jobs += 1
        for month, texts in lines.items():
            file = self._file(month)
            file.write(b"".join(texts))
            os.fsync(file.fileno())  # guard: archived-before-pruned

    def _file(self, month: str) -> IO[bytes]:
        if month not in self._files:
            place = os.open(self._folder / f"{month}.ndjson", os.O_RDWR | os.O_CREAT, 0o600)
            self._files[month] = file = os.fdopen(place, "r+b", buffering=0)
            _cut_back(file)
        return self._files[month]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def _cut_back(file: IO[bytes]) -> None:
    """Go to the end of the last whole line, and cut off what a crash has left behind it."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        file.seek(end - 1)
        if file.read(1) == b"\n":
            break
        end -= 1
    file.truncate(end)
    file.seek(end)


def _by_job(connection: Connection, table: sa.Table, job_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of a table that name one of the jobs, or a task of one, by job."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _naming(connection, table, job_ids):
        found[row["named"]].append(_as_json({name: value for name, value in row.items() if name != "named"}))
    return found


def _naming(connection: Connection, table: sa.Table, job_ids: Sequence[str]) -> Iterable[Any]:
    order = table.c.id if "id" in table.c else table.c.at
    named = sa.select(table, table.c.job_id.label("named")).where(table.c.job_id.in_(job_ids)).order_by(order)
    yield from connection.execute(named).mappings()
    if table is webhooks:  # most callbacks name a task alone
        of_task = (tasks.c.provider == table.c.provider) & (tasks.c.task_id == table.c.task_id) & table.c.job_id.is_(None)
        by_task = sa.select(table, tasks.c.job_id.label("named")).join(tasks, of_task).where(tasks.c.job_id.in_(job_ids))
        yield from connection.execute(by_task.order_by(order)).mappings()


def _as_json(row: Any) -> dict[str, Any]:
    """Return the columns that have a value. Those that hold JSON are parsed."""
    return {
        name: json.loads(value) if name in JSON_COLUMNS and isinstance(value, str) else value
        for name, value in row.items()
        if value is not None
    }
