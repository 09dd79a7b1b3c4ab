"""Every call of version 1 that the client makes, as data: what is sent, and how the answer is read. Nothing here talks."""

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
    """`waits`: seconds that gate may hold the answer back."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: bytes | None = None
    params: dict[str, str] = field(default_factory=dict)
    waits: float = 0


def _named(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _post(path: str, **body: Any) -> Call[Job]:
    """Raises TypeError, ValueError when it is no JSON."""
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
    started_by: StartedBy | None = None,
) -> Call[Job]:
    body = _named(
        job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload, lease_seconds=lease_seconds,
        wait_seconds=wait_seconds, started_by=started_by,
    )  # fmt: skip
    content = json.dumps(body, allow_nan=False).encode()
    return Call("POST", f"{_of_pool(pool)}/acquire", Job.of, content, waits=wait_seconds or 0)


def job(pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Call[Job]:
    params = {"wait_seconds": f"{wait_seconds:.3f}", "status": status} if wait_seconds else {}
    return Call("GET", _of_job(pool, job_id), Job.of, params=params, waits=wait_seconds)


def claim(pool: str, job_id: str, lease_id: str) -> Call[Job]:
    return _post(f"{_of_job(pool, job_id)}/claim", lease_id=lease_id)


def renew(pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Call[Job]:
    return _post(f"{_of_job(pool, job_id)}/renew", lease_id=lease_id, lease_seconds=lease_seconds)


def release(
    pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
) -> Call[Job]:
    return _post(f"{_of_job(pool, job_id)}/release", lease_id=lease_id, outcome=outcome, error=error, output=output)


def cancel(pool: str, job_id: str, *, reason: str | None = None) -> Call[Job]:
    return _post(f"{_of_job(pool, job_id)}/cancel", reason=reason)


def pool(pool: str, *, limit: int = 100) -> Call[Pool]:
    return Call("GET", _of_pool(pool), Pool.of, params={"limit": str(limit)})


def active(user: str) -> Call[Job | None]:
    return Call("GET", f"/v1/users/{quote(user, safe='')}/active", lambda body: Job.of(body) if body is not None else None)


def ledger(
    *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
) -> Call[LedgerPage]:
    params = {name: str(value) for name, value in _named(user=user, job_id=job_id, kind=kind, after=after).items()}
    return Call("GET", "/v1/ledger", LedgerPage.of, params=params)


def balance(user: str) -> Call[Balance]:
    return Call("GET", f"/v1/ledger/balances/{quote(user, safe='')}", Balance.of)
