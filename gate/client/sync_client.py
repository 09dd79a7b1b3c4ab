"""The client for threads. It works as `gate.client.async_client` does, with a thread for each lease that renews it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import stamina

from gate.client import responses
from gate.client.errors import GateError, LeaseLost
from gate.client.lease import BaseLease, OnPosition
from gate.client.requests import Call
from gate.client.responses import Answer
from gate.client.slot_machine import GOODBYE_S, POLL_S, POLL_TO_TELL_S, Ask, Pause, SlotMachine, Steps
from gate.client.sync_calls import Calls

T = TypeVar("T")


class _Stopped(BaseException):
    """The body has ended, so the renewal thread must stop."""


class Lease(BaseLease):
    """The lease of a body in a thread.

    Attributes:
        lost: Set when the lease is lost. Nothing interrupts the body, so it must check this where it can stop.
    """

    def __init__(self, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: threading.Event = threading.Event()


class Slot(AbstractContextManager[Lease]):
    """Context manager that `Gate.slot` returns. It is for one job, and for one use."""

    def __init__(self, gate: Gate, passage: SlotMachine, on_position: OnPosition | None) -> None:
        self._gate, self._machine, self._on_position = gate, passage, on_position
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Lease:
        try:
            self._gate._drive(self._machine.enter(), self._on_position)
        except BaseException as error:
            self._gate._drive(self._machine.withdraw(error))
            raise
        self._lease = Lease(self._machine)
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
                self._machine.loss = loss
                self._lease.lost.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over.set()
        try:
            self._gate._drive(self._machine.leave(error))
        finally:
            self._renewal.join(GOODBYE_S)  # its long poll returns when the job ends, so this is quick as a rule


class Gate(Calls):
    """Client of one gate server, for threads. Several threads may share it.

    Its methods have the arguments, results and errors of those of `AsyncGate`, without `await`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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
        on_position: OnPosition | None = None,
    ) -> Slot:
        """Return a slot for a `with` block. Arguments and errors are those of `AsyncGate.slot`.

        A lost lease does not interrupt the body. `lease.check()` raises LeaseLost, and so does the end of the block, unless
        gate accepts the outcome all the same.
        """
        machine = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, presence_seconds=presence_seconds, retry_seconds=self._retry_s,
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
