"""Messages that cross from one part of gate to another.

Redis, SQL and the providers' pages never import each other. What one of them hands to another is one of these values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias, TypeGuard, get_args

from pydantic import JsonValue

from gate.model.account import Accounts
from gate.model.job import Lease

Outcome: TypeAlias = Literal["completed", "failed", "cancelled"]
"""Outcome that a provider, a holder or an operator reports for a job."""
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
Release: TypeAlias = Literal[Outcome, "refused", "tool_down"]
"""What a release says of a job: its outcome, or why it goes back to its place in the queue."""


def is_outcome(word: object) -> TypeGuard[Outcome]:
    """Whether a word from outside is an outcome."""
    return word in OUTCOMES


class EntryKind(StrEnum):
    """Kinds of outbox entries."""

    GRANTED = "granted"
    """A waiter was put into a slot."""
    EXPIRED = "expired"
    """A lease, or with fence 0 a time in the queue, ran out."""
    PASSED = "passed"
    """A free slot went to a later waiter, because the caller of this one was absent."""
    UNKNOWN = "unknown"
    """A newer version of gate wrote this entry; it stays for a server that knows the kind."""
    UNREADABLE = "unreadable"
    """gate did not write this entry."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One entry of a pool's outbox: a change in Redis that SQL has to record.

    Attributes:
        entry_id: ID of the entry in the stream.
        kind: What it reports.
        job_id: The job it is about.
        fence: Fence of the grant it is about; 0 when the job waited.
        at: Time of the change by the clock of Redis (ms since 1970).
        lease: The lease of a grant; None with any other kind.
        ticket: The job's place in order of arrival.
    """

    entry_id: str
    kind: EntryKind
    job_id: str
    fence: int
    at: int
    lease: Lease | None = None
    ticket: int = 0


class ErrorKind(StrEnum):
    """Kinds of failures. A caller may treat them differently: a retry helps for some, another input for others."""

    BUSY = "busy"
    """The provider took more work than it could do."""
    SAFETY = "safety"
    """A content check refused the input or the result."""
    INFRASTRUCTURE = "infrastructure"
    """A machine, a disk or a network of the provider failed. The same task may succeed on another machine."""
    TIMEOUT = "timeout"
    """The task took longer than the provider allows."""
    INPUT = "input"
    """The input is wrong. The same input fails again."""
    QUOTA = "quota"
    """The account has no credit left."""
    UNKNOWN = "unknown"
    """The provider gave no reason, or one that gate does not know."""


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """A provider's report that one of its tasks ended.

    It names either `task_id` or `job_id`; the other is None.

    Attributes:
        outcome: How the task ended.
        delivery_id: Two reports of one provider with the same delivery_id are the same report.
        task_id: The provider's name for the task.
        job_id: gate's job.
        error: The provider's reason for a failure.
        output: Result of the task: `{files: [{url, type}], texts?, coins?, cut?}` by convention, because front ends read that.
            `{files: [], raw}` for a success of an unknown shape.
        understood: False for a success whose output has an unknown shape. The output is the whole callback then.
        error_kind: The kind of a failure; None for any other outcome.
    """

    outcome: Outcome
    delivery_id: str
    task_id: str | None = None
    job_id: str | None = None
    error: str | None = None
    output: JsonValue = None
    understood: bool = True
    error_kind: ErrorKind | None = None


class AnswerState(StrEnum):
    """What a provider says of a task. Only a word that the provider documents as an end is ENDED."""

    QUEUED = "queued"
    """The provider has the task, and has not begun it."""
    RUNNING = "running"
    """The provider runs the task."""
    ENDED = "ended"
    """The task is over; the answer has a report."""
    UNKNOWN = "unknown"
    """The provider does not know the task, at least not with this account. That ends nothing."""
    BUSY = "busy"
    """The provider cannot answer now."""
    BAD_KEY = "bad_key"
    """The provider refuses the account: its key is wrong, or its wallet is empty."""
    UNCLEAR = "unclear"
    """The reply has a form that gate does not know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer about one of its tasks, or the reason why there is none.

    Attributes:
        state: What the provider says.
        why: The provider's words in short: a status, a code or a message. It never has a key.
        report: The same value that a callback about this end gives; None unless the state is ENDED.
        retry_s: Time (s) after which the provider wants to be asked again; None when it names none.
        is_without_output: True for a success without any output. The output may only be late, so one such answer proves nothing.
    """

    state: AnswerState
    why: str
    report: ProviderReport | None = None
    retry_s: float | None = None
    is_without_output: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """What a provider says of one account.

    Attributes:
        limit: Tasks that it accepts at once; None when it does not say.
        total: Tasks that it has now, running and queued, of every caller; None when it does not say.
    """

    limit: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class RelayedPayload:
    """What a caller passed on of its provider's words when it ended its job.

    Attributes:
        provider: The provider, by its name.
        task_id: The task; None when there is none.
        outcome: Outcome that the caller reports.
        error: Error that the caller reports; None without one.
        payload: The provider's payload as text.
    """

    provider: str
    task_id: str | None
    outcome: Outcome
    error: str | None
    payload: str


class DeliveryResult(StrEnum):
    """How a call to a tool ended. The values are in SQL, and labels of a metric."""

    DELIVERED = "delivered"
    """The tool answered 2xx. A start call: the job has started."""
    REFUSED = "refused"
    """The provider takes no further task now."""
    TOOL_DOWN = "tool_down"
    """The start address or its secret is wrong."""
    FAILED = "failed"
    """The start failed for good."""
    OVER = "over"
    """The grant of a start call was over before its answer."""
    GIVEN_UP = "given_up"
    """The call was repeated for a day."""


@dataclass(frozen=True, slots=True)
class StartReply:
    """A tool's positive answer to a start call.

    Attributes:
        delivery_id: The start call, by its row in SQL.
        provider: The provider of the tool; None when the configuration names none. Then the task is recorded and not bound.
        task_id: The provider's task, when the answer names one.
        accounts: Accounts, at one of which gate asks about the task; None not to ask.
    """

    delivery_id: int
    provider: str | None = None
    task_id: str | None = None
    accounts: Accounts | None = None
