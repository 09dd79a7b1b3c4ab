"""The client for asyncio: drives the passage of a slot, and the plain calls of version 1."""

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


class AsyncLease(BaseLease):
    """A slot held by an async body. `lost` is set when the lease is, and the body's task is cancelled."""

    def __init__(self, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: asyncio.Event = asyncio.Event()


class AsyncSlot(AbstractAsyncContextManager[AsyncLease]):
    """What `AsyncGate.slot` returns: one job, used once."""

    def __init__(self, gate: AsyncGate, passage: SlotMachine, on_position: AsyncOnPosition | None) -> None:
        self._gate, self._passage, self._on_position = gate, passage, on_position
        self._cut = False

    async def __aenter__(self) -> AsyncLease:
        try:
            await self._gate._drive(self._passage.enter(), self._on_position)
        except BaseException as error:
            await self._gate._to_the_end(self._passage.withdraw(error))
            raise
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._lease = AsyncLease(self._passage)
        self._keeper = asyncio.create_task(self._keep(), name=f"renewing {self._passage.job_id}")
        return self._lease

    async def _keep(self) -> None:
        try:
            loss = await self._gate._drive(self._passage.keep())
        except Exception as error:  # a holder whom nothing renews any more has lost it
            loss = LeaseLost(f"renewing broke off: {error!r}")
        self._passage.loss = loss
        self._lease.lost.set()
        self._cut = True
        self._task.cancel(loss.detail)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.cancel()  # and nothing is awaited before the cancellation below is sorted out
        loss = self._passage.loss
        # Like asyncio.timeout: our own cancellation is taken back, and becomes LeaseLost unless somebody else cancels too.
        nobody_else = self._cut and self._task.uncancel() <= self._cancelling
        ours = nobody_else and isinstance(error, asyncio.CancelledError)
        await self._gate._to_the_end(self._passage.leave(loss if ours else error))
        if ours and loss is not None:
            raise loss from (loss.__cause__ or error)


class AsyncGate:
    """gate at `url`, for asyncio. `timeout`: seconds for one answer, beyond what a call waits in line. `retry_seconds`: for how
    long a call is tried again while gate or its stores do not answer. Every method raises GateError.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, retry_seconds: float = RETRY_S
    ) -> None:
        self._http = httpx2.AsyncClient(**responses.client_options(url, key))
        self._timeout, self._retry_s = timeout, retry_seconds
        self._errands: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections, after what has still to be told was told."""
        try:
            if self._errands:
                await asyncio.wait(self._errands, timeout=GOODBYE_S)
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
        """A slot for the length of an `async with` block.

        `job_id` names the job for good (made here when not given); entering again with that of a live job goes on with it.
        `credits` is what the caller has charged already. `lease_seconds` instead of the pool's. `wait_seconds`: how long to
        wait in line at most, None for as long as the pool lets one wait. `on_position`, a function or a coroutine function,
        is called with (position, queue_length, reason, eta_seconds) at first and when they change.

        Entering raises what gate refuses (UserBusy, QueueFull, JobIdReused, AlreadyEnded …), JobEnded when the job is ended
        while it waits, TimeoutError after `wait_seconds`. A wait that ends by an exception or a cancellation cancels the job.
        Leaving raises LeaseLost, and Refused after `lease.refuse()`; what the body raised goes on as it is.
        """
        passage = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, retry_seconds=self._retry_s,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return AsyncSlot(self, passage, on_position)

    # ---- the calls of version 1, for those who drive it themselves -----------------------------------------------

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
        """`running`: start. `queued`: wait for it with `job`. `granted`: `claim` it first. `wait_seconds`: 0 to 60.

        `started_by="gate"`: gate starts the job by the start call of its tool; `wait_seconds` waits for that; do not claim the job.
        """
        return await self._call(
            requests.acquire(
                pool, job_id=job_id or new_job_id(), user=user, tool=tool, session=session, credits=credits, payload=payload,
                lease_seconds=lease_seconds, wait_seconds=wait_seconds, started_by=started_by,
            )
        )  # fmt: skip

    async def job(self, pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Job:
        """The job. With `wait_seconds` (to 60): as soon as its status is no longer `status`."""
        return await self._call(requests.job(pool, job_id, wait_seconds=wait_seconds, status=status))

    async def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """A granted job has started."""
        return await self._call(requests.claim(pool, job_id, lease_id))

    async def renew(self, pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Job:
        """The holder's heartbeat."""
        return await self._call(requests.renew(pool, job_id, lease_id, lease_seconds=lease_seconds))

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
    ) -> Job:
        """Gives the slot back and says how it went."""
        return await self._call(requests.release(pool, job_id, lease_id, outcome, error=error, output=output))

    async def cancel(self, pool: str, job_id: str, *, reason: str | None = None) -> Job:
        """Ends any job that has not ended."""
        return await self._call(requests.cancel(pool, job_id, reason=reason))

    async def pool(self, pool: str = "default", *, limit: int = 100) -> Pool:
        """The pool now, with at most `limit` holders and waiters."""
        return await self._call(requests.pool(pool, limit=limit))

    async def active(self, user: str) -> Job | None:
        """The user's live job, if any."""
        return await self._call(requests.active(user))

    async def ledger(
        self, *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
    ) -> LedgerPage:
        """Charges and refunds, oldest first, a page at a time."""
        return await self._call(requests.ledger(user=user, job_id=job_id, kind=kind, after=after))

    async def balance(self, user: str) -> Balance:
        """What was charged to a user, and what was given back."""
        return await self._call(requests.balance(user))

    # ---- how it is done ------------------------------------------------------------------------------------------

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
                heard = tell(step.position, step.queue_length, step.reason, step.eta_seconds)
                if inspect.isawaitable(heard):
                    await heard

    async def _to_the_end(self, steps: Steps[None]) -> None:
        """Drives what must not be cut by a cancellation. One that comes is held back for a moment; a second goes on at once, and
        the errand ends behind it, at the latest when the gate is closed.
        """
        errand: asyncio.Task[None] = asyncio.create_task(self._drive(steps))
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        errand.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(errand)
        except asyncio.CancelledError:
            await asyncio.wait({errand}, timeout=GOODBYE_S)
            raise
