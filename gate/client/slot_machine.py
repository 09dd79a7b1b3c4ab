"""The state machine of a slot, without I/O: the next call to make, and the meaning of each response.

`enter`, `keep`, `leave` and `withdraw` are generators that yield steps. A driver (`gate.client.async_client` or
`gate.client.sync_client`) executes each step. It sends the response of an `Ask` into the generator, or throws the error into
it. So both clients share their logic, and tests of this module need no server.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gate.client import requests
from gate.client.compat import add_note
from gate.client.errors import (
    AlreadyEnded,
    GateError,
    Invalid,
    JobEnded,
    JobUnknown,
    LeaseLost,
    Refused,
    StartedByGate,
    StoreDown,
    TooLarge,
    Unreachable,
    WaitTimeout,
    invalid,
)
from gate.client.gate_clock import GateClock
from gate.client.models import Grant, Job, Outcome
from gate.client.requests import check_wait, is_json, new_job_id
from gate.client.responses import RETRY_S, Answer
from gate.client.steps import Ask, Pause, Steps, Tell

LEASE_S = 60.0
"""Default length of a lease (s). It is renewed while the body runs, so it is only as long as a dead worker may keep its slot."""
SECONDS_MIN = 0.5
"""Shortest lease (s) of gate."""
POLL_S = 30.0
"""Time (s) that one call waits in the queue. Proxies close a request after a minute, so it is less."""
POLL_TO_TELL_S = 1.0
"""The same (s) with an `on_position` callback. A long poll ends only when the status changes, not when the position does."""
GOODBYE_S = 5.0
"""Time (s) for a call that delays an exception."""
SHORTEST_PAUSE_S = 0.05
"""Shortest time (s) between two renewals. Without it a lease near its end would be renewed in a busy loop."""
WITHDRAW_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
"""Pauses (s) between cancellations of a job that may still be on its way to gate."""
DATE_SLACK_S = 3.0
"""Largest error (s) of a Date header. It is exact to the second only, and a proxy may have kept it for a while."""
ERROR_MAX = 4_000
"""Characters of an error that gate keeps."""
GONE = (LeaseLost, AlreadyEnded, JobUnknown)
"""Errors after which the lease cannot be used any more."""


@dataclass(frozen=True, slots=True)
class Said:
    """The outcome that a body reported."""

    outcome: Outcome
    error: str | None = None
    output: Any = None


class SlotMachine:
    """State of one job, from its arrival in the queue to its outcome.

    Attributes:
        job: The job, as in the last response.
        grant: Its lease, as in the last response.
        deadline: Time at which the lease runs out, by `clock`.
        loss: The error of a lost lease; None while it is held.
        said: The outcome that the body reported last; None for no report.
        replayed: Another call had the right to start the job before. Always False for a job_id that this client made.
    """

    job: Job
    grant: Grant
    deadline: float

    def __init__(
        self,
        pool: str,
        *,
        job_id: str | None = None,
        lease_seconds: float | None = None,
        wait_seconds: float | None = None,
        poll_seconds: float = POLL_S,
        retry_seconds: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
        **request: Any,
    ) -> None:
        """Make the state machine of a job.

        Args:
            pool: Name of the pool.
            job_id: Permanent id of the job; None for a new one.
            lease_seconds: Length of the lease (s); None for the pool's.
            wait_seconds: Longest wait in the queue (s); None for the pool's limit.
            poll_seconds: Time (s) that one call waits in the queue.
            retry_seconds: Time (s) for which a call is retried.
            clock: The monotonic clock (s) of this machine, which tests replace.
            request: Further arguments of `requests.acquire`.

        Raises:
            Invalid: `wait_seconds` is negative or not finite, or `payload` is no JSON.
        """
        check_wait(wait_seconds)
        self.pool: str = pool
        self.job_id: str = job_id or new_job_id()
        self.clock: Callable[[], float] = clock
        self.loss: LeaseLost | None = None
        self.said: Said | None = None
        self.replayed: bool = False
        self._named = job_id is not None
        self._lease_s, self._wait_s = lease_seconds, wait_seconds
        self._poll_s, self._retry_s = poll_seconds, retry_seconds
        self._acquire = requests.acquire(pool, job_id=self.job_id, lease_seconds=lease_seconds, **request)
        self._gate_clock = GateClock()
        self._queued_after: float | None = None
        self._waiting: Job | None = None
        self._stopped = False
        self._in_queue: bool | None = False  # None: acquire was sent, and its response did not come

    # ---- entering ------------------------------------------------------------------------------------------------

    def enter(self) -> Steps[None]:
        """Acquire, wait and claim until the job runs.

        Raises:
            GateError: gate refuses the job, or does not answer.
            JobEnded: The job was cancelled or expired while it waited.
            WaitTimeout: The job still waits after `wait_seconds`.
        """
        until = math.inf if self._wait_s is None else self.clock() + self._wait_s
        self._in_queue = None
        try:
            answer: Answer[Job] = yield Ask(self._acquire, self._retry_s)
        except GateError as refused:
            if refused.status is not None and refused.status < 500:
                self._in_queue = False
            raise
        self._in_queue = True
        self.replayed = answer.value.replayed
        self._note_beginning(answer)
        last_place: Tell | None = None
        while True:
            job = answer.value
            if job.status == "queued":
                self._queued_after, self._waiting = answer.sent, job
                place = Tell(job.position, job.queue_length, job.reason, job.eta_seconds)
                if place != last_place:
                    yield place
                    last_place = place
                answer = yield from self._wait(until)
                self.replayed = True  # when it runs now, another call has claimed it
            elif job.status == "granted":
                answer = yield from self._claim(answer)
            elif job.status == "running" and job.lease is not None:
                self.replayed = self._named and self.replayed
                self._hold(answer, job.lease)
                return
            else:
                self._in_queue = False
                raise JobEnded(f"the job is {job.status}: {job.end_reason or 'no reason given'}", job=job)

    def _wait(self, until: float) -> Steps[Answer[Job]]:
        left = until - self.clock()
        if left <= 0:
            raise WaitTimeout(f"waited in line for {self._wait_s} s in vain", job=self._waiting)
        wait = min(self._poll_s, left)
        try:
            return (yield from self._poll("queued", wait, min(wait + self._retry_s, left + 2)))
        except (StoreDown, Unreachable) as error:
            if self.clock() < until:
                raise
            raise WaitTimeout(f"waited in line for {self._wait_s} s in vain", job=self._waiting) from error

    def _poll(self, status: Any, wait: float, within: float, once: bool = False) -> Steps[Answer[Job]]:
        """Read the job when its status changes, or after `wait` seconds.

        A server that is stopping answers at once. The pause keeps the calls to it from becoming a busy loop.
        """
        end = self.clock() + wait
        call = requests.job(self.pool, self.job_id, wait_seconds=min(wait, POLL_S), status=status)
        answer: Answer[Job] = yield Ask(call, within, once)
        early = end - self.clock()
        if answer.value.status == status and early > 0:
            yield Pause(min(early, 0.5))
        return answer

    def _claim(self, granted: Answer[Job]) -> Steps[Answer[Job]]:
        grant = granted.value.lease
        assert grant is not None
        self._note_grant(grant)
        try:
            answer: Answer[Job] = yield Ask(requests.claim(self.pool, self.job_id, grant.lease_id), self._retry_s)
        except StartedByGate:
            self._in_queue = False
            raise
        except GONE as refused:
            lease = refused.job.lease if refused.job else None
            if refused.job is None or (lease and lease.lease_id == grant.lease_id):
                raise
            answer = yield Ask(requests.job(self.pool, self.job_id), self._retry_s)
        else:
            self.replayed = answer.value.replayed
            self._note_extension(answer)
        return answer

    def _hold(self, answer: Answer[Job], grant: Grant) -> None:
        self._note_grant(grant)
        certain = self._gate_clock.known
        if not certain:  # the job ran before this call, so only a renewal shows whether the lease is still held
            stamp = grant.granted_at.timestamp() if answer.date is None else answer.date + DATE_SLACK_S
            self._gate_clock.saw(stamp, answer.sent)
        self.job, self.grant = answer.value, grant
        self.deadline = self._ends(answer, grant)
        if not certain:
            self.deadline = max(self.deadline, self.clock() + SECONDS_MIN)

    def _ends(self, answer: Answer[Job], grant: Grant) -> float:
        """Compute the deadline of a lease. No lease is shorter than SECONDS_MIN, unless the longest hold ends it."""
        full_length = grant.expires_at < grant.hard_expires_at
        return max(self._gate_clock.here(grant.expires_at), answer.sent + SECONDS_MIN if full_length else -math.inf)

    def withdraw(self, cut_by: BaseException) -> Steps[None]:
        """Cancel the job after an interrupted wait, so that no job stays in the queue without a caller.

        Args:
            cut_by: The exception that interrupted the wait.
        """
        if self._in_queue is False:
            return
        # An acquire without a response may still be on its way, and could arrive after its cancellation. So try again later.
        pauses = WITHDRAW_PAUSES_S if self._in_queue is None else ()
        gate_is_down = isinstance(cut_by, StoreDown | Unreachable)
        call = requests.cancel(self.pool, self.job_id, reason=f"the wait was cut: {type(cut_by).__name__}")
        for pause in (*pauses, None):
            try:
                yield Ask(call, GOODBYE_S, once=gate_is_down)
            except JobUnknown:
                if pause is not None:
                    yield Pause(pause)
                    continue
            except GateError:
                pass  # the job has ended, or gate does not answer and the job will expire
            return

    def stop(self, why: str) -> None:
        """Count the lease as lost, because the client is closed under its body. A loss that is known already stays."""
        if self.loss is None:
            self._stopped = True
            self.loss = LeaseLost(f"the lease of job {self.job_id} is lost: {why}")

    def give_back(self, why: BaseException) -> Steps[None]:
        """Release the slot, or cancel the wait for it, in place of a body that does not.

        Args:
            why: The exception that stands for the end of the body. The outcome is that of a body that raised it.
        """
        yield from self.leave(why) if hasattr(self, "grant") else self.withdraw(why)

    def bind_task(self, provider: str, task_id: str, account: str | None = None) -> Steps[None]:
        """Bind the job to its task at a provider.

        Raises:
            GateError: gate refuses it, or does not answer.
        """
        lease_id = self.grant.lease_id
        call = requests.bind_task(self.pool, self.job_id, provider, task_id, lease_id=lease_id, account=account)
        answer: Answer[Job] = yield Ask(call, self._retry_s)
        self.job = answer.value

    # ---- running -------------------------------------------------------------------------------------------------

    def keep(self) -> Steps[LeaseLost]:
        """Renew the lease after a third of the time that is left, and watch meanwhile whether another party ends the job.

        Returns:
            The loss, as soon as the lease is lost.
        """
        while True:
            left = self.deadline - self.clock()
            due = self.clock() + max(left / 3, SHORTEST_PAUSE_S)
            while (pause := due - self.clock()) > 0:
                try:
                    current = yield from self._poll("running", pause, pause + left / 3, once=True)
                except (AlreadyEnded, JobUnknown) as refused:
                    return self._lost("the job is gone", refused)
                except GateError:
                    yield Pause(max(due - self.clock(), 0))
                else:
                    lease = current.value.lease
                    if lease is None or lease.lease_id != self.grant.lease_id:
                        return self._lost(f"the job is {current.value.status}", job=current.value)
            try:
                if self.clock() >= self.deadline:
                    at_the_limit = self.grant.expires_at >= self.grant.hard_expires_at
                    why = "the longest hold of the pool is over" if at_the_limit else "no renewal was answered in time"
                    return self._lost(f"it ran out: {why}")
                call = requests.renew(self.pool, self.job_id, self.grant.lease_id, lease_seconds=self._lease_s)
                answer: Answer[Job] = yield Ask(call, self.deadline - self.clock())
            except GONE as refused:
                return self._lost(refused.detail, refused)
            except GateError as error:
                if self.clock() >= self.deadline:
                    return self._lost("no renewal was answered in time", error)
            else:
                self._renewed(answer)

    def _renewed(self, answer: Answer[Job]) -> None:
        grant = answer.value.lease
        if grant is None:
            return
        self._note_extension(answer)
        self.job, self.grant = answer.value, grant
        self.deadline = self._ends(answer, grant)

    def _lost(self, why: str, cause: GateError | None = None, job: Job | None = None) -> LeaseLost:
        job = job or (cause.job if cause else None)
        lost = LeaseLost(f"the lease of job {self.job_id} is lost: {why}", status=cause.status if cause else None, job=job)
        lost.__cause__ = cause
        return lost

    # ---- leaving -------------------------------------------------------------------------------------------------

    def say(self, outcome: Outcome, error: str | None = None, output: Any = None) -> None:
        """Keep the outcome that the body reports, for `leave`.

        Raises:
            Invalid: `output` is no JSON.
        """
        if not is_json(output):
            raise invalid("output", f"it is no JSON: {type(output).__name__}")
        self.said = Said(outcome, _words(error), output)

    def leave(self, raised: BaseException | None) -> Steps[None]:
        """Release the slot with the outcome of the body.

        Args:
            raised: Exception of the body; None without one. With it, this raises nothing, so that only it leaves the block.

        Raises:
            LeaseLost: The lease is lost, and gate did not accept the outcome.
            Refused: The body reported `refused`.
            GateError: gate could not be told the outcome.
        """
        self.said = result = self.said or _outcome(raised)  # kept: a release that is interrupted is made again
        lost = self.loss
        is_urgent = lost is not None or (raised is not None and not isinstance(raised, Exception))
        try:
            job = yield from self._release(result, GOODBYE_S if is_urgent else self._retry_s, once=lost is not None)
        except GONE as refused:
            lost = lost or self._lost(refused.detail, refused)
        except GateError as error:
            if raised is None:
                raise (lost or error) from error
            add_note(raised, f"gate was not told how job {self.job_id} ended: {error.detail}")
        else:
            self.job = job
            if result.outcome == "refused":
                if raised is None:
                    raise Refused(result.error or "refused", job=job)
                if isinstance(raised, Refused):
                    raised.job = job
            if result.outcome == "completed" or self._stopped:
                lost = None  # gate accepted the outcome, so the lease was not lost
        if lost is not None and raised is None:
            raise lost

    def _release(self, result: Said, within: float, once: bool) -> Steps[Job]:
        where = (self.pool, self.job_id, self.grant.lease_id)
        call = requests.release(*where, result.outcome, error=result.error, output=result.output)
        try:
            answer: Answer[Job] = yield Ask(call, within, once)
        except (Invalid, TooLarge):  # gate cannot keep the output or error: release without them, or the slot stays taken
            yield Ask(requests.release(*where, result.outcome), within, once)
            raise
        return answer.value

    # ---- bounds for gate's clock ---------------------------------------------------------------------------------

    def _note_beginning(self, answer: Answer[Job]) -> None:
        enqueued_at = answer.value.enqueued_at.timestamp()
        if not self._named or (answer.date is not None and enqueued_at > answer.date - DATE_SLACK_S):
            self._gate_clock.saw(enqueued_at, answer.first)

    def _note_grant(self, grant: Grant) -> None:
        if self._queued_after is not None:
            self._gate_clock.saw(grant.granted_at.timestamp(), self._queued_after)

    def _note_extension(self, answer: Answer[Job]) -> None:
        """Use a claim or a renewal as a bound: it starts a full lease, unless the longest hold ends sooner."""
        grant = answer.value.lease
        if self._lease_s is not None and grant is not None and grant.expires_at < grant.hard_expires_at:
            self._gate_clock.saw(grant.expires_at.timestamp() - self._lease_s, answer.sent)


def _outcome(raised: BaseException | None) -> Said:
    if raised is None:
        return Said("completed")
    if isinstance(raised, Exception):
        return Said("failed", _words(str(raised) or type(raised).__name__))
    return Said("cancelled", _words(str(raised)) or None)


def _words(text: str | None) -> str | None:
    """Make a text that gate accepts: without NUL and lone surrogates, and of bounded length."""
    return text and text[:ERROR_MAX].replace("\x00", "").encode(errors="replace").decode()
