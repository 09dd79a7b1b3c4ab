"""The plain calls of version 1, for asyncio. Those for threads, `sync_calls.py`, are generated from this module."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

from gate.client import requests, responses
from gate.client.errors import Closed
from gate.client.models import Balance, Job, LedgerPage, Outcome, Pool, StartedBy, Status
from gate.client.open_slots import heed_sigterm
from gate.client.requests import Call, new_job_id
from gate.client.responses import RETRY_S, TIMEOUT_S, Answer

T = TypeVar("T")


class AsyncCalls(ABC):
    """Calls of one gate server.

    Every method raises GateError: a subclass names what gate refused, or StoreDown or Unreachable when no answer came.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retry_seconds: float = RETRY_S,
    ) -> None:
        """Prepare a client; its first call opens a connection.

        Args:
            url: Address of gate, such as `http://127.0.0.1:8000`. A function that returns it is called before each request, for
                a gate that may come back at another address.
            key: Key of gate; None while gate has no keys.
            timeout: Time (s) for one response, in addition to the time that the call waits in the queue.
            retry_seconds: Time (s) for which a call is retried while gate or its stores do not answer.
        """
        self._url = url if callable(url) else None
        self._options = responses.client_options("" if callable(url) else url, key)
        self._http = httpx2.AsyncClient(**self._options)
        self._process = os.getpid()
        self._closing = self._closed = False
        heed_sigterm()
        self._timeout, self._retry_s = timeout, retry_seconds

    async def acquire(
        self,
        pool: str = "default",
        *,
        job_id: str | None = None,
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
    ) -> Job:
        """Ask for a slot, without a block that renews and releases it.

        Args:
            pool: Name of the pool.
            job_id: As in `slot`; also `user`, `tool`, `session`, `credits`, `payload` and `lease_seconds`.
            user: See `slot`.
            tool: See `slot`.
            session: See `slot`.
            credits: See `slot`.
            payload: See `slot`.
            lease_seconds: See `slot`.
            wait_seconds: Time (s) to wait for the grant, 0 to 60; None is 0.
            presence_seconds: See `slot`. Ask for the job with `job` while it waits.
            started_by: `gate` when gate starts the job by the start call of its tool. `wait_seconds` then includes that call,
                and no caller may claim the job.
            queue_seconds: See `slot`.
            max_eta_seconds: See `slot`.

        Returns:
            The job. When it is `running`, begin the work, unless it is `replayed`: an earlier call has got this answer already.
            When it is `granted`, call `claim` first. When it is `queued`, wait for it with `job`. When it has ended, it ended
            during this call, and gate has settled its charge.

        Raises:
            GateError: gate refuses the job, or does not answer.
        """
        return await self._call(
            requests.acquire(
                pool, job_id=job_id or new_job_id(), user=user, tool=tool, session=session, credits=credits, payload=payload,
                lease_seconds=lease_seconds, wait_seconds=wait_seconds, presence_seconds=presence_seconds, started_by=started_by,
                queue_seconds=queue_seconds, max_eta_seconds=max_eta_seconds,
            )
        )  # fmt: skip

    async def job(self, pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Job:
        """Read a job.

        Args:
            pool: Name of the pool.
            job_id: The job.
            wait_seconds: Time (s) to wait for another status than `status`, 0 to 60.
            status: Status that the caller knows.

        Raises:
            JobUnknown: The pool has no such job.
        """
        return await self._call(requests.job(pool, job_id, wait_seconds=wait_seconds, status=status))

    async def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """Confirm that a granted job has started, which gives it a full lease.

        Raises:
            LeaseLost: The lease is not, or no longer, a lease of this job.
            StartedByGate: gate starts this job, so no caller may claim it.
        """
        return await self._call(requests.claim(pool, job_id, lease_id))

    async def renew(self, pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Job:
        """Extend a lease: the heartbeat of a holder.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: Its lease.
            lease_seconds: New length of the lease (s), from now on; None for the job's.

        Raises:
            LeaseLost: The lease is not, or no longer, a lease of this job.
        """
        return await self._call(requests.renew(pool, job_id, lease_id, lease_seconds=lease_seconds))

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
    ) -> Job:
        """Give the slot back and report the outcome.

        Args:
            pool: Name of the pool.
            job_id: The job.
            lease_id: Its lease.
            outcome: Outcome. With `refused` the job returns to its place in the queue.
            error: Reason for an outcome that is no success.
            output: Result as JSON, at most 64 KiB.

        Raises:
            LeaseLost: The lease is not, or no longer, a lease of this job.
            AlreadyEnded: The job has ended with another outcome.
        """
        return await self._call(requests.release(pool, job_id, lease_id, outcome, error=error, output=output))

    async def bind_task(
        self, pool: str, job_id: str, provider: str, task_id: str, *, lease_id: str | None = None, account: str | None = None
    ) -> Job:
        """Bind a job to its task at a provider, whose callback then ends the job. This also claims a granted job.

        Args:
            pool: Name of the pool.
            job_id: The job.
            provider: Name of the provider, as in gate's settings.
            task_id: Id of the task at the provider.
            lease_id: Lease under which the task runs; None for the present one.
            account: Name of the provider's account on which it runs; None for the one that gate chose with the grant.

        Raises:
            Invalid: The pool has no such account of the provider.
            TaskTaken: The task belongs to another job.
            LeaseLost: The lease is not, or no longer, a lease of this job.
            AlreadyEnded: The job has ended.
            StartedByGate: gate starts this job, so no caller may bind it.
        """
        call = requests.bind_task(pool, job_id, provider, task_id, lease_id=lease_id, account=account)
        return await self._call(call)

    async def cancel(self, pool: str, job_id: str, *, reason: str | None = None) -> Job:
        """Cancel a job that waits or runs.

        Args:
            pool: Name of the pool.
            job_id: The job.
            reason: Reason that gate records; None for none.

        Raises:
            AlreadyEnded: The job has ended with another outcome.
        """
        return await self._call(requests.cancel(pool, job_id, reason=reason))

    async def pool(self, pool: str = "default", *, limit: int = 100) -> Pool:
        """Read the state of a pool.

        Args:
            pool: Name of the pool.
            limit: How many holders and how many waiters are returned at most.

        Raises:
            PoolUnknown: There is no such pool.
        """
        return await self._call(requests.pool(pool, limit=limit))

    async def active(self, user: str) -> Job | None:
        """Read the live job of a user; None when the user has none."""
        return await self._call(requests.active(user))

    async def ledger(
        self, *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
    ) -> LedgerPage:
        """Read a page of charges and refunds, oldest first.

        Args:
            user: Only lines of this user; None for all.
            job_id: Only lines of this job; None for all.
            kind: `charge` or `refund`; None for both.
            after: `next` of the page before; None for the first page.
        """
        return await self._call(requests.ledger(user=user, job_id=job_id, kind=kind, after=after))

    async def balance(self, user: str) -> Balance:
        """Read the sums of charges and refunds of a user."""
        return await self._call(requests.balance(user))

    # ---- requests and retries ------------------------------------------------------------------------------------

    @abstractmethod
    async def _ask(self, call: Call[T], within: float, once: bool = False) -> Answer[T]:
        """Make a call, again while gate or its stores do not answer, for `within` (s) at most."""

    async def _call(self, call: Call[T]) -> T:
        return (await self._ask(call, call.waits + self._retry_s)).value

    def _use_own_connections(self) -> None:
        """Open connections of this process. On those of the parent, a child would read the answers of others."""
        self._of_parent = self._http  # kept: what closes them could say so to the server, on the parent's connection
        self._http = httpx2.AsyncClient(**self._options)
        self._process = os.getpid()

    async def _try(self, call: Call[T], first: float, end: float) -> Answer[T]:
        if self._closed:
            raise Closed("the client is closed")
        if self._process != os.getpid():
            self._use_own_connections()
        sent = time.monotonic()
        try:
            response = await self._http.request(
                call.method, responses.address(self._url, call), content=call.body, params=call.params,
                timeout=responses.try_seconds(call, self._timeout, end),
            )  # fmt: skip
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise responses.unanswered(error) from error
        return responses.read(call, response, first, sent)
