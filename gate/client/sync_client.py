"""The client for threads. It works as `gate.client.async_client` does, with a thread for each lease that renews it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import stamina

from gate.client import responses
from gate.client.errors import Closed, GateError, LeaseLost
from gate.client.lease import CLOSED, BaseLease, OnPosition
from gate.client.open_slots import OPEN, heed_sigterm
from gate.client.requests import Call
from gate.client.responses import Answer
from gate.client.slot_machine import GOODBYE_S, LEASE_S, POLL_S, POLL_TO_TELL_S, SlotMachine
from gate.client.steps import Ask, Pause, Steps
from gate.client.sync_calls import Calls

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class _Stopped(BaseException):
    """The body has ended, so the renewal thread must stop."""


class Lease(BaseLease):
    """The lease of a body in a thread.

    Attributes:
        lost: Set when the lease is lost. Nothing interrupts the body, so it must check this where it can stop.
    """

    def __init__(self, gate: Gate, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: threading.Event = threading.Event()
        self._gate = gate

    def bind_task(self, provider: str, task_id: str, *, account: str | None = None) -> None:
        """Bind the job to its task at a provider, whose callback may then end the job. See `AsyncGate.bind_task`."""
        self._gate._drive(self._machine.bind_task(provider, task_id, account))


class Slot(AbstractContextManager[Lease, None]):
    """Context manager that `Gate.slot` returns. It is for one job, and for one use."""

    def __init__(self, gate: Gate, passage: SlotMachine, on_position: OnPosition | None) -> None:
        self._gate, self._machine, self._on_position = gate, passage, on_position
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._left = threading.Event()
        self._renewal: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self._gate._check_open()
        self._thread, self._process, self._lease = threading.current_thread(), os.getpid(), Lease(self._gate, self._machine)
        OPEN.add(self)
        heed_sigterm()
        try:
            self._gate._drive(self._machine.enter(), self._on_position)
        except BaseException as error:
            if self._leaves():
                self._last_call(self._machine.withdraw(error))
            raise
        self._renewal = threading.Thread(target=self._keep, name=f"renewing {self._machine.job_id}", daemon=True)
        self._renewal.start()
        return self._lease

    def _keep(self) -> None:
        try:
            loss = self._gate._drive(self._machine.keep(), over=self._over)
        except _Stopped:
            return
        except Exception as error:  # without renewals the lease runs out, so count it as lost now
            loss = LeaseLost(f"renewing broke off: {error!r}")
        with self._lock:  # after the end of the body there is no lease to lose
            if not self._over.is_set():
                self._machine.loss = self._machine.loss or loss
                self._lease.lost.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._leaves():
            if error is None and self._process == os.getpid():
                raise self._machine.loss or LeaseLost(CLOSED)
            return
        try:
            self._last_call(self._machine.leave(error))
        except (SystemExit, KeyboardInterrupt) as cut:  # a signal, in the middle of the release
            self._last_call(self._machine.leave(cut))
            raise
        finally:
            if self._renewal is not None:
                self._renewal.join(GOODBYE_S)  # its long poll returns when the job ends, so this is quick as a rule

    def _leaves(self) -> bool:
        """Note that the slot is being released. False when that is not for this call: it is done, or the parent's to do."""
        if self._process != os.getpid():  # guard: slot-of-the-parent
            return False
        with self._lock:
            first = not self._over.is_set()
            self._over.set()
        return first

    def _last_call(self, steps: Steps[None]) -> None:
        try:
            self._gate._drive(steps)
        finally:
            OPEN.discard(self)
            self._left.set()

    def _stop(self) -> None:
        """Tell the body to end, because the client is being closed."""
        with self._lock:
            if not self._over.is_set():
                self._machine.stop(CLOSED)
                self._lease.lost.set()

    def _give_back(self) -> None:
        """Release the slot in place of its body. An error goes no further: the lease then runs out."""
        if self._leaves():
            with contextlib.suppress(GateError):
                self._last_call(self._machine.give_back(SystemExit(CLOSED)))

    def give_back_at_exit(self) -> None:
        """Release the slot, when the interpreter ends."""
        self._stop()
        self._give_back()


class Gate(Calls):
    """Client of one gate server, for threads. Several threads may share it.

    Its methods have the arguments, results and errors of those of `AsyncGate`, without `await`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the open slots, and close the connections.

        `lease.lost` is set in the bodies of open slots, and `lease.check()` raises. They have GOODBYE_S seconds to end by
        themselves; then their slots are released all the same, as `cancelled`. Waits in the queue are cancelled at once.
        """
        self._closing = True
        slots = [slot for slot in list(OPEN) if isinstance(slot, Slot) and slot._gate is self]
        for slot in slots:
            slot._stop()
        self._wait_for([slot._over for slot in slots if slot._renewal and slot._thread is not threading.current_thread()])
        for slot in slots:
            slot._give_back()
        self._wait_for([slot._left for slot in slots])
        self._closed = True
        if self._process == os.getpid():
            self._http.close()

    def _wait_for(self, events: list[threading.Event]) -> None:
        end = time.monotonic() + GOODBYE_S
        for event in events:
            event.wait(max(end - time.monotonic(), 0))

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
        on_position: OnPosition | None = None,
        queue_seconds: float | None = None,
        max_eta_seconds: float | None = None,
    ) -> Slot:
        """Return a slot for a `with` block. Arguments and errors are those of `AsyncGate.slot`.

        A lost lease does not interrupt the body. `lease.check()` raises LeaseLost, and so does the end of the block, unless
        gate accepts the outcome all the same.
        """
        machine = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, presence_seconds=presence_seconds, retry_seconds=self._retry_s,
            queue_seconds=queue_seconds, max_eta_seconds=max_eta_seconds,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return Slot(self, machine, on_position)

    # ---- retries, and the steps of a slot ------------------------------------------------------------------------

    def _ask(self, call: Call[T], within: float, once: bool = False) -> Answer[T]:
        first = time.monotonic()
        for attempt in stamina.retry_context(**responses.patience(within, once)):
            with attempt:
                return self._try(call, first, first + within)
        raise AssertionError("a retry ends with an answer or an error")

    def _drive(self, steps: Steps[T], tell: OnPosition | None = None, over: threading.Event | None = None) -> T:
        """Drive steps to their end. Raises _Stopped soon after `over` is set."""
        move: Callable[[], Any] = partial(next, steps)
        over = over or threading.Event()
        while True:
            if over.is_set():
                raise _Stopped
            try:
                step = move()
            except StopIteration as end:
                result: T = end.value
                return result
            move = partial(next, steps)
            if isinstance(step, Ask):
                try:
                    move = partial(steps.send, self._ask(step.call, step.within, step.once))
                except GateError as refused:
                    move = partial(steps.throw, refused)
            elif isinstance(step, Pause):
                over.wait(step.seconds)
            elif tell is not None:
                tell(step.position, step.queue_length, step.reason, step.eta_seconds)
