"""The wait of `gate acquire`: until the job has its slot, or the time is over."""

from __future__ import annotations

import asyncio
import contextlib

from gate.coordination.services import Services
from gate.model.errors import GateError, LeaseLost
from gate.model.job import Job, Request


async def acquired(gate: Services, pool: str, request: Request, wait_s: float, by_gate: bool, is_named: bool) -> Job:
    """Admit a job, wait for its slot, and claim it.

    Args:
        gate: The services of gate.
        pool: Name of the pool.
        request: The job.
        wait_s: Longest wait (s); 0 to wait and claim nothing. The job keeps its place after it.
        by_gate: True for a job that gate starts at its tool.
        is_named: Whether the caller named the job. One that is not named is cancelled when the wait is interrupted, because
            no caller could find it again.

    Returns:
        The job. It may have ended while it waited.

    Raises:
        GateError: As for `Admission.acquire`.
    """
    if by_gate:
        return await gate.admission.acquire(pool, request, wait_s, by_gate=True)
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    try:
        job = await gate.admission.acquire(pool, request, wait_s)
        while wait_s and not job.starts and job.status in ("queued", "granted"):
            if job.lease is not None:
                job = await _claimed(gate, job, job.lease.lease_id)
            elif (left := end - loop.time()) > 0:
                job = await gate.queries.wait(pool, job.job_id, "queued", left)
            else:
                break
    except asyncio.CancelledError:
        if not is_named:
            with contextlib.suppress(GateError):
                await gate.jobs.cancel(pool, request.job_id, "the wait was interrupted")
        raise
    return job


async def _claimed(gate: Services, job: Job, lease_id: str) -> Job:
    """Claim a grant. If it is lost, return the job as it is now."""
    try:
        return await gate.jobs.claim(job.pool, job.job_id, lease_id)
    except LeaseLost:
        return await gate.queries.wait(job.pool, job.job_id, None, 0)
