"""How the keeper runs a script, and how it loads a pool that Redis has lost.

A path is a generator. It yields its next step, a function and what it is given, and gets the answer. Between two steps the world
moves, or the process stands still (calls.py); a path is therefore walked again from its beginning with the answers that it had,
and must ask nothing else. Steps of `MEMORY` are inside a server and take no time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tests.proof.model import rows
from tests.proof.model.state import Entry, Row, Task, off
from tests.proof.model.steps import connected_to, knows, learns, load, script

Step = tuple[Any, ...]
Path = Generator[Step, Any, Any]
TRIES = 3


class Down(Exception):
    """A store does not answer (StoreDown)."""


def run(server: int, verb: str, *args: Any) -> Path:
    for _ in range(TRIES):
        epoch = yield knows, server
        reply = yield script, server, verb, epoch, *args
        if reply.word == "stepped":
            yield script, server, "shift", epoch, *reply.rest
            continue
        if reply.word not in ("cold", "other"):
            return epoch, reply
        yield from rebuild(server, epoch if reply.word == "cold" else None)
    raise Down


def rebuild(server: int, refused: int | None) -> Path:
    """`refused`: the epoch under which Redis was cold; None: it is another Redis than the one that was known."""
    if refused is not None and (yield knows, server) != refused:
        return
    identity, floor = (yield connected_to, server), 0
    for _ in range(TRIES):
        begun = yield rows.begin_rebuild, refused, identity, floor
        if begun.word == "replaced":
            raise Down
        epoch = begun.rest[0]
        if begun.word == "taken":
            yield learns, server, epoch, identity
            return
        _, limit, paused, live = begun.rest
        loaded = yield load, server, epoch, limit, paused, tuple([entry_of(row) for row in live])
        if "committed_first" in off:
            yield rows.begin_late, epoch, identity
        if loaded.word == "loaded":
            yield learns, server, epoch, identity
            return
        refused, floor = epoch, loaded.rest[0]


def entry_of(row: Row | Task) -> Entry:
    if isinstance(row, Task):
        return Entry(row.job, 0, row.fence, row.due, True, draining=True)
    if row.status == "queued":
        return Entry(row.job, row.ticket)
    return Entry(row.job, row.ticket, row.fence, row.due, row.status == "running")


def loads(server: int, *args: Any) -> Path:
    """A load that comes twice: its first reply was lost."""
    yield load, server, *args
