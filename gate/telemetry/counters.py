"""What this process has counted since it started: plain integers, that cost a request next to nothing.

Nothing here knows Prometheus: whoever asks for `/metrics` turns these into families (`gate.http.metrics`). No locks: each figure is
added to by one thread (the event loop, or the writer's), and a figure read between two steps of it is one too small at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of a script, and of an answer: what takes longer than the last has its own alarm."""


class Histogram:
    """`counts[i]` are the values of at most `bounds[i]` that are above the bound before it; the last are above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Answers:
    """Of one route: by the first digit of the status, and how long until they began."""

    __slots__ = ("by_class", "seconds")

    def __init__(self) -> None:
        self.by_class = [0] * 6
        self.seconds = Histogram()


scripts: dict[str, Histogram] = {}
"""By verb: from the question to the answer."""
undone: Counter[str] = Counter()
"""Scripts that did nothing and were asked again, by the word that they answered: `cold`, `elsewhere`, `damaged`."""
rebuilds: Counter[tuple[str, str]] = Counter()
"""By pool and the word that Redis answered: `loaded`, `refused`, `foreign`."""
commits = Histogram((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0))
"""Of the writer, by how many requests each carried."""
stale: Counter[str] = Counter()
"""By pool: answers of Redis that SQL would not record, because they were of another epoch or too long ago."""
repairs: Counter[str] = Counter()
"""Of the sweep, by kind."""
deliveries: Counter[tuple[str, str]] = Counter()
"""By kind and result."""
not_understood: Counter[str] = Counter()
"""By provider: callbacks of a success whose output has an unknown shape."""
unread_callbacks: Counter[str] = Counter()
"""By provider: callbacks that showed the right secret and could not be read."""
answers: dict[tuple[str, str], Answers] = {}
"""By method and route, as it is written in the table of routes."""
