"""The paths between gate and a provider: starts, callbacks, questions and stops."""

from __future__ import annotations

from tests.proof.model import provider, task_rows
from tests.proof.model.running import Path, run
from tests.proof.model.state import Lease, Reply, off
from tests.proof.model.steps import heard, outdated, told


def start(server: int, lease: Lease) -> Path:
    """A holder, or gate for it, starts a task. Its answer may come late, or never."""
    job, fence, *_ = lease
    started = yield provider.begin_task, job, fence
    if started == "started":
        bound = yield task_rows.bind, job, fence
        yield from _after_end(server, lease, bound)


def callback(server: int, lease: Lease, outcome: str) -> Path:
    yield from _provider_ended(server, lease, outcome, "ended")


def hint(server: int, lease: Lease, outcome: str) -> Path:
    """A callback that is not believed: its words may be false."""
    job, fence, *_ = lease
    if "hint_verdict" in off:
        yield from _provider_ended(server, lease, outcome, "hint")
    else:
        yield task_rows.hint, job, fence


def ask(server: int, lease: Lease) -> Path:
    """Read the answer and the row; then one transaction, after the script where the lease is extended."""
    answer = yield provider.query, lease
    yield from _answered(server, lease, answer)


def denied(server: int, lease: Lease) -> Path:
    """The provider says that it has no such task, though it has."""
    yield from _answered(server, lease, "unknown")


def _answered(server: int, lease: Lease, answer: str) -> Path:
    job, fence, *_ = lease
    deed = yield task_rows.next_deed, lease, answer
    if deed == "end":
        why = "ended" if answer in ("done", "bad") else answer
        yield from _provider_ended(server, lease, "completed" if answer == "done" else "failed", why)
    elif deed == "extend":
        yield from _extend(server, lease, answer)
    elif deed == "note":
        yield task_rows.note, job, fence, answer


def _provider_ended(server: int, lease: Lease, outcome: str, why: str) -> Path:
    job, fence, *_ = lease
    ended = yield task_rows.provider_ended, job, fence, outcome, why
    yield from _after_end(server, lease, ended)


def _after_end(server: int, lease: Lease, ended: Reply) -> Path:
    """Redis, after SQL has the provider's word."""
    job, fence, *_ = lease
    if ended.word == "retried" and "retry_seat" not in off:
        yield from run(server, "requeue", job, ended.fence, "lost", ended.ticket)
    elif ended.word in ("ended", "repeat"):
        yield heard, job, ended.rest[0]
        yield from run(server, "release", job, fence)
    elif ended.word == "known":
        yield task_rows.note, job, fence, "known"


def _extend(server: int, lease: Lease, answer: str) -> Path:
    job, fence, *_ = lease
    if "extend_script" in off:
        yield task_rows.note, job, fence, answer
        return
    epoch, reply = yield from run(server, "renew", job, fence)
    if reply.word == "lost":
        return
    recorded = yield task_rows.extend, epoch, job, fence, reply.due, answer
    if recorded.word == "extended":
        yield told, job, fence, recorded.due
    elif recorded.word == "stale":
        yield outdated, server, epoch


def free_slot(server: int, ended: Reply, verb: str, *args: int) -> Path:
    """After an end without the provider's word: the slot drains if a stop is owed."""
    job, fence = ended.job, ended.fence
    if "owe" in ended.rest:
        yield task_rows.owe, job, fence
    if ended.rest and "slot_waits" not in off:
        yield from run(server, "drain", job, fence)
    else:
        yield from run(server, verb, *args)


def look(server: int) -> Path:
    """Count at each account; then SQL, then Redis, as for any change of the limit."""
    counts = yield (provider.counts,)
    changed = yield task_rows.set_rooms, counts
    yield from run(server, "configure", *changed.rest)


def stop_task(server: int, lease: Lease) -> Path:
    """The provider first, then SQL, then the slot."""
    job, fence, *_ = lease
    answer = yield provider.stop, job, fence
    if answer == "over":
        yield task_rows.stopped, job, fence
        yield from run(server, "release", job, fence, True)
