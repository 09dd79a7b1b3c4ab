"""The worlds with a provider."""

from __future__ import annotations

from tests.proof.model.world import World
from tests.proof.model.worlds import STOP

ENDS = frozenset({"failed", "cancel"})
CANCEL = frozenset({"cancel"})
ONE = (1,)

TASK = World(jobs=1, faults=0, accounts=ONE, calls=ENDS)
"""One job and its task."""
SILENT = World(jobs=1, faults=0, accounts=ONE, outages=1, calls=ENDS)
"""The provider is away, or denies a task that it has."""
DENIED = World(jobs=1, faults=0, accounts=ONE, outages=2, calls=ENDS)
"""Both, or each twice."""
HURRIED = World(jobs=1, accounts=ONE, calls=ENDS)
"""A process stops."""
ABSENT = World(jobs=1, accounts=ONE, outages=1, calls=CANCEL)
"""A process stops, and the provider is away."""
AWAY_FOR_LONG = World(jobs=1, faults=0, accounts=ONE, outages=1, calls=CANCEL)
"""The provider is away, and the job is cancelled."""
RETURNED = World(jobs=1, faults=0, refusals=1, accounts=ONE, calls=ENDS)
"""The job is refused once."""
ANSWERED = World(jobs=1, refusals=1, accounts=ONE, calls=frozenset())
"""Refused once, and a process stops."""
QUEUED = World(faults=0, accounts=ONE, calls=ENDS)
"""Two jobs, one slot."""
REPEATED = World(faults=0, accounts=ONE, calls=CANCEL | {"again"})
"""Calls are repeated."""
CLEARED = World(jobs=1, kinds=STOP | {"flush"}, accounts=ONE, calls=CANCEL)
"""Redis is lost."""
KEYS = World(jobs=3, limit=2, faults=0, accounts=(1, 1), calls=CANCEL)
"""Three jobs, two accounts of one task each."""
CROWDED = World(jobs=3, limit=2, accounts=(1, 1), calls=CANCEL)
"""... and a process stops."""
STRANGER = World(jobs=1, limit=2, faults=0, accounts=(2,), strangers=1, calls=CANCEL, capacity=True)
"""One account of two tasks, and a stranger on it."""
UNCOUNTED = World(jobs=1, limit=2, faults=0, accounts=(2,), outages=1, strangers=1, calls=frozenset(), capacity=True)
"""... and the provider goes away."""
STUCK_COUNTER = World(jobs=1, faults=0, kinds=STOP | {"stuck"}, accounts=ONE, outages=1, calls=CANCEL, capacity=True)
"""The counter of the provider is stuck."""
TWO_KEYS = World(jobs=1, limit=2, faults=0, refusals=1, accounts=(1, 1), strangers=1, calls=CANCEL, capacity=True)
"""Two accounts, and a stranger on the first."""
RETRIED = World(jobs=1, accounts=ONE, calls=frozenset(), retry=1)
"""A failure of the provider is tried again once, and a process stops."""
RETRIED_WHOLE = World(jobs=1, faults=0, accounts=ONE, calls=frozenset(), retry=1)
"""... and none stops."""
RETRIED_TWICE = World(jobs=1, faults=0, accounts=ONE, calls=frozenset({"again", "failed"}), retry=2)
"""It is tried again twice, and calls are repeated."""
OVERTAKEN = World(jobs=1, accounts=ONE, calls=frozenset(), retry=2)
"""It is tried again twice, and a process stops."""
RELEASED = World(jobs=1, accounts=ONE, calls=frozenset({"failed"}), retry=1)
"""... while its holder releases it."""
HINTED = World(jobs=1, faults=0, accounts=ONE, calls=frozenset(), hints=True)
"""Callbacks are not believed, and may be forged."""
HINTED_MEANWHILE = World(jobs=1, accounts=ONE, calls=frozenset(), hints=True)
"""... and a process stops."""

PROVIDER_QUICK = {
    "a task": World(jobs=1, faults=0, refusals=1, outages=1, accounts=ONE, calls=ENDS | {"renew"}),
    "a provider that is away or lies": DENIED,
    "a task, and a process that stops": HURRIED,
    "a task, and Redis is lost": CLEARED,
    "two tasks, one slot": REPEATED,
    "a stranger": STRANGER,
    "a counter that is stuck": STUCK_COUNTER,
    "two accounts, and a stranger": TWO_KEYS,
    "a failure that is tried again": RETRIED,
    "callbacks that are not believed": HINTED_MEANWHILE,
    "two tasks, two accounts": World(limit=2, faults=0, accounts=(1, 1), calls=frozenset()),
}
PROVIDER_WHOLE = {
    "a task, two outages": World(jobs=1, faults=0, refusals=1, outages=2, accounts=ONE, calls=ENDS | {"renew"}),
    "an outage, and a process that stops": World(jobs=1, outages=1, accounts=ONE, calls=ENDS, kinds=STOP | {"flush"}),
    "two servers, an outage and a stop": World(jobs=1, outages=1, accounts=ONE, calls=CANCEL, servers=2),
    "two failures that are tried again": World(jobs=1, accounts=ONE, calls=CANCEL, kinds=STOP | {"flush"}, retry=2),
    "two tasks, and failures that are tried again": World(faults=0, accounts=ONE, calls=CANCEL | {"again"}, retry=1),
    "hints, an outage and a retry": World(jobs=1, outages=1, accounts=ONE, calls=CANCEL, hints=True, retry=1),
    "two tasks, one slot, an outage": World(faults=0, outages=1, accounts=ONE, calls=CANCEL | {"again"}),
}
