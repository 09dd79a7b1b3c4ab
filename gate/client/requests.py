"""The calls of version 1 as data: the request, and the function that reads its response. Nothing here does I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

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
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: bytes | None = None
    params: dict[str, str] = field(default_factory=dict)
    waits: float = 0


def _named(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _post(path: str, **body: Any) -> Call[Job]:
    """Make a POST call. Raises TypeError or ValueError when a value is no JSON."""
    return Call("POST", path, Job.of, json.dumps(_named(**body), allow_nan=False).encode())


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
) -> Call[Job]:
    """Make the call of `AsyncGate.acquire`.

    Raises:
        TypeError: `payload` has a value that is no JSON.
        ValueError: `payload` has a number that is not finite.
    """
    body = _named(
        job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload, lease_seconds=lease_seconds,
        wait_seconds=wait_seconds, presence_seconds=presence_seconds, started_by=started_by,
    )  # fmt: skip
    content = json.dumps(body, allow_nan=False).encode()
    return Call("POST", f"{_of_pool(pool)}/acquire", Job.of, content, waits=wait_seconds or 0)


def job(pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Call[Job]:
    """Make the call of `AsyncGate.job`."""
    params = {"wait_seconds": f"{wait_seconds:.3f}", "status": status} if wait_seconds else {}
    return Call("GET", _of_job(pool, job_id), Job.of, params=params, waits=wait_seconds)


def claim(pool: str, job_id: str, lease_id: str) -> Call[Job]:
    """Make the call of `AsyncGate.claim`."""
    return _post(f"{_of_job(pool, job_id)}/claim", lease_id=lease_id)


def renew(pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Call[Job]:
    """Make the call of `AsyncGate.renew`."""
    return _post(f"{_of_job(pool, job_id)}/renew", lease_id=lease_id, lease_seconds=lease_seconds)


def release(
    pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
) -> Call[Job]:
    """Make the call of `AsyncGate.release`.

    Raises:
        TypeError: `output` has a value that is no JSON.
        ValueError: `output` has a number that is not finite.
    """
    return _post(f"{_of_job(pool, job_id)}/release", lease_id=lease_id, outcome=outcome, error=error, output=output)


def cancel(pool: str, job_id: str, *, reason: str | None = None) -> Call[Job]:
    """Make the call of `AsyncGate.cancel`."""
    return _post(f"{_of_job(pool, job_id)}/cancel", reason=reason)


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
