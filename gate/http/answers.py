"""The JSON of answers of version 1: their models, by which the OpenAPI document names them, and the functions that write them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from gate.coordination.queries import PoolSnapshot
from gate.ledger import AccountState, ServerRow
from gate.ledger.queries import Balance, Entry, Event, Unread
from gate.model.job import CancelRefunds, JobStatus
from gate.model.job_json import job_body, moment
from gate.model.limits import TEXT_MAX


class LeaseOut(BaseModel):
    """The lease of a job. No renewal extends `expires_at` beyond `hard_expires_at`. A newer grant has a higher `fence`."""

    lease_id: str | None
    fence: int
    granted_at: str
    expires_at: str
    hard_expires_at: str


class TaskOut(BaseModel):
    """The task at the provider. `task_id` is its id there. What follows it is there when the job is read alone and gate asks about the task.

    `state` is `unasked`, `queued`, `running`, `ended`, `unknown`, or `silent` while the provider does not answer. `heard_at` is when it
    answered last. `stop` is `owed` while the task has to be stopped, then `confirmed` or `given_up`.
    """

    provider: str
    task_id: str
    account: str | None = None
    state: Literal["unasked", "queued", "running", "ended", "unknown", "silent"] | None = None
    heard_at: str | None = None
    questions: int | None = None
    stop: Literal["owed", "confirmed", "given_up"] | None = None


class RefundOut(BaseModel):
    """The refund of a job. `owed` is true while the owner's function has still to pay it."""

    amount: int
    at: str | None
    owed: bool


class JobOut(BaseModel):
    """A job. An absent value is null. Times are RFC 3339 in UTC, with milliseconds.

    `payload` and `lease_id` are null for a caller that may not release. `account` is the account at the provider that was chosen with the
    slot; start the task there. `queue_expires_at` is when the wait of a queued job ends. Time in
    which the pool is paused or cools down, or gate or a store is away, does not count, so it may move to a later time; it is null while the
    pool is paused. `likely` is `expires` when the estimate lies beyond it. `replayed` is there, and true, when an earlier call of `acquire`
    or `claim` has got this answer already. `cancel_refunds` says whether it is refunded when it is cancelled after its start.
    `retries` is how often gate has started it again after a failure of its provider, and `error_kind` the kind of the failure that ended it.
    """

    job_id: str
    pool: str
    user: str | None
    tool: str | None
    session: str | None
    credits: int
    payload: dict[str, Any] | None
    task: TaskOut | None
    account: str | None
    started_by: Literal["caller", "gate"]
    status: JobStatus
    position: int | None
    queue_length: int | None
    reason: (
        Literal["pool_full", "provider_full", "account_down", "paused", "cooling_down", "tool_down", "refused", "absent"]
        | None
    )
    eta_seconds: float | None
    queue_expires_at: str | None
    likely: Literal["expires"] | None
    enqueued_at: str
    lease: LeaseOut | None
    ended_at: str | None
    ended_by: str | None
    end_reason: str | None
    error: str | None
    output: Any
    cancel_refunds: CancelRefunds
    retries: int
    error_kind: Literal["busy", "safety", "infrastructure", "timeout", "input", "quota", "unknown"] | None
    refund: RefundOut | None
    late_outcome: str | None
    late_output: Any
    replayed: bool = False


class AccountOut(BaseModel):
    """An account at a provider. `running` counts jobs of gate, and stopped tasks whose slots drain. `room` is how many it takes now."""

    provider: str
    name: str
    limit: int | None
    provider_limit: int | None
    running: int
    room: int | None
    strangers: int | None
    state: Literal["open", "cooling", "down"]
    why: str | None


class PoolOut(BaseModel):
    """A pool at one moment. `holders` and `queue` list jobs in order. `draining` slots are of jobs that have ended, whose tasks still run.

    `limit_in_force` is below `limit` while the accounts at the provider take fewer tasks. `strangers` are tasks there that are not gate's.
    """

    pool: str
    limit: int
    limit_in_force: int
    running: int
    granted: int
    queued: int
    free: int
    draining: int
    paused: bool
    cooling_until: str | None
    oldest_lease_seconds: float | None
    strangers: int
    accounts: list[AccountOut]
    holders: list[JobOut]
    queue: list[JobOut]


class ServerOut(BaseModel):
    """A server of this gate. `lives` is false when it was not seen lately. `clock_ahead_seconds`: its own clock, beside that of SQL."""

    id: str
    version: str
    started_at: str
    seen_at: str
    lives: bool
    clock_ahead_seconds: float


class CancelledOut(BaseModel):
    """The jobs that were cancelled. They were all waiting. `left_out` is how many of them `jobs` does not list."""

    cancelled: int
    jobs: list[JobOut]
    left_out: int


class DeletedOut(BaseModel):
    """The pool that was deleted."""

    pool: str
    deleted: Literal[True]


class DrainOut(BaseModel):
    """A server that is about to stop. It serves all calls for `delay_seconds` from the first such call."""

    status: Literal["draining"]
    delay_seconds: float


