"""The client for asyncio: it drives the slot machine, and it has the plain calls of version 1."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import stamina

from gate.client import responses
from gate.client.async_calls import AsyncCalls
from gate.client.compat import cancelling, uncancel
from gate.client.errors import Closed, GateError, LeaseLost, Unreachable
from gate.client.lease import CLOSED, BaseLease
from gate.client.open_slots import OPEN, heed_sigterm
from gate.client.requests import Call
from gate.client.responses import Answer
from gate.client.slot_machine import GOODBYE_S, LEASE_S, POLL_S, POLL_TO_TELL_S, SlotMachine
from gate.client.steps import Ask, Pause, Steps

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
AsyncOnPosition = Callable[[int | None, int | None, str | None, float | None], Awaitable[None] | None]
"""Callback with position, queue_length, reason and eta_seconds of a waiter. It is a function or a coroutine function."""


class AsyncLease(BaseLease):
    """The lease of an async body.

    Attributes:
        lost: Set when the lease is lost. The task of the body is cancelled then.
    """

    def __init__(self, gate: AsyncGate, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: asyncio.Event = asyncio.Event()
        self._gate = gate

    async def bind_task(self, provider: str, task_id: str, *, account: str | None = None) -> None:
        """Bind the job to its task at a provider, whose callback may then end the job. See `AsyncGate.bind_task`."""
        await self._gate._drive(self._machine.bind_task(provider, task_id, account))


class AsyncSlot(AbstractAsyncContextManager[AsyncLease, None]):
    """Context manager that `AsyncGate.slot` returns. It is for one job, and for one use."""

    def __init__(self, gate: AsyncGate, passage: SlotMachine, on_position: AsyncOnPosition | None) -> None:
        self._gate, self._machine, self._on_position = gate, passage, on_position
        self._body_cancelled = False
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncLease:
        task = asyncio.current_task()
        assert task is not None
        self._gate._check_open()
        self._task, self._cancelling, self._lease = task, cancelling(task), AsyncLease(self._gate, self._machine)
        self._process, self._left = os.getpid(), asyncio.get_running_loop().create_future()
        OPEN.add(self)
        heed_sigterm()
        try:
            await self._gate._drive(self._machine.enter(), self._on_position)
        except BaseException as error:
            if self._leaves():
                await self._gate._drive_to_end(partial(self._machine.withdraw, error))
            raise
        self._cancelling = cancelling(task)
        self._renewal = asyncio.create_task(self._keep(), name=f"renewing {self._machine.job_id}")
        return self._lease

    async def _keep(self) -> None:
        try:
            loss = await self._gate._drive(self._machine.keep())
        except Exception as error:  # without renewals the lease runs out, so count it as lost now
            loss = LeaseLost(f"renewing broke off: {error!r}")
        self._machine.loss = self._machine.loss or loss
        self._lease.lost.set()
        self._body_cancelled = True
        self._task.cancel(loss.detail)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewal is not None:
            self._renewal.cancel()  # no await from here to `uncancel`, or the renewal could cancel the body in between
        loss = self._machine.loss
        # As in asyncio.timeout: take the slot's own cancellation back. It becomes LeaseLost unless there is another.
        no_other = self._body_cancelled and uncancel(self._task) <= self._cancelling
        ours = no_other and isinstance(error, asyncio.CancelledError)
        if self._leaves():
            end = loss if ours else error
            await self._gate._drive_to_end(partial(self._machine.leave, end))
        elif error is None and self._process == os.getpid():
            raise loss or LeaseLost(CLOSED)
        if ours and loss is not None:
            raise loss from (loss.__cause__ or error)

    def _leaves(self) -> bool:
        """Note that the slot is being released. False when that is not for this call: it is done, or the parent's to do."""
        if self not in OPEN:
            return False
        OPEN.discard(self)
        if self._renewal is not None:
            self._renewal.cancel()
        self._left.set_result(None)
        return True

    def _stop(self) -> None:
        """Let the body end, because the client is being closed. It may be the body that closes it."""
        self._machine.stop(CLOSED)
        self._lease.lost.set()
        if self._task is not asyncio.current_task():
            self._task.cancel(CLOSED)

    async def _give_back(self) -> None:
        """Release the slot in place of its body."""
        if self._leaves():
            await self._gate._drive_to_end(partial(self._machine.give_back, asyncio.CancelledError(CLOSED)))

    def give_back_at_exit(self) -> None:
        """Nothing: the event loop has ended, and has cancelled its tasks."""


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
        """End the open slots, and close the connections.

        The bodies of open slots are cancelled, and so are the waits. They have GOODBYE_S seconds to release their slots by
        themselves; then the slots are released all the same. Releases in flight have GOODBYE_S seconds too.
        """
        self._closing = True
        try:
            await self._end_open_slots()
            if self._last_calls:
                await asyncio.wait(self._last_calls, timeout=GOODBYE_S)
        finally:
            self._closed = True
            if self._process == os.getpid():
                await self._http.aclose()

    async def _end_open_slots(self) -> None:
        slots = [slot for slot in list(OPEN) if isinstance(slot, AsyncSlot) and slot._gate is self]
        for slot in slots:
            slot._stop()
        others = [slot._left for slot in slots if slot._task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=GOODBYE_S)
        for slot in slots:
            await slot._give_back()

    def _check_open(self) -> None:
        if self._closing:
            raise Closed("the client is closed")

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
        lease_seconds: float | None = LEASE_S,
        wait_seconds: float | None = None,
        presence_seconds: float | None = None,
        on_position: AsyncOnPosition | None = None,
        queue_seconds: float | None = None,
        max_eta_seconds: float | None = None,
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
            lease_seconds: Length of the lease (s), which is renewed until the block ends; None for the pool's. A worker that
                dies keeps its slot for no longer than this.
            wait_seconds: Longest wait in the queue (s); None for the pool's limit.
            presence_seconds: Time (s) without a call of this slot after which others pass it in the queue, so that a process that
                was killed holds up no other; None for no such time. The calls that wait are enough to be present.
            on_position: Called with (position, queue_length, reason, eta_seconds), first and when one changes.
            queue_seconds: How long gate lets the job wait (s); None for the tool's or the pool's time.
            max_eta_seconds: Longest estimated wait (s) with which gate shall admit the job; None for any.

        Returns:
            A context manager. Entering it gives the lease.

        Raises:
            Invalid: `wait_seconds` is negative or not finite, or `payload` is no JSON.
            UserBusy: On entry: the user has as many live jobs as allowed.
            QueueFull: On entry: as many jobs wait as the pool allows.
            TooLong: On entry: the estimated wait is above `max_eta_seconds`.
            JobIdReused: On entry: the job_id belongs to another job.
            AlreadyEnded: On entry: the job has ended.
            JobEnded: On entry: the job was cancelled or expired while it waited.
            WaitTimeout: On entry, and a TimeoutError too: the job still waits after `wait_seconds`.
            LeaseLost: On exit: the lease is lost.
            Refused: On exit: the body called `lease.refuse()`.
        """
        machine = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, presence_seconds=presence_seconds, retry_seconds=self._retry_s,
            queue_seconds=queue_seconds, max_eta_seconds=max_eta_seconds,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return AsyncSlot(self, machine, on_position)

    # ---- retries, and the steps of a slot ------------------------------------------------------------------------

    async def _ask(self, call: Call[T], within: float, once: bool = False) -> Answer[T]:
        errors: list[GateError] = []
        tries = asyncio.ensure_future(self._tries(call, within, once, errors))
        # Reads the exception, so that asyncio does not log an error that no caller waits for any more.
        tries.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({tries}, timeout=within)  # not asyncio.timeout, which Python 3.10 lacks
        finally:
            answered = tries.done()
            if not answered:
                tries.cancel()
                await asyncio.wait({tries})
        if answered:
            return tries.result()
        raise errors[-1] if errors else Unreachable(f"gate did not answer within {within:.1f} s")

    async def _tries(self, call: Call[T], within: float, once: bool, errors: list[GateError]) -> Answer[T]:
        first = time.monotonic()
        async for attempt in stamina.retry_context(**responses.patience(within, once)):
            with attempt:
                try:
                    return await self._try(call, first, first + within)
                except GateError as error:
                    errors.append(error)
                    raise
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

    async def _drive_to_end(self, steps: Callable[[], Steps[None]]) -> None:
        """Drive steps that a cancellation must not interrupt, such as a release.

        A cancellation is delayed for GOODBYE_S seconds at most. A second one is raised at once. The steps then go on in the
        background, and `aclose` waits for them. When they were cancelled themselves, because the loop ends, they begin anew.
        """
        last_call = self._begin_last_call(steps())
        try:
            await asyncio.shield(last_call)
        except asyncio.CancelledError:
            await asyncio.wait({last_call}, timeout=GOODBYE_S)
            if last_call.cancelled():
                await asyncio.wait({self._begin_last_call(steps())}, timeout=GOODBYE_S)
            raise

    def _begin_last_call(self, steps: Steps[None]) -> asyncio.Task[None]:
        last_call: asyncio.Task[None] = asyncio.create_task(self._drive(steps))
        self._last_calls.add(last_call)
        last_call.add_done_callback(self._last_calls.discard)
        # Reads the exception, so that asyncio does not log an error that no caller waits for any more.
        last_call.add_done_callback(lambda done: done.cancelled() or done.exception())
        return last_call
