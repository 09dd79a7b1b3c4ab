"""What gate does by itself: the recorder, the tick and the sweep."""

from __future__ import annotations

from typing import Any

from tests.proof.model import rows
from tests.proof.model.running import Path, entry_of, run
from tests.proof.model.state import Lease, of, off
from tests.proof.model.steps import delete_notes, knows, notes, outdated, settings
from tests.proof.model.sweeping import Finding, examine


def record(server: int) -> Path:
    epoch = yield knows, server
    page = yield notes, server
    if not page:
        return
    if "delete_after" in off:
        yield delete_notes, server, page
    yield from _apply(server, epoch, page)


def _apply(server: int, epoch: int, page: tuple[Any, ...]) -> Path:
    recorded = yield rows.record, epoch, page
    if recorded.word == "stale":
        yield outdated, server, epoch
        return
    done, returns = recorded.rest
    if done:
        yield delete_notes, server, done
    for back in returns:
        yield from give_back(server, back)


def give_back(server: int, back: Lease) -> Path:
    yield from run(server, "requeue", back.job, back.fence, back.why, back.ticket)


def tick(server: int) -> Path:
    yield from run(server, "tick")


def sweep(server: int, before: Finding) -> Path:
    """The second of two looks; `before` is what the first one saw."""
    epoch = yield knows, server
    seen = yield rows.survey, server
    found = yield (rows.live_rows,)
    draining = yield (rows.live_tasks,)
    if seen.epoch != epoch or before not in examine(seen, found.rest, draining):
        return
    kind, job, fence = before
    row = found.rest[job]
    if kind == "ended":
        yield from run(server, "cancel", job)
    elif kind == "drain":
        yield from run(server, "drain", job, fence)
    elif kind in ("stranger", "unheard"):
        yield from _free(server, epoch, before, seen)
    elif kind == "overdue":
        expired = yield rows.expire_overdue, epoch, job, fence
        if expired.word == "expired":
            yield from run(server, "cancel", job)
    elif kind == "restore":
        yield from run(server, "restore", entry_of(row))
    elif kind == "adopt":
        yield from _apply(server, epoch, (Finding.grant(seen, job),))
    else:
        yield from give_back(server, Lease(job, fence, row.ticket, "lost"))


def _free(server: int, epoch: int, what: Finding, seen: Any) -> Path:
    mine = tuple([note for note in seen.outbox if note.job == what.job])
    fence = max([note.fence for note in mine], default=0) if what.kind == "unheard" else what.fence
    voided = yield rows.void, epoch, what.job, fence
    if voided.word != "void":
        return
    if what.kind == "unheard":
        yield delete_notes, server, mine
    elif what.fence:
        yield from run(server, "release", what.job, what.fence)
    elif "leave_ticket" in off:
        yield from run(server, "cancel", what.job)
    else:
        place = of(seen.queue, what.job)
        assert place is not None
        yield from run(server, "leave", what.job, place.ticket)


def settle(server: int) -> Path:
    """The sweep's `settings`: Redis has those of SQL."""
    limit, paused = yield (settings,)
    yield from run(server, "configure", limit, paused)
