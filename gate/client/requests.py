"""The calls of version 1 as data: the request, and the function that reads its response. Nothing here does I/O."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from gate.client.errors import invalid
from gate.client.models import Balance, Job, LedgerPage, Outcome, Pool, StartedBy, Status

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One HTTP call.

    Attributes:
        read: Reads the JSON of a success.
        body: JSON of the request; None for none.
        params: Query parameters.
        waits: Time (s) for which gate may delay the response.
        job_id: The job that a success has to be about; None when it is about none, or about any.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: bytes | None = None
    params: dict[str, str] = field(default_factory=dict)
    waits: float = 0
    job_id: str | None = None


def new_job_id() -> str:
    """Make a random id that begins with the time, so that the index in gate's database grows at its end."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def _named(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _json(**body: Any) -> bytes:
    """Encode the fields that are not None. Raises Invalid when a value is no JSON."""
    named = _named(**body)
    try:
        return json.dumps(named, allow_nan=False).encode()
    except (TypeError, ValueError) as wrong:
        raise invalid(next(name for name, value in named.items() if not is_json(value)), str(wrong)) from wrong


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def check_wait(wait_seconds: float | None) -> float:
    """Return the time (s) of a wait; 0 for None. Raises Invalid when it is negative or not finite."""
    if wait_seconds is None:
        return 0
    if not 0 <= wait_seconds < math.inf:
        raise invalid("wait_seconds", f"it must be 0 or more, and finite; got {wait_seconds}")
    return wait_seconds


def _of(job_id: str, pool: str, verb: str, method: str = "POST", **body: Any) -> Call[Job]:
    """Make a call that changes a job."""
    return Call(method, f"{_of_job(pool, job_id)}/{verb}", Job.of, _json(**body), job_id=job_id)


def _of_pool(pool: str) -> str:
    return f"/v1/pools/{quote(pool, safe='')}"


def _of_job(pool: str, job_id: str) -> str:
    return f"{_of_pool(pool)}/jobs/{quote(job_id, safe='')}"


def acquire(
    pool: str,
    *,
    job_id: str,
    user: str | None = None,
    tool: str | None = None,
    session: str | None = None,
    credits: int | None = None,
    payload: dict[str, Any] | None = None,
    lease_seconds: float | None = None,
    wait_seconds: float | None = None,
    presence_seconds: float | None = None,
    started_by: StartedBy | None = None,
    queue_seconds: float | None = None,
    max_eta_seconds: float | None = None,
) -> Call[Job]:
    """Make the call of `AsyncGate.acquire`.

    Raises:
        Invalid: `payload` is no JSON, or a number is not finite.
    """
    waits = check_wait(wait_seconds)
    content = _json(
        job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload, lease_seconds=lease_seconds,
        wait_seconds=wait_seconds, presence_seconds=presence_seconds, started_by=started_by, queue_seconds=queue_seconds,
        max_eta_seconds=max_eta_seconds,
    )  # fmt: skip
    return Call("POST", f"{_of_pool(pool)}/acquire", Job.of, content, waits=waits, job_id=job_id)


def job(pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Call[Job]:
    """Make the call of `AsyncGate.job`."""
    waits = check_wait(wait_seconds)
    params = {"wait_seconds": f"{waits:.3f}", "status": status} if waits else {}
    return Call("GET", _of_job(pool, job_id), Job.of, params=params, waits=waits, job_id=job_id)


def claim(pool: str, job_id: str, lease_id: str) -> Call[Job]:
    """Make the call of `AsyncGate.claim`."""
    return _of(job_id, pool, "claim", lease_id=lease_id)


def renew(pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Call[Job]:
    """Make the call of `AsyncGate.renew`."""
    return _of(job_id, pool, "renew", lease_id=lease_id, lease_seconds=lease_seconds)


def release(
    pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
) -> Call[Job]:
    """Make the call of `AsyncGate.release`.

    Raises:
        Invalid: `output` is no JSON.
    """
    return _of(job_id, pool, "release", lease_id=lease_id, outcome=outcome, error=error, output=output)


def bind_task(
    pool: str, job_id: str, provider: str, task_id: str, *, lease_id: str | None = None, account: str | None = None
) -> Call[Job]:
    """Make the call of `AsyncGate.bind_task`."""
    return _of(job_id, pool, "task", "PUT", provider=provider, task_id=task_id, lease_id=lease_id, account=account)


def cancel(pool: str, job_id: str, *, reason: str | None = None) -> Call[Job]:
    """Make the call of `AsyncGate.cancel`."""
    return _of(job_id, pool, "cancel", reason=reason)


def pool(pool: str, *, limit: int = 100) -> Call[Pool]:
    """Make the call of `AsyncGate.pool`."""
    return Call("GET", _of_pool(pool), Pool.of, params={"limit": str(limit)})


def active(user: str) -> Call[Job | None]:
    """Make the call of `AsyncGate.active`."""
    return Call("GET", f"/v1/users/{quote(user, safe='')}/active", lambda body: Job.of(body) if body is not None else None)


def ledger(
    *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
) -> Call[LedgerPage]:
    """Make the call of `AsyncGate.ledger`."""
    params = {name: str(value) for name, value in _named(user=user, job_id=job_id, kind=kind, after=after).items()}
    return Call("GET", "/v1/ledger", LedgerPage.of, params=params)


def balance(user: str) -> Call[Balance]:
    """Make the call of `AsyncGate.balance`."""
    return Call("GET", f"/v1/ledger/balances/{quote(user, safe='')}", Balance.of)
