"""What a job is: its statuses, its outcomes, and the shape every room hands to the next.

The shapes are tuples with names: made and changed several times for each request, which frozen dataclasses are slow at.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final, NamedTuple

HOLDING: Final = frozenset({"granted", "running"})
LIVE: Final = frozenset({"queued"}) | HOLDING
REFUNDED: Final = frozenset({"failed", "cancelled", "expired"})
ENDED: Final = REFUNDED | {"completed"}
STATUSES: Final = LIVE | ENDED

JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")
POOL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LABEL_MAX: Final = 256
"""Characters of a user, tool or session."""
SECONDS_MIN: Final = 0.5
SECONDS_MAX: Final = 31_536_000
"""Of every time that a caller or a setting names: a year."""
SLOTS_MAX: Final = 10_000
QUEUE_MAX: Final = 100_000
CREDITS_MAX: Final = 10**9
PAYLOAD_MAX_BYTES: Final = 16 * 1024


class Lease(NamedTuple):
    """A slot held. Times are milliseconds since 1970, by Redis's clock; `due` is when it runs out."""

    lease_id: str
    fence: int
    granted_at: int
    due: int
    hard: int


class Refund(NamedTuple):
    amount: int
    at: int | None
    owed: bool = False


class Job(NamedTuple):
    """A job as SQL has it; `position`, `queue_length` and `reason` are Redis's word, and only of a waiter. `task_id` is the
    provider's name for what its current lease started. `starts`: gate starts it, at its tool's start_url; `tells`: each change
    of its status is told to its tool; `settles`: its refund is paid by the owner's function. `queue_ms` is its own queue time, None
    where the pool's counts. `late_output` belongs to `late_outcome`: what came after the job had ended without the provider."""

    job_id: str
    pool: str
    status: str
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    ticket: int
    fence: int
    lease_id: str | None
    lease_ms: int
    enqueued_at: int
    granted_at: int | None = None
    expires_at: int | None = None
    hard_expires_at: int | None = None
    ended_at: int | None = None
    ended_by: str | None = None
    end_reason: str | None = None
    error: str | None = None
    output: Any = None
    late_outcome: str | None = None
    provider: str | None = None
    task_id: str | None = None
    starts: bool = False
    tells: bool = False
    settles: bool = False
    queue_ms: int | None = None
    late_output: Any = None
    refund: Refund | None = None
    position: int | None = None
    queue_length: int | None = None
    reason: str | None = None
    eta_seconds: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def lease(self) -> Lease | None:
        """The lease it holds now; None while it waits and once it has ended."""
        if self.status not in HOLDING:
            return None
        assert self.lease_id and self.granted_at and self.expires_at and self.hard_expires_at
        return Lease(self.lease_id, self.fence, self.granted_at, self.expires_at, self.hard_expires_at)


class Request(NamedTuple):
    """What somebody asks `acquire` for. `credits` is what the caller has charged already; `trusted`: he showed a tool key, so
    his word is good for a refund by the owner's function. `starts`, `tells`, `settles` and `queue_ms` as in Job; gate sets them."""

    job_id: str
    user: str | None = None
    tool: str | None = None
    session: str | None = None
    credits: int | None = None
    payload: dict[str, Any] | None = None
    lease_ms: int | None = None
    trusted: bool = False
    starts: bool = False
    tells: bool = False
    settles: bool = False
    queue_ms: int | None = None

    def same_content(self, job: Job) -> bool:
        """Whether a repeat means the same job: what both name has to be equal."""
        named = ((self.user, job.user), (self.tool, job.tool), (self.session, job.session),
                 (self.credits, job.credits), (self.payload, job.payload))  # fmt: skip
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in named)


def new_job_id() -> str:
    """Random, and ordered by time, so that the index grows at its end."""
    return f"{now_ms():012x}{secrets.token_hex(10)}"


def now_ms() -> int:
    """gate's own clock, for what is only shown. A deadline is never compared with it (PROTOCOL, every script, 1)."""
    return time.time_ns() // 1_000_000


def in_ms(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that the ledger and the scripts use: `lease_seconds`, as people write it, is `lease_ms` there."""
    return {
        name.replace("_seconds", "_ms"): round(value * 1000) if name.endswith("_seconds") else value
        for name, value in values.items()
    }


def in_seconds(values: dict[str, int]) -> dict[str, float]:
    """And back."""
    return {
        name.replace("_ms", "_seconds"): value / 1000 if name.endswith("_ms") else value for name, value in values.items()
    }
