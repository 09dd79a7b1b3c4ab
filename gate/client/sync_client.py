"""The client for threads. It works as `gate.client.async_client` does, with a thread for each lease that renews it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import stamina

from gate.client import requests, responses
from gate.client.errors import GateError, LeaseLost
from gate.client.lease import BaseLease, OnPosition
from gate.client.models import Balance, Job, LedgerPage, Outcome, Pool, StartedBy, Status
from gate.client.requests import Call
from gate.client.responses import RETRY_S, TIMEOUT_S, Answer
from gate.client.slot_machine import GOODBYE_S, POLL_S, POLL_TO_TELL_S, Ask, Pause, SlotMachine, Steps
from gate.model.job import new_job_id

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


class Gate:
    """Client of one gate server, for threads. Several threads may share it.

    Its methods have the arguments, results and errors of those of `AsyncGate`, without `await`.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, retry_seconds: float = RETRY_S
    ) -> None:
        """Prepare a client. The arguments are those of `AsyncGate`."""
        self._http = httpx2.Client(**responses.client_options(url, key))
        self._timeout, self._retry_s = timeout, retry_seconds

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
        on_position: OnPosition | None = None,
    ) -> Slot:
        """Return a slot for a `with` block. Arguments and errors are those of `AsyncGate.slot`.

        A lost lease does not interrupt the body. `lease.check()` raises LeaseLost, and so does the end of the block, unless
        gate accepts the outcome all the same.
        """
        machine = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, retry_seconds=self._retry_s,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return Slot(self, machine, on_position)

    # ---- the calls of version 1, as in AsyncGate -----------------------------------------------------------------

    def acquire(
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
        """Ask for a slot: see `AsyncGate.acquire`."""
        return self._call(
            requests.acquire(
                pool, job_id=job_id or new_job_id(), user=user, tool=tool, session=session, credits=credits, payload=payload,
                lease_seconds=lease_seconds, wait_seconds=wait_seconds, started_by=started_by,
            )
        )  # fmt: skip

    def job(self, pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Job:
        """Read a job: see `AsyncGate.job`."""
        return self._call(requests.job(pool, job_id, wait_seconds=wait_seconds, status=status))

    def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        """Confirm that a granted job has started: see `AsyncGate.claim`."""
        return self._call(requests.claim(pool, job_id, lease_id))

    def renew(self, pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Job:
        """Extend a lease: see `AsyncGate.renew`."""
        return self._call(requests.renew(pool, job_id, lease_id, lease_seconds=lease_seconds))

    def release(
        self, pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
    ) -> Job:
        """Give the slot back and report the outcome: see `AsyncGate.release`."""
        return self._call(requests.release(pool, job_id, lease_id, outcome, error=error, output=output))

    def cancel(self, pool: str, job_id: str, *, reason: str | None = None) -> Job:
        """Cancel a job that waits or runs: see `AsyncGate.cancel`."""
        return self._call(requests.cancel(pool, job_id, reason=reason))

    def pool(self, pool: str = "default", *, limit: int = 100) -> Pool:
        """Read the state of a pool: see `AsyncGate.pool`."""
        return self._call(requests.pool(pool, limit=limit))

    def active(self, user: str) -> Job | None:
        """Read the live job of a user; None when the user has none."""
        return self._call(requests.active(user))

    def ledger(
        self, *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
    ) -> LedgerPage:
        """Read a page of charges and refunds, oldest first: see `AsyncGate.ledger`."""
        return self._call(requests.ledger(user=user, job_id=job_id, kind=kind, after=after))

    def balance(self, user: str) -> Balance:
        """Read the sums of charges and refunds of a user."""
        return self._call(requests.balance(user))

    # ---- requests and retries ------------------------------------------------------------------------------------

    def _call(self, call: Call[T]) -> T:
        return self._ask(call, call.waits + self._retry_s).value

    def _ask(self, call: Call[T], within: float, once: bool = False) -> Answer[T]:
        first = time.monotonic()
        for attempt in stamina.retry_context(**responses.patience(within, once)):
            with attempt:
                return self._try(call, first, first + within)
        raise AssertionError("a retry ends with an answer or an error")

    def _try(self, call: Call[T], first: float, end: float) -> Answer[T]:
        sent = time.monotonic()
        try:
            response = self._http.request(
                call.method, call.path, content=call.body, params=call.params,
                timeout=responses.try_seconds(call, self._timeout, end),
            )  # fmt: skip
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise responses.unanswered(error) from error
        return responses.read(call, response, first, sent)

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
