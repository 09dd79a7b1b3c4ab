"""Admit a job into SQL: write a new row with its charge, or answer a repeated call for an existing row."""

from __future__ import annotations

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.results import AdmitResult, Change
from gate.ledger.sql.pool_rows import Pool
from gate.ledger.transitions import capacity, jobs
from gate.ledger.transitions.outbox import newer, room
from gate.model.job import Job, Lease, Request


def new(
    batch: UnitOfWork,
    pool: Pool,
    request: Request,
    ticket: int,
    at: int,
    lease_ms: int,
    lease: Lease | None,
    given_up: int = 0,
    stood_ms: int = 0,
) -> Job:
    """Write the row of a job and its charge. The job runs under `lease`, or it is queued.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
        request: The job.
        ticket: Its place in order of arrival.
        at: When it came (ms since 1970).
        lease_ms: Length of its leases (ms).
        lease: Its lease; None to queue it.
        given_up: Fence of a grant that goes back to Redis; 0 for none.
        stood_ms: How long its pool had stood still in all (ms).

    Returns:
        The job.
    """
    account = capacity.choose(batch, pool) if lease is not None and pool.accounts else None
    rule = request.cancel_refunds or pool.settings.cancel_refunds
    job = _row(pool.name, request, ticket, at, lease_ms, lease, given_up)
    job = job._replace(stood_ms=stood_ms, account=account, cancel_refunds=rule)
    batch.insert(job)
    if request.credits:
        batch.book(request.job_id, request.user, pool.name, "charge", request.credits, at)
    return job


def copy(batch: UnitOfWork, pool: str, request: Request) -> Job | None:
    """Return the job that the same call was charged for under an alias; None without one.

    Args:
        batch: Has locked the pool's row.
        pool: Name of the pool.
        request: The job.
    """
    if not request.aliases:
        return None
    batch.expect(pool, request.aliases)
    found = (batch.job(pool, alias) for alias in request.aliases)
    return next((job for job in found if job is not None and request.is_copy_of(job)), None)


def again(
    batch: UnitOfWork, pool: Pool, job: Job, request: Request, ticket: int, lease: Lease | None, given_up: int
) -> Change[AdmitResult]:
    """Answer a repeated admission, which may bring the row a newer lease.

    Args:
        batch: Has locked the pool's row.
        pool: The pool.
        job: The job as SQL has it, in any pool.
        request: The job as the caller sent it.
        ticket: Its place in Redis.
        lease: Its lease in Redis; None when it waits there.
        given_up: Fence of a grant that goes back to Redis; 0 for none.

    Returns:
        What became of the admission, with the job.
    """
    if job.pool != pool.name or not request.same_content(job):
        return Change(AdmitResult.REUSED, job)
    if job.ended:
        return Change(AdmitResult.ENDED, job)
    if job.status == "queued" and ticket > job.ticket:
        jobs.seated(batch, job)
    if given_up > job.fence and job.status == "queued":
        batch.put(job, fence=given_up)
    if lease is None or job.lease_id == lease.lease_id:
        return Change(AdmitResult.ADMITTED, job, repeats=True)
    if job.status != "queued":
        return Change(AdmitResult.LIVE, job, repeats=True)
    if not (newer(pool, lease.fence, job.fence) and room(batch, pool)):
        return Change(AdmitResult.NO_ROOM, job)
    return Change(AdmitResult.ADMITTED, jobs.take(batch, job, lease, "running", "caller"), repeats=True)


def _row(pool: str, request: Request, ticket: int, at: int, lease_ms: int, lease: Lease | None, given_up: int) -> Job:
    return Job(
        job_id=request.job_id,
        pool=pool,
        status="running" if lease else "queued",
        user=request.user,
        tool=request.tool,
        session=request.session,
        credits=request.credits or 0,
        payload=request.payload,
        ticket=ticket,
        fence=lease.fence if lease else given_up,
        lease_id=lease.lease_id if lease else None,
        lease_ms=lease_ms,
        enqueued_at=at,
        granted_at=lease.granted_at if lease else None,
        expires_at=lease.due if lease else None,
        hard_expires_at=lease.hard if lease else None,
        starts=request.starts,
        tells=request.tells,
        settles=request.settles,
        queue_ms=request.queue_ms,
        presence_ms=None if request.starts or (request.is_held and lease) else request.presence_ms,
    )
