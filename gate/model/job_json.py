"""The JSON of a job. It is the same over HTTP and in the calls to tools."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from gate.model.job import Job, Lease


def moment(ms: int | None) -> str | None:
    """Write a time as RFC 3339 text in UTC with milliseconds.

    Args:
        ms: The time (ms since 1970); None gives None.
    """
    if ms is None:
        return None
    seconds, rest = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    """Write a time without its fraction. Cached, because most times that are shown lie in the same few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def job_body(job: Job, secrets: bool = True) -> dict[str, Any]:
    """Make the JSON of a job.

    Args:
        job: The job.
        secrets: True for a reader that may release the job, and so may see the payload and the lease_id.
    """
    return {
        "job_id": job.job_id,
        "pool": job.pool,
        "user": job.user,
        "tool": job.tool,
        "session": job.session,
        "credits": job.credits,
        "payload": job.payload if secrets else None,
        "task": {"provider": job.provider, "task_id": job.task_id} if job.task_id is not None else None,
        "account": job.account,
        "started_by": "gate" if job.starts else "caller",
        "status": job.status,
        "position": job.position,
        "queue_length": job.queue_length,
        "reason": job.reason,
        "eta_seconds": job.eta_seconds,
        "queue_expires_at": moment(job.queue_expires_at),
        "likely": job.likely,
        "enqueued_at": moment(job.enqueued_at),
        "lease": _lease(job.lease, secrets) if job.lease else None,
        "ended_at": moment(job.ended_at),
        "ended_by": job.ended_by,
        "end_reason": job.end_reason,
        "error": job.error,
        "output": job.output,
        "cancel_refunds": job.cancel_refunds,
        "retries": job.retries,
        "error_kind": job.error_kind,
        "refund": {"amount": job.refund.amount, "at": moment(job.refund.at), "owed": job.refund.owed} if job.refund else None,
        "late_outcome": job.late_outcome,
        "late_output": job.late_output,
    }


def task_body(body: dict[str, Any], asked: Any) -> dict[str, Any]:
    """Add to the JSON of a job what is known of its task.

    Args:
        body: The JSON of the job.
        asked: An `Asked` of the ledger; None when gate does not ask about the task.
    """
    if asked is None or body["task"] is None:
        return body
    said = {"account": asked.account, "state": asked.state, "heard_at": moment(asked.heard_at)}
    return body | {"task": body["task"] | said | {"questions": asked.questions, "stop": asked.stop}}


def _lease(lease: Lease, secrets: bool) -> dict[str, Any]:
    return {
        "lease_id": lease.lease_id if secrets else None,
        "fence": lease.fence,
        "granted_at": moment(lease.granted_at),
        "expires_at": moment(lease.due),
        "hard_expires_at": moment(lease.hard),
    }
