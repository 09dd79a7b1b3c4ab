"""What the sweep calls a difference: `examine` of the sweep, over the model's stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.proof.model.state import ENDED, HOLDING, Entry, Note, Redis, Row, Task, of, off


class Finding(NamedTuple):
    """`kind` names the repair, `fence` the grant that it is about (0: of a place in the queue)."""

    kind: str
    job: int
    fence: int = 0

    @staticmethod
    def grant(seen: Redis, job: int) -> Note:
        """The entry of the outbox that is missing."""
        entry = of(seen.slots, job)
        assert entry is not None
        return Note("granted", job, entry.ticket, entry.fence, entry.due, seen.epoch)


def examine(seen: Redis, rows: tuple[Row, ...], draining: tuple[Task, ...] = ()) -> list[Finding]:
    """`draining` are the tasks that are to be stopped before their slots are free."""
    return [finding for finding in _differences(seen, rows, draining) if f"sweep_{finding.kind}" not in off]


def _ended(row: Row, there: Entry, draining: tuple[Task, ...]) -> Iterator[Finding]:
    drains = any(task.job == row.job and task.fence == row.fence == there.fence for task in draining)
    if drains and "sweep_leaves" not in off:
        if not there.draining:
            yield Finding("drain", row.job, row.fence)
    else:
        yield Finding("ended", row.job)


def _differences(seen: Redis, rows: tuple[Row, ...], draining: tuple[Task, ...]) -> Iterator[Finding]:
    spoken_of = {note.job for note in seen.outbox if note.kind != "passed"}
    for row in rows:
        job = row.job
        holds, waits = of(seen.slots, job), of(seen.queue, job)
        there = holds or waits
        if not row.status and not there and any(note.job == job for note in seen.outbox):
            yield Finding("unheard", job)
        elif job in spoken_of:
            continue
        elif there is None:
            if row.status in HOLDING:
                yield Finding("restore" if row.due else "overdue", job, row.fence)
            elif row.status == "queued":
                yield Finding("seat", job)
        elif row.status in ENDED:
            yield from _ended(row, there, draining)
        elif not row.status:
            yield Finding("stranger", job, there.fence)
        elif row.status == "queued":
            if holds:
                yield Finding("adopt" if holds.fence > row.fence else "give_back", job, holds.fence)
        elif holds is None:
            yield Finding("restore" if row.due else "overdue", job, row.fence)
        elif holds.fence != row.fence:
            yield Finding("stranger", job, holds.fence)
