"""The paths of the gatekeeper that callers, holders and operators start."""

from __future__ import annotations

from collections.abc import Callable

from tests.proof.model import rows
from tests.proof.model.asking import ask, callback, denied, free_slot, hint, look, start, stop_task
from tests.proof.model.keeping import give_back, record, settle, sweep, tick
from tests.proof.model.running import TRIES, Down, Path, loads, rebuild, run
from tests.proof.model.state import Entry, Lease, Reply, off
from tests.proof.model.steps import heard, outdated, told


def acquire(server: int, job: int) -> Path:
    for _ in range(TRIES):
        epoch, decision = yield from run(server, "acquire", job)
        fence = decision.fence if decision.word == "running" else 0
        kept = decision.known or decision.word == "unrecorded"
        try:
            admitted = yield from _admit(server, epoch, decision, fence)
        except Down:
            if "undo" not in off and not kept:
                yield from run(server, "undo", job, decision.ticket)
            raise
        if admitted.word == "stale":
            yield outdated, server, epoch
            continue
        if admitted.word in ("ended", "live") and not kept:
            yield from run(server, "undo", job, decision.ticket)
        if admitted.word == "live":
            yield from run(server, "restore", Entry(job, admitted.ticket, admitted.fence, admitted.due, True))
        if admitted.word == "admitted" and admitted.rest[0] == "running":
            yield told, job, admitted.fence, admitted.due
        return


def _admit(server: int, epoch: int, decision: Reply, fence: int) -> Path:
    job, leased = decision.job, fence > 0
    admitted = yield rows.admit, epoch, decision, leased
    if admitted.word == "no_room":
        yield from record(server)
        admitted = yield rows.admit, epoch, decision, leased
    if admitted.word == "no_room":
        admitted = yield rows.admit, epoch, decision, False, leased
        if admitted.word == "admitted" and leased and admitted.rest[0] == "queued":
            yield from give_back(server, Lease(job, fence, admitted.ticket, "not_taken"))
    return admitted


def extend(server: int, verb: str, lease: Lease) -> Path:
    job, fence, *_ = lease
    for _ in range(TRIES):
        if "told_after" in off:
            yield told, job, fence, 9
        epoch, reply = yield from run(server, verb, job, fence)
        if reply.word == "lost":
            return
        recorded = yield rows.extend, epoch, job, fence, reply.due
        if recorded.word == "extended":
            yield told, job, fence, recorded.due
        if recorded.word == "stale":
            yield outdated, server, epoch
        elif recorded.word == "queued":
            yield from record(server)
        else:
            return


def release(server: int, lease: Lease, outcome: str) -> Path:
    job, fence, *_ = lease
    if "sql_first" in off:
        yield from run(server, "release", job, fence)
        yield heard, job, outcome
    ended = yield rows.end, job, outcome, fence
    if ended.word in ("ended", "repeat"):
        yield heard, job, outcome
        yield from free_slot(server, ended, "release", job, fence)


def cancel(server: int, job: int) -> Path:
    ended = yield rows.end, job, "cancelled", None
    if ended.word in ("ended", "repeat"):
        yield heard, job, "cancelled"
        yield from free_slot(server, ended, "cancel", job)


def refuse(server: int, lease: Lease) -> Path:
    job, fence, *_ = lease
    refused = yield rows.refuse, job, fence
    if refused.word == "refused":
        yield from run(server, "requeue", job, refused.fence, "refused", refused.ticket)


def show(server: int, job: int) -> Path:
    """A poll of the caller of a waiter."""
    yield from run(server, "show", job)


def change(server: int, limit: int, paused: bool) -> Path:
    yield rows.change_pool, limit, paused
    yield from run(server, "configure", limit, paused)


def hangs(server: int, epoch: int, decision: Reply, leased: bool) -> Path:
    """A commit that comes after its caller was let go."""
    yield rows.admit, epoch, decision, leased


PATHS: dict[str, Callable[..., Path]] = {
    path.__name__: path
    for path in (
        acquire,
        hangs,
        loads,
        extend,
        release,
        cancel,
        refuse,
        show,
        change,
        record,
        tick,
        sweep,
        settle,
        rebuild,
        start,
        callback,
        hint,
        ask,
        denied,
        look,
        stop_task,
    )
}
