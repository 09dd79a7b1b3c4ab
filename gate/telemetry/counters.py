"""Counters of this process since it started. They are plain integers, so a request pays almost nothing for them.

This module does not know Prometheus: `gate.http.metrics` turns the counters into metric families. There are no locks, because
one thread alone (the event loop or the writer) adds to each counter. A read between two steps of an update is at most one too
small.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds (s) of the histograms of scripts and responses. An alert of its own reports what takes longer than the last."""


class Histogram:
    """A histogram with fixed bounds.

    Attributes:
        bounds: Upper bound of each bucket, included in it.
        counts: Values in each bucket. The last bucket holds the values above all bounds.
        sum: Sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Answers:
    """Responses of one route.

    Attributes:
        by_class: Number of responses by the first digit of the status.
        seconds: Time (s) from the request to the start of the response.
    """

    __slots__ = ("by_class", "seconds")

    def __init__(self) -> None:
        self.by_class = [0] * 6
        self.seconds = Histogram()


scripts: dict[str, Histogram] = {}
"""Time (s) from call to reply of each script, by verb."""
undone: Counter[str] = Counter()
"""Scripts that did nothing and were called again, by reason: `cold`, `elsewhere`, `damaged`, `stepped`."""
rebuilds: Counter[tuple[str, str]] = Counter()
"""Rebuilds, by pool and result: `loaded`, `refused`, `foreign`."""
clock_steps: Counter[tuple[str, str]] = Counter()
"""Steps of Redis's clock that this process has met first, by pool and direction: `forward`, `back`."""
commits = Histogram((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0))
"""Commits of the writer, by the number of requests in each."""
stale: Counter[str] = Counter()
"""Replies of Redis that SQL did not record, by pool. They had another epoch or were too old."""
repairs: Counter[str] = Counter()
"""Repairs of the reconciler, by kind."""
deliveries: Counter[tuple[str, str]] = Counter()
"""Calls to tools, by kind and result."""
questions: Counter[tuple[str, str]] = Counter()
"""Questions to providers about tasks, by provider and answer; `silent` is no reply."""
retries: Counter[str] = Counter()
"""Jobs that were started again after a failure of their provider, by pool."""
ends_by_question: Counter[tuple[str, str]] = Counter()
"""Ends that a question has brought, by provider and effect."""
callback_ends: Counter[tuple[str, str]] = Counter()
"""Callbacks of an end, by provider and effect."""
callbacks_missing: Counter[str] = Counter()
"""Ends that a question has brought before a callback, at a provider that is to call back, by provider."""
question_seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
"""Time (s) from a question to its answer, or to the end of the wait for one, by provider."""
extensions: Counter[str] = Counter()
"""Leases that were extended for a question or by its answer, by provider."""
stops: Counter[tuple[str, str]] = Counter()
"""Stops of tasks that are settled, by provider and result: `confirmed`, `given_up`."""
not_understood: Counter[str] = Counter()
"""Callbacks of a success whose output has an unknown shape, by provider."""
unread_callbacks: Counter[str] = Counter()
"""Callbacks with the right secret that could not be read, by provider."""
answers: dict[tuple[str, str], Answers] = {}
"""Responses by method and route, as the route table writes it."""


def forget(pool: str) -> None:
    """Drop the counters of a pool that was deleted."""
    stale.pop(pool, None)
    retries.pop(pool, None)
    for of_pools in (rebuilds, clock_steps):
        for key in [key for key in of_pools if key[0] == pool]:
            del of_pools[key]
