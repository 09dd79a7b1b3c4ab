"""The client for asyncio: it drives the slot machine, and it has the plain calls of version 1."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

import stamina

from gate.client import responses
from gate.client.async_calls import AsyncCalls
from gate.client.errors import GateError, LeaseLost, Unreachable
from gate.client.lease import BaseLease
from gate.client.requests import Call
from gate.client.responses import Answer
from gate.client.slot_machine import GOODBYE_S, POLL_S, POLL_TO_TELL_S, Ask, Pause, SlotMachine, Steps

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


class AsyncGate(AsyncCalls):
    """Client of one gate server, for asyncio.

    Every method raises GateError: a subclass names what gate refused, or StoreDown or Unreachable when no answer came.
    """

    @cached_property
    def _last_calls(self) -> set[asyncio.Task[None]]:
        """Releases and cancellations under way, which `aclose` waits for."""
        return set()

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
        presence_seconds: float | None = None,
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
            presence_seconds: Time (s) without a call of this slot after which others pass it in the queue, so that a process that
                was killed holds up no other; None for no such time. The calls that wait are enough to be present.
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
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, presence_seconds=presence_seconds, retry_seconds=self._retry_s,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return AsyncSlot(self, machine, on_position)

    # ---- retries, and the steps of a slot ------------------------------------------------------------------------

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
