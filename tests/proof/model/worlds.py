"""What a safeguard is written down as, and the worlds in which the search looks for the harm of its loss."""

from __future__ import annotations

from typing import NamedTuple

from tests.proof.model.world import World

EVERYTHING = frozenset({"stop", "twice", "down", "doubt", "hang", "flush", "rebuild", "hands"})
STOP = frozenset({"stop"})
BRIEF = frozenset({"failed"})
BEATS = frozenset({"failed", "renew"})
CALLS = frozenset({"failed", "completed", "again", "renew", "cancel"})

ANY = World(kinds=EVERYTHING, calls=CALLS)
"""Two jobs, one slot, one fault of any kind."""
REFUSED = World(kinds=STOP | {"twice", "hands", "flush"}, refusals=1, calls=BEATS)
"""The provider refuses one of them."""
TWICE_REFUSED = World(refusals=2, calls=frozenset())
"""And once more."""
CHANGED = World(kinds=STOP | {"hands", "down"}, changes=1, calls=BRIEF)
"""The pool is paused."""
RESUMED = World(kinds=STOP, changes=2, calls=BRIEF)
"""Paused, and resumed."""
REPLACED = World(jobs=1, kinds=frozenset({"failover"}), servers=2)
"""Two servers, and a replica that lags takes over."""
REBUILT = World(jobs=1, faults=2, kinds=STOP | {"flush", "rebuild", "twice"}, refusals=1, calls=BEATS)
"""One job, two faults around a rebuild."""
STOPS = World(jobs=1, faults=2, kinds=STOP | {"down"}, calls=BEATS)
"""One job, and two processes that stop, or SQL that fails."""
BRIEFLY = World(kinds=STOP | {"doubt", "hands"}, calls=frozenset({"completed"}))
"""Little happens, so that what stays undone is found soon."""
ALONE = World(jobs=1, refusals=1, calls=BRIEF)
"""One job, refused once."""
CLOCK = World(faults=2, kinds=STOP | {"clock"}, servers=2, calls=BRIEF, jobs=1)
"""Two servers, and the clock of Redis steps, twice or while one of them stands still."""
TWO = World(faults=2, kinds=STOP | {"flush"}, calls=BRIEF)
"""Two jobs, two faults."""
THREE = World(jobs=3, limit=2, refusals=2, faults=0, calls=BRIEF)
"""Three jobs, two slots, two refusals: the order of the queue."""
AWAY = World(jobs=3, faults=0, calls=frozenset({"completed", "away"}))
"""Three jobs, one slot, and callers of waiters that are away for a while."""
AWAY_AND_STOPPED = World(kinds=STOP, calls=frozenset({"failed", "away"}))
"""Two jobs, one of whose callers is away, and a fault."""

QUICK = {
    "one fault of any kind": World(kinds=EVERYTHING, calls=frozenset({"failed", "again", "renew"})),
    "two refusals": World(jobs=1, kinds=EVERYTHING, refusals=2, calls=BEATS),
    "a pause": CHANGED,
    "a clock that steps": CLOCK,
    "a Redis that is replaced": REPLACED,
    "callers that are away": AWAY,
    "away, and a fault": AWAY_AND_STOPPED,
}
WHOLE = {
    "one fault of any kind": ANY,
    "a refusal": World(kinds=EVERYTHING, refusals=1, calls=BEATS),
    "a pause and its end": RESUMED,
    "a clock that steps": World(faults=2, kinds=STOP | {"clock", "flush"}, calls=BEATS),
    "a rebuild, two faults": REBUILT,
    "two faults": TWO,
    "callers that are away": AWAY,
    "away, and any fault": World(kinds=STOP | {"flush", "twice", "down"}, calls=frozenset({"failed", "again", "away"})),
    "three jobs, one slot": World(jobs=3, calls=frozenset({"completed"})),
    "three jobs, two slots": THREE,
    "a Redis that is replaced": World(kinds=frozenset({"failover"}), servers=2, calls=BRIEF),
    "replaced, and a server stops": World(jobs=1, faults=2, kinds=frozenset({"failover", "stop"}), servers=2, calls=BEATS),
}


class Safeguard(NamedTuple):
    """A safeguard of the protocol, and the world in which the search finds the harm of its loss.

    `world` is the smallest in which the loss shows, and `quick` says that it shows soon. `mark` is the name of the guard in the
    source (tests/proof/guards/guards.py); without one, `unmarked` says why. The safeguard is removed together with those `behind` which
    it is a second net, and then `harm` is what has to come of it.
    """

    name: str
    demands: str
    world: World
    mark: str = ""
    quick: bool = True
    behind: tuple[str, ...] = ()
    harm: str = ""
    unmarked: str = ""
