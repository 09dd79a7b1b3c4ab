"""The way of one job through a slot, without I/O: what to ask next, and what each answer means.

`enter`, `keep`, `leave` and `withdraw` are generators. They yield steps; whoever drives them (`gate.client.aio`,
`gate.client.sync`) takes each one, sends the answer of an `Ask` back in, or throws in what was refused. So both clients are the
same client, and this page can be tested without a server.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from gate.client import requests
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
)
from gate.client.models import Grant, Job, Outcome
from gate.client.requests import Call
from gate.client.responses import RETRY_S, Answer
from gate.model.job import SECONDS_MIN, new_job_id

T = TypeVar("T")
POLL_S = 30.0
"""How long one call waits in line; below the minute after which proxies hang up."""
POLL_TO_TELL_S = 1.0
"""The same where somebody wants to hear of each change of position: a long poll ends only with a change of status."""
GOODBYE_S = 5.0
"""For what is sent while an exception is on its way out."""
SHORTEST_PAUSE_S = 0.05
WITHDRAW_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
DATE_SLACK_S = 3.0
"""What a Date header, to the second and not always fresh, may be wrong by."""
ERROR_MAX = 4_000
GONE = (LeaseLost, AlreadyEnded, JobUnknown)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send it; tries included, for at most `within` seconds. `once`: a failure is as good as an answer."""

    call: Call[Any]
    within: float
    once: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """The place in line has changed."""

    position: int | None
    queue_length: int | None
    reason: str | None
    eta_seconds: float | None


Step: TypeAlias = Ask | Pause | Tell
Steps: TypeAlias = Generator[Step, Any, T]


class GateClock:
    """gate's clock, seen from here. A stamp of gate's on something that came after a moment of ours bounds how far it is ahead,
    so a deadline of gate's is never thought later than it is. The wall clock of this machine is not asked.
    """

    def __init__(self) -> None:
        self._ahead = math.inf

    @property
    def known(self) -> bool:
        return self._ahead < math.inf

    def saw(self, stamp: float, after: float) -> None:
        self._ahead = min(self._ahead, stamp - after)

    def here(self, moment: datetime) -> float:
        return moment.timestamp() - self._ahead


@dataclass(frozen=True, slots=True)
class Said:
    outcome: Outcome
    error: str | None = None
    output: Any = None


