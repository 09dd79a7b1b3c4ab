"""What the owner's side was told and what it did: every start call, every event, and the rows that its users' browsers watch."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

ENDED = ("completed", "failed", "cancelled", "expired")
ROW = {"granted": "starting", "expired": "failed"}
"""Statuses that the owner's table has another word for."""


@dataclass(slots=True)
class Started:
    """A start call as it came. `answered` is None until it is; `task_id` what it started, or had started before."""

    webhook_id: str
    job: dict[str, Any]
    at: float = field(default_factory=time.time)
    answered: int | None = None
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        return str(self.job["job_id"])

    @property
    def task_id(self) -> str | None:
        return self.said.get("task_id")

    @property
    def refused(self) -> bool:
        return self.said.get("outcome") == "refused"


@dataclass(frozen=True, slots=True)
class Told:
    webhook_id: str
    status: str
    job: dict[str, Any]
    again: bool
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Refused:
    """Tasks that the provider refused although the plan did not say so; `planned` has the others."""

    job_id: str
    sent: float
    answered: float
    planned: bool


@dataclass(slots=True)
class Task:
    """A task at the provider, as the tool that started it knows it."""

    task_id: str
    job_id: str
    plan: dict[str, Any]
    sent: float
    answered: float


@dataclass
class Account:
    """Written on the side's own thread, read on others; it only grows."""

    starts: list[Started] = field(default_factory=list)
    told: defaultdict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    refusals: list[Refused] = field(default_factory=list)
    late: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def hear(self, webhook_id: str, status: str, job: dict[str, Any]) -> bool:
        """Writes the row, once for each event; whether it was new."""
        again = webhook_id in self._known
        self._known.add(webhook_id)
        self.told[job["job_id"]].append(Told(webhook_id, status, job, again))
        if not again:
            self.rows[job["job_id"]] = ROW.get(status, status)
        return not again

    def statuses(self, job_id: str) -> list[str]:
        """What was told of a job, in order, each event once."""
        return [told.status for told in list(self.told.get(job_id, ())) if not told.again]

    def over(self, job_id: str) -> bool:
        return self.rows.get(job_id) in ENDED

    def starts_of(self, job_id: str) -> list[Started]:
        return [call for call in list(self.starts) if call.job_id == job_id]

    def tasks_of(self, job_id: str) -> list[Task]:
        return [task for task in list(self.tasks.values()) if task.job_id == job_id]
