"""What is made of many rounds: medians, ratios within a round, percentiles."""

from __future__ import annotations

import statistics

PERCENTS = [*range(100), 99.5, 99.9]
"""Which percentiles of a distribution are kept."""


def middle(values: list[float]) -> float:
    return statistics.median(values)


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median over rounds of what was measured in the same round."""
    return middle([one / other for one, other in zip(mine, theirs, strict=True)])


def percentiles(values: list[float], scale: float = 1.0) -> list[float]:
    """One for each of PERCENTS."""
    ordered = sorted(values)
    return [ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * scale for percent in PERCENTS]
