"""Pairs a second: acquire and release over HTTP, durable, with everything on that a user has on, beside a route that does nothing and
beside what else one might use.

Rounds are interleaved, each beginning with another contender, and each figure is the median over rounds: on a noisy machine only
ratios of one run mean anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import contenders
from bench.medians import middle
from bench.progress import say

SERIES = ("per_s", "p50_ms", "p99_ms", "cpu_us", "load_us", "refused")


def run(
    folder: Path,
    clients: tuple[int, ...] = (32,),
    rounds: int = 7,
    seconds: float = 2.0,
    names: tuple[str, ...] = contenders.ALL,
) -> dict[str, Any]:
    """By clients and contender: each figure by round, and the percentiles of a request's milliseconds, medians over rounds."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with contenders.started(folder, names) as started:
        for one in started:
            one.measure(max(clients), min(seconds, 1.0), "warm")
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            first = number % len(started)
            for count in clients:
                for one in started[first:] + started[:first]:
                    if figure := one.measure(count, seconds, f"r{number}-{count}"):
                        found.setdefault(str(count), {}).setdefault(one.name, []).append(figure)
        stayed = [one.name for one in started if not one.failed]
    return {
        "rounds": rounds,
        "seconds": seconds,
        "clients": {count: {name: _series(of[name]) for name in stayed} for count, of in found.items()},
    }


def _series(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    spreads = zip(*(one["spread_ms"] for one in rounds), strict=True)
    return {what: [one[what] for one in rounds] for what in SERIES} | {"spread_ms": [middle(list(of)) for of in spreads]}
