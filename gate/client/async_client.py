"""The client for asyncio: it drives the slot machine, and it has the plain calls of version 1."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import stamina

from gate.client import requests, responses
from gate.client.errors import GateError, LeaseLost, Unreachable
from gate.client.lease import BaseLease
from gate.client.models import Balance, Job, LedgerPage, Outcome, Pool, StartedBy, Status
from gate.client.requests import Call
from gate.client.responses import RETRY_S, TIMEOUT_S, Answer
from gate.client.slot_machine import GOODBYE_S, POLL_S, POLL_TO_TELL_S, Ask, Pause, SlotMachine, Steps
from gate.model.job import new_job_id

T = TypeVar("T")
AsyncOnPosition = Callable[[int | None, int | None, str | None, float | None], Awaitable[None] | None]
"""Callback with position, queue_length, reason and eta_seconds of a waiter. It is a function or a coroutine function."""


class AsyncLease(BaseLease):
    """The lease of an async body.

    Attributes:
        lost: Set when the lease is lost. The task of the body is cancelled then.
    """

    def __init__(self, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: asyncio.Event = asyncio.Event()


class AsyncSlot(AbstractAsyncContextManager[AsyncLease]):
    """Context manager that `AsyncGate.slot` returns. It is for one job, and for one use."""

    def __init__(self, gate: AsyncGate, passage: SlotMachine, on_position: AsyncOnPosition | None) -> None:
        self._gate, self._machine, self._on_position = gate, passage, on_position
        self._body_cancelled = False

    async def __aenter__(self) -> AsyncLease:
        try:
            await self._gate._drive(self._machine.enter(), self._on_position)
        except BaseException as error:
            await self._gate._drive_to_end(self._machine.withdraw(error))
            raise
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._lease = AsyncLease(self._machine)
        self._renewal = asyncio.create_task(self._keep(), name=f"renewing {self._machine.job_id}")
        return self._lease

    async def _keep(self) -> None:
        try:
            loss = await self._gate._drive(self._machine.keep())
        except Exception as error:  # without renewals the lease runs out, so count it as lost now
            loss = LeaseLost(f"renewing broke off: {error!r}")
        self._machine.loss = loss
        self._lease.lost.set()
        self._body_cancelled = True
        self._task.cancel(loss.detail)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.cancel()  # no await from here to `uncancel`, or the renewal could cancel the body in between
        loss = self._machine.loss
        # As in asyncio.timeout: take the slot's own cancellation back. It becomes LeaseLost unless there is another.
        no_other = self._body_cancelled and self._task.uncancel() <= self._cancelling
        ours = no_other and isinstance(error, asyncio.CancelledError)
        await self._gate._drive_to_end(self._machine.leave(loss if ours else error))
        if ours and loss is not None:
            raise loss from (loss.__cause__ or error)


class AsyncGate:
    """Client of one gate server, for asyncio.

    Every method raises GateError: a subclass names what gate refused, or StoreDown or Unreachable when no answer came.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, retry_seconds: float = RETRY_S
    ) -> None:
        """Prepare a client; its first call opens a connection.

        Args:
            url: Address of gate, such as `http://127.0.0.1:8000`.
            key: Key of gate; None while gate has no keys.
            timeout: Time (s) for one response, in addition to the time that the call waits in the queue.
            retry_seconds: Time (s) for which a call is retried while gate or its stores do not answer.
        """
        self._http = httpx2.AsyncClient(**responses.client_options(url, key))
        self._timeout, self._retry_s = timeout, retry_seconds
        self._last_calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Releases and cancellations in flight have GOODBYE_S seconds to end first."""
        try:
            if self._last_calls:
                await asyncio.wait(self._last_calls, timeout=GOODBYE_S)
        finally:
            await self._http.aclose()

    def slot(
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
        on_position: AsyncOnPosition | None = None,
    ) -> AsyncSlot:
        """Return a slot for an `async with` block, which waits for it on entry and releases it at its end.

        A wait that ends by an exception or a cancellation cancels the job. An exception of the body passes through the block.

        Args:
            pool: Name of the pool.
            job_id: Permanent id of the job; None for a new one. The id of a live job continues that job.
            user: User of the job; None for no user.
            tool: Tool of the job; None for no tool.
            session: Session of the user; None for no session.
            credits: Credits that the caller has charged already; None when it names none.
            payload: JSON object that gate keeps with the job, for the holder.
            lease_seconds: Length of the lease (s); None for the pool's.
            wait_seconds: Longest wait in the queue (s); None for the pool's limit.
            on_position: Called with (position, queue_length, reason, eta_seconds), first and when one changes.

        Returns:
            A context manager. Entering it gives the lease.

        Raises:
            UserBusy: On entry: the user has as many live jobs as allowed.
            QueueFull: On entry: as many jobs wait as the pool allows.
            JobIdReused: On entry: the job_id belongs to another job.
            AlreadyEnded: On entry: the job has ended.
            JobEnded: On entry: the job was cancelled or expired while it waited.
            TimeoutError: On entry: the job still waits after `wait_seconds`.
            LeaseLost: On exit: the lease is lost.
            Refused: On exit: the body called `lease.refuse()`.
        """
        machine = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, retry_seconds=self._retry_s,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return AsyncSlot(self, machine, on_position)

    # ---- the calls of version 1, for callers that need more than `slot` ------------------------------------------

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
        started_by: StartedBy | None = None,
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
            started_by: `gate` when gate starts the job by the start call of its tool. `wait_seconds` then includes that call,
                and no caller may claim the job.

        Returns:
            The job. When it is `running`, begin the work. When it is `granted`, call `claim` first. When it is `queued`, wait
            for it with `job`.

        Raises:
            GateError: gate refuses the job, or does not answer.
        """
        return await self._call(
            requests.acquire(
                pool, job_id=job_id or new_job_id(), user=user, tool=tool, session=session, credits=credits, payload=payload,
                lease_seconds=lease_seconds, wait_seconds=wait_seconds, started_by=started_by,
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

    async def _call(self, call: Call[T]) -> T:
        return (await self._ask(call, call.waits + self._retry_s)).value

    async def _ask(self, call: Call[T], within: float, once: bool = False) -> Answer[T]:
        first = time.monotonic()
        last: GateError | None = None
        try:
            async with asyncio.timeout(within):
                async for attempt in stamina.retry_context(**responses.patience(within, once)):
                    with attempt:
                        try:
                            return await self._try(call, first, first + within)
                        except GateError as error:
                            last = error
                            raise
        except TimeoutError as error:
            raise last or Unreachable(f"gate did not answer within {within:.1f} s") from error
        raise AssertionError("a retry ends with an answer or an error")

    async def _try(self, call: Call[T], first: float, end: float) -> Answer[T]:
        sent = time.monotonic()
        try:
            response = await self._http.request(
                call.method, call.path, content=call.body, params=call.params,
                timeout=responses.try_seconds(call, self._timeout, end),
            )  # fmt: skip
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise responses.unanswered(error) from error
        return responses.read(call, response, first, sent)

    async def _drive(self, steps: Steps[T], tell: AsyncOnPosition | None = None) -> T:
        move: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                step = move()
            except StopIteration as end:
                result: T = end.value
                return result
            move = partial(next, steps)
            if isinstance(step, Ask):
                try:
                    move = partial(steps.send, await self._ask(step.call, step.within, step.once))
                except GateError as refused:
                    move = partial(steps.throw, refused)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif tell is not None:
                result_of_tell = tell(step.position, step.queue_length, step.reason, step.eta_seconds)
                if inspect.isawaitable(result_of_tell):
                    await result_of_tell

    async def _drive_to_end(self, steps: Steps[None]) -> None:
        """Drive steps that a cancellation must not interrupt, such as a release.

        A cancellation is delayed for GOODBYE_S seconds at most. A second one is raised at once. The steps then go on in the
        background, and `aclose` waits for them.
        """
        last_call: asyncio.Task[None] = asyncio.create_task(self._drive(steps))
        self._last_calls.add(last_call)
        last_call.add_done_callback(self._last_calls.discard)
        # Reads the exception, so that asyncio does not log an error that no caller waits for any more.
        last_call.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(last_call)
        except asyncio.CancelledError:
            await asyncio.wait({last_call}, timeout=GOODBYE_S)
            raise