class HeardOut(BaseModel):
    """What gate did with a callback. `kept`: it waits until its task is bound. `late`: the job had ended before."""

    result: Literal["applied", "retried", "late", "kept", "ignored", "repeat"]


class UnreadOut(BaseModel):
    """A callback that could not be read.

    The same body came `times` times, first `at` and last `last_at`. `why` says what could not be read. `body` is cut to 4,000
    characters. `applied_at` and the fields after it are null until an operator has applied the callback to a job,
    or has dismissed it. The `outcome` of a dismissed one is `dismissed`, and its `job_id` stays null.
    """

    id: int
    at: str
    last_at: str
    times: int
    provider: str
    pool: str
    task_id: str | None
    why: str
    body: str | None
    applied_at: str | None
    applied_by: str | None
    job_id: str | None
    outcome: Literal["completed", "failed", "cancelled", "dismissed"] | None
    reason: str | None


class UnreadPageOut(BaseModel):
    """A page of callbacks that could not be read. `next` is the `after` of the next page, and null where no row follows now."""

    rows: list[UnreadOut]
    next: int | None


class EventOut(BaseModel):
    """An event of a job.

    `kind` is the status that the job then had, or `task`, `callback`, `late`, `returned`, `seated`, `tool_down`, `refunded`.
    """

    at: str
    kind: str
    by: str
    why: str | None
    fence: int | None


class HistoryOut(BaseModel):
    """The events of a job, in order."""

    job_id: str
    events: list[EventOut]


class ProblemOut(BaseModel):
    """A refusal, as RFC 9457 `application/problem+json`. `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = None
    active_job_id: str | None = None
    eta_seconds: float | None = None
    job: JobOut | None = None


class EntryOut(BaseModel):
    """A charge or a refund."""

    id: int
    at: str
    job_id: str
    user: str | None
    pool: str
    kind: Literal["charge", "refund"]
    amount: int


class LedgerOut(BaseModel):
    """A page of charges and refunds. `next` is the `after` of the next page, and null where no row follows now."""

    rows: list[EntryOut]
    next: int | None


class BalanceOut(BaseModel):
    """The credits of a user. `net` is `charged` minus `refunded`."""

    user: str
    charged: int
    refunded: int
    net: int


def event_body(event: Event) -> dict[str, Any]:
    """Write an event as JSON."""
    return {"at": moment(event.at), "kind": event.kind, "by": event.by, "why": event.why, "fence": event.fence}


def unread_body(one: Unread, secrets: bool = True) -> dict[str, Any]:
    """Write an unread callback as JSON.

    Args:
        one: The callback.
        secrets: Whether the caller may act, and so may see the body that the provider sent.
    """
    return {
        "id": one.id,
        "at": moment(one.at),
        "last_at": moment(one.last_at),
        "times": one.times,
        "provider": one.provider,
        "pool": one.pool,
        "task_id": one.task_id,
        "why": one.why,
        "body": one.body[:TEXT_MAX] if secrets else None,
        "applied_at": moment(one.applied_at),
        "applied_by": one.applied_by,
        "job_id": one.job_id,
        "outcome": one.outcome,
        "reason": one.reason,
    }


def server_body(one: ServerRow) -> dict[str, Any]:
    """Write a server as JSON."""
    return {
        "id": one.id,
        "version": one.version,
        "started_at": moment(one.started_at),
        "seen_at": moment(one.seen_at),
        "lives": one.lives,
        "clock_ahead_seconds": one.skew_ms / 1000,
    }


def pool_body(view: PoolSnapshot, secrets: bool = True) -> dict[str, Any]:
    """Write a pool as JSON.

    Args:
        view: The pool.
        secrets: Whether the caller may release, and so may see lease ids and payloads.
    """
    line, capacity = view.line, view.capacity
    age_ms = line.now_ms - line.oldest if line.oldest is not None else None
    return {
        "pool": view.name,
        "limit": capacity.limit if capacity else line.limit,
        "limit_in_force": line.limit,
        "running": line.running,
        "granted": line.granted,
        "queued": line.queued,
        "free": line.free,
        "draining": line.draining,
        "paused": line.paused,
        "cooling_until": moment(line.cooling_until),
        "oldest_lease_seconds": age_ms / 1000 if age_ms is not None else None,
        "strangers": capacity.strangers if capacity else 0,
        "accounts": [account_body(one) for one in capacity.accounts] if capacity else [],
        "holders": [job_body(job, secrets) for job in view.holders],
        "queue": [job_body(job, secrets) for job in view.queue],
    }


def account_body(account: AccountState) -> dict[str, Any]:
    """Write an account as JSON. The key is not part of it."""
    return account._asdict()


def entry_body(entry: Entry) -> dict[str, Any]:
    """Write a charge or a refund as JSON."""
    return {
        "id": entry.id,
        "at": moment(entry.at),
        "job_id": entry.job_id,
        "user": entry.user,
        "pool": entry.pool,
        "kind": entry.kind,
        "amount": entry.amount,
    }


def balance_body(user: str, balance: Balance) -> dict[str, Any]:
    """Write the balance of a user as JSON."""
    net = balance.charged - balance.refunded
    return {"user": user, "charged": balance.charged, "refunded": balance.refunded, "net": net}