class SlotMachine:
    """One job, from the line to its outcome. `job` is the last answer; `deadline` is when the lease runs out, and `clock` what
    it is measured with: monotonic seconds of this machine.
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
        self.pool: str = pool
        self.job_id: str = job_id or new_job_id()
        self.clock: Callable[[], float] = clock
        self.loss: LeaseLost | None = None
        self.said: Said | None = None
        self._named = job_id is not None
        self._lease_s, self._wait_s = lease_seconds, wait_seconds
        self._poll_s, self._retry_s = poll_seconds, retry_seconds
        self._acquire = requests.acquire(pool, job_id=self.job_id, lease_seconds=lease_seconds, **request)
        self._gate_clock = GateClock()
        self._queued_after: float | None = None
        self._in_line: bool | None = False  # None: asked, and not heard of

    # ---- in ------------------------------------------------------------------------------------------------------

    def enter(self) -> Steps[None]:
        """Until the job runs. Raises what acquire refuses, JobEnded, and TimeoutError when `wait_seconds` are over."""
        until = math.inf if self._wait_s is None else self.clock() + self._wait_s
        self._in_line = None
        try:
            answer: Answer[Job] = yield Ask(self._acquire, self._retry_s)
        except GateError as refused:
            if refused.status is not None and refused.status < 500:
                self._in_line = False
            raise
        self._in_line = True
        self._note_beginning(answer)
        told: Tell | None = None
        while True:
            job = answer.value
            if job.status == "queued":
                self._queued_after = answer.sent
                place = Tell(job.position, job.queue_length, job.reason, job.eta_seconds)
                if place != told:
                    yield place
                    told = place
                answer = yield from self._wait(until)
            elif job.status == "granted":
                answer = yield from self._claim(answer)
            elif job.status == "running" and job.lease is not None:
                self._hold(answer, job.lease)
                return
            else:
                self._in_line = False
                raise JobEnded(f"the job is {job.status}: {job.end_reason or 'no reason given'}", job=job)

    def _wait(self, until: float) -> Steps[Answer[Job]]:
        left = until - self.clock()
        if left <= 0:
            raise TimeoutError(f"waited in line for {self._wait_s} s in vain")
        wait = min(self._poll_s, left)
        try:
            return (yield from self._poll("queued", wait, min(wait + self._retry_s, left + 2)))
        except (StoreDown, Unreachable) as error:
            if self.clock() < until:
                raise
            raise TimeoutError(f"waited in line for {self._wait_s} s in vain") from error

    def _poll(self, status: Any, wait: float, within: float, once: bool = False) -> Steps[Answer[Job]]:
        """The job as soon as its status is another, or after `wait`. A server that is stopping answers at once."""
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
            self._in_line = False
            raise
        except GONE as refused:
            lease = refused.job.lease if refused.job else None
            if refused.job is None or (lease and lease.lease_id == grant.lease_id):
                raise
            answer = yield Ask(requests.job(self.pool, self.job_id), self._retry_s)
        else:
            self._note_extension(answer)
        return answer

    def _hold(self, answer: Answer[Job], grant: Grant) -> None:
        self._note_grant(grant)
        certain = self._gate_clock.known
        if not certain:  # a job that ran before this call came: a renewal will show whether it runs still
            stamp = grant.granted_at.timestamp() if answer.date is None else answer.date + DATE_SLACK_S
            self._gate_clock.saw(stamp, answer.sent)
        self.job, self.grant = answer.value, grant
        self.deadline = self._ends(answer, grant)
        if not certain:
            self.deadline = max(self.deadline, self.clock() + SECONDS_MIN)

    def _ends(self, answer: Answer[Job], grant: Grant) -> float:
        """When the lease that an answer gave runs out. No lease is shorter than SECONDS_MIN, unless the longest hold ends it."""
        whole = grant.expires_at < grant.hard_expires_at
        return max(self._gate_clock.here(grant.expires_at), answer.sent + SECONDS_MIN if whole else -math.inf)

    def withdraw(self, cut_by: BaseException) -> Steps[None]:
        """After a wait that was cut: nobody is left in line whom nobody waits for."""
        if self._in_line is False:
            return
        # What was never answered may still be on its way in, and then comes after its own cancellation.
        pauses = WITHDRAW_PAUSES_S if self._in_line is None else ()
        nobody_answers = isinstance(cut_by, StoreDown | Unreachable)
        call = requests.cancel(self.pool, self.job_id, reason=f"the wait was cut: {type(cut_by).__name__}")
        for pause in (*pauses, None):
            try:
                yield Ask(call, GOODBYE_S, once=nobody_answers)
            except JobUnknown:
                if pause is not None:
                    yield Pause(pause)
                    continue
            except GateError:
                pass  # it has ended; or nobody answers, and it ends by itself
            return

    # ---- while it runs -------------------------------------------------------------------------------------------

    def keep(self) -> Steps[LeaseLost]:
        """Renews at a third of the time that is left, and watches for an end by others meanwhile. Returns when it is lost."""
        while True:
            left = self.deadline - self.clock()
            due = self.clock() + max(left / 3, SHORTEST_PAUSE_S)
            while (pause := due - self.clock()) > 0:
                try:
                    seen = yield from self._poll("running", pause, pause + left / 3, once=True)
                except (AlreadyEnded, JobUnknown) as refused:
                    return self._lost("the job is gone", refused)
                except GateError:
                    yield Pause(max(due - self.clock(), 0))
                else:
                    lease = seen.value.lease
                    if lease is None or lease.lease_id != self.grant.lease_id:
                        return self._lost(f"the job is {seen.value.status}", job=seen.value)
            try:
                if self.clock() >= self.deadline:
                    return self._lost("it ran out: no renewal was answered in time, or the pool's longest hold is over")
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

    # ---- out -----------------------------------------------------------------------------------------------------

    def say(self, outcome: Outcome, error: str | None = None, output: Any = None) -> None:
        """Raises Invalid when `output` is no JSON."""
        try:
            json.dumps(output, allow_nan=False)
        except (TypeError, ValueError) as wrong:
            field = {"field": "output", "message": str(wrong)}
            raise Invalid(f"output: {wrong}", more={"errors": [field]}) from wrong
        self.said = Said(outcome, _words(error), output)

    def leave(self, raised: BaseException | None) -> Steps[None]:
        """Says how it went. `raised`: what the body raised, if it did; then only that goes on. Otherwise raises LeaseLost,
        Refused, or what kept the outcome from being told.
        """
        said = self.said or _outcome(raised)
        lost = self.loss
        hurry = lost is not None or (raised is not None and not isinstance(raised, Exception))
        try:
            job = yield from self._release(said, GOODBYE_S if hurry else self._retry_s, once=lost is not None)
        except GONE as refused:
            lost = lost or self._lost(refused.detail, refused)
        except GateError as error:
            if raised is None:
                raise (lost or error) from error
            raised.add_note(f"gate was not told how job {self.job_id} ended: {error.detail}")
        else:
            self.job = job
            if said.outcome == "refused":
                if raised is None:
                    raise Refused(said.error or "refused", job=job)
                if isinstance(raised, Refused):
                    raised.job = job
            if said.outcome == "completed":
                lost = None  # gate takes it, so it was none
        if lost is not None and raised is None:
            raise lost

    def _release(self, said: Said, within: float, once: bool) -> Steps[Job]:
        where = (self.pool, self.job_id, self.grant.lease_id)
        call = requests.release(*where, said.outcome, error=said.error, output=said.output)
        try:
            answer: Answer[Job] = yield Ask(call, within, once)
        except (Invalid, TooLarge):  # what was put out cannot be kept: the outcome counts all the same
            yield Ask(requests.release(*where, said.outcome), within, once)
            raise
        return answer.value

    # ---- what a call tells about gate's clock --------------------------------------------------------------------

    def _note_beginning(self, answer: Answer[Job]) -> None:
        enqueued_at = answer.value.enqueued_at.timestamp()
        if not self._named or (answer.date is not None and enqueued_at > answer.date - DATE_SLACK_S):
            self._gate_clock.saw(enqueued_at, answer.first)

    def _note_grant(self, grant: Grant) -> None:
        if self._queued_after is not None:
            self._gate_clock.saw(grant.granted_at.timestamp(), self._queued_after)

    def _note_extension(self, answer: Answer[Job]) -> None:
        """A claim and a renewal give a whole lease from then on, unless the longest hold comes first."""
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
    """As gate takes them: without NUL and lone surrogates, not endless."""
    return text and text[:ERROR_MAX].replace("\x00", "").encode(errors="replace").decode()
