"""The client for threads: the same as `gate.client.aio`, with a thread for each lease that renews it."""

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
    """Nobody wants the answer any more."""


class Lease(BaseLease):
    """A slot held by a body in a thread. `lost` is set when the lease is; nothing interrupts the body, so it looks there, or
    calls `check()`, wherever it can stop.
    """

    def __init__(self, passage: SlotMachine) -> None:
        super().__init__(passage)
        self.lost: threading.Event = threading.Event()


class Slot(AbstractContextManager[Lease]):
    """What `Gate.slot` returns: one job, used once."""

    def __init__(self, gate: Gate, passage: SlotMachine, on_position: OnPosition | None) -> None:
        self._gate, self._passage, self._on_position = gate, passage, on_position
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Lease:
        try:
            self._gate._drive(self._passage.enter(), self._on_position)
        except BaseException as error:
            self._gate._drive(self._passage.withdraw(error))
            raise
        self._lease = Lease(self._passage)
        self._keeper = threading.Thread(target=self._keep, name=f"renewing {self._passage.job_id}", daemon=True)
        self._keeper.start()
        return self._lease

    def _keep(self) -> None:
        try:
            loss = self._gate._drive(self._passage.keep(), over=self._over)
        except _Stopped:
            return
        except Exception as error:  # a holder whom nothing renews any more has lost it
            loss = LeaseLost(f"renewing broke off: {error!r}")
        with self._lock:  # what comes after the body's end is no loss
            if not self._over.is_set():
                self._passage.loss = loss
                self._lease.lost.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over.set()
        try:
            self._gate._drive(self._passage.leave(error))
        finally:
            self._keeper.join(GOODBYE_S)  # the end of the job ends its watch


class Gate:
    """gate at `url`, for threads; one may be shared by many. Arguments and methods are those of `AsyncGate`, without `await`."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_S, retry_seconds: float = RETRY_S
    ) -> None:
        self._http = httpx2.Client(**responses.client_options(url, key))
        self._timeout, self._retry_s = timeout, retry_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
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
        """A slot for the length of a `with` block: see `AsyncGate.slot`. A lost lease does not interrupt the body; LeaseLost comes
        out of `lease.check()`, and out of the block unless gate takes its outcome all the same.
        """
        passage = SlotMachine(
            pool, job_id=job_id, user=user, tool=tool, session=session, credits=credits, payload=payload,
            lease_seconds=lease_seconds, wait_seconds=wait_seconds, retry_seconds=self._retry_s,
            poll_seconds=POLL_S if on_position is None else POLL_TO_TELL_S,
        )  # fmt: skip
        return Slot(self, passage, on_position)

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
        return self._call(
            requests.acquire(
                pool, job_id=job_id or new_job_id(), user=user, tool=tool, session=session, credits=credits, payload=payload,
                lease_seconds=lease_seconds, wait_seconds=wait_seconds, started_by=started_by,
            )
        )  # fmt: skip

    def job(self, pool: str, job_id: str, *, wait_seconds: float = 0, status: Status = "queued") -> Job:
        return self._call(requests.job(pool, job_id, wait_seconds=wait_seconds, status=status))

    def claim(self, pool: str, job_id: str, lease_id: str) -> Job:
        return self._call(requests.claim(pool, job_id, lease_id))

    def renew(self, pool: str, job_id: str, lease_id: str, *, lease_seconds: float | None = None) -> Job:
        return self._call(requests.renew(pool, job_id, lease_id, lease_seconds=lease_seconds))

    def release(
        self, pool: str, job_id: str, lease_id: str, outcome: Outcome, *, error: str | None = None, output: Any = None
    ) -> Job:
        return self._call(requests.release(pool, job_id, lease_id, outcome, error=error, output=output))

    def cancel(self, pool: str, job_id: str, *, reason: str | None = None) -> Job:
        return self._call(requests.cancel(pool, job_id, reason=reason))

    def pool(self, pool: str = "default", *, limit: int = 100) -> Pool:
        return self._call(requests.pool(pool, limit=limit))

    def active(self, user: str) -> Job | None:
        return self._call(requests.active(user))

    def ledger(
        self, *, user: str | None = None, job_id: str | None = None, kind: str | None = None, after: int | None = None
    ) -> LedgerPage:
        return self._call(requests.ledger(user=user, job_id=job_id, kind=kind, after=after))

    def balance(self, user: str) -> Balance:
        return self._call(requests.balance(user))

    # ---- how it is done ------------------------------------------------------------------------------------------

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
        """`over`: raises _Stopped as soon as possible after it is set."""
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
