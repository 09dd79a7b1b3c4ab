"""How long those who wait will probably wait: from how long runs of each tool took, what the holders have left, who is ahead.

An estimate for people. Nothing is decided by it, so it may be a second old.
"""

from __future__ import annotations

import heapq
import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from gate.ledger import InLine, LedgerQueries
from gate.model.job import now_ms

RUNS_TTL_S = 10.0
LINE_TTL_S = 1.0
Runs = dict[str | None, list[int]]
"""How many milliseconds the last runs of each tool took, the shortest first; those of all tools under None."""
AHEAD_MAX = 500
"""Waiters whose own tools count; those behind them are taken for average ones."""


@dataclass(slots=True)
class _Pool:
    runs: Runs = field(default_factory=dict)
    runs_at: float = -RUNS_TTL_S
    turns: dict[str, float] = field(default_factory=dict)
    turns_at: float = -LINE_TTL_S


class EtaEstimator:
    def __init__(self, reading: LedgerQueries) -> None:
        self._reading = reading
        self._pools: dict[str, _Pool] = {}

    async def eta(self, pool: str, job_id: str, position: int, limit: int) -> float | None:
        """When this waiter will be granted, in ms since 1970. None when no run of the pool has completed yet, or nothing will
        be granted.
        """
        known = self._pools.setdefault(pool, _Pool())
        now = time.monotonic()
        if now - known.runs_at > (RUNS_TTL_S if known.runs else LINE_TTL_S):
            known.runs_at = now
            known.runs = by_tool(await self._reading.runs(pool))
        if now - known.turns_at > LINE_TTL_S:
            known.turns_at = now
            known.turns = turns(await self._reading.line(pool, AHEAD_MAX), known.runs, limit, now_ms())
        if not known.runs or limit <= 0:
            return None
        if (turn := known.turns.get(job_id)) is not None:
            return turn
        seen = max(known.turns.values(), default=now_ms())
        return seen + max(position - len(known.turns), 1) * whole(0, known.runs[None]) / limit


def by_tool(runs: Sequence[tuple[str | None, int]]) -> Runs:
    found: Runs = {}
    for tool, took_ms in runs:
        found.setdefault(tool, []).append(took_ms)
    if runs:
        found[None] = [took_ms for _, took_ms in runs]
    return {tool: sorted(took) for tool, took in found.items()}


def whole(ran_ms: float, took: Sequence[int]) -> float:
    """How long a run that has lasted `ran_ms` so far will have taken: the median of those that took longer still. As long again
    when none did: something that is over any moment now, for minutes, is no estimate.
    """
    longer = took[bisect_right(took, ran_ms) :]
    return statistics.median(longer) if longer else 2 * ran_ms


def turns(line: Sequence[InLine], runs: Runs, limit: int, at_ms: int) -> dict[str, float]:
    """Plays the line forward: whoever holds a slot goes when a run of his tool is over, at his deadline at the latest, and the
    first who waits comes.
    """
    if not runs or limit <= 0:
        return {}
    took = {tool: runs.get(tool, runs[None]) for tool in {one.tool for one in line}}
    lasts = {tool: whole(0, of_tool) for tool, of_tool in took.items()}
    free = [
        min(one.granted_at + whole(at_ms - one.granted_at, took[one.tool]), max(one.due or at_ms, at_ms))
        for one in line
        if one.granted_at is not None
    ]
    free += [at_ms] * (limit - len(free))
    heapq.heapify(free)
    while len(free) > limit:  # lowered below what runs: those who go first are not followed
        heapq.heappop(free)
    found = {}
    for one in line:
        if one.granted_at is None:
            found[one.job_id] = heapq.heappop(free)
            heapq.heappush(free, found[one.job_id] + lasts[one.tool])
    return found
