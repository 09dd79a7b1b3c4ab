"""The JSON that `jobs` holds for a job, written from what SQL says of it (PROTOCOL, Rebuild). The scripts write the same."""

from __future__ import annotations

from typing import Any

from gate.jobs import Job


def waiting(job: Job) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "ticket": str(job.ticket),
        "queued_at": job.enqueued_at,
        "lease_ms": job.lease_ms,
    }
    if job.user is not None:
        entry["user"] = job.user
    if job.tool is not None:
        entry["tool"] = job.tool
    if job.queue_ms is not None:
        entry["queue_ms"] = job.queue_ms
    if job.starts:
        entry["by_gate"] = True
    return entry


def holding(job: Job) -> dict[str, Any]:
    lease = job.lease
    assert lease is not None
    return waiting(job) | {
        "lease_id": lease.lease_id,
        "fence": str(lease.fence),
        "claimed": job.status == "running",
        "granted_at": lease.granted_at,
        "due": lease.due,
        "hard": lease.hard,
    }
