"""Estimates of when each waiter gets a slot.

An estimate follows from the duration of past runs of each tool, from the age of the current runs, and from the jobs ahead. It
is for people. gate decides nothing by it, so it may be a second old.
"""

from __future__ import annotations

import heapq
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gate.ledger import InLine, LedgerQueries

RUNS_TTL_S = 10.0
"""Age (s) at which the durations of past runs are read again. They change slowly."""
LINE_TTL_S = 1.0
"""Age (s) at which the estimates of a pool are made again, so that many waiters cost one query a second."""
Runs = dict[str | None, list[int]]
"""Durations (ms) of the last runs of each tool, the shortest first. The key None has the runs of all tools."""
AHEAD_MAX = 500
"""Jobs at the front of a pool that are estimated by their own tools. Waiters behind them count as average jobs."""


@dataclass(slots=True)
class _Pool:
    runs: Runs = field(default_factory=dict)
    runs_at: float = -RUNS_TTL_S
    turns: dict[str, float] = field(default_factory=dict)
    behind: float | None = None
    turns_at: float = -LINE_TTL_S


class EtaEstimator:
    """Estimates when waiters get a slot, and keeps the estimates of each pool for a second."""

    def __init__(self, reading: LedgerQueries, now_ms: Callable[[str], int]) -> None:
        """Estimate from past runs.

        Args:
            reading: Reads the runs and the queue.
            now_ms: Says what the clock of a pool shows (ms since 1970).
        """
        self._reading, self._now_ms = reading, now_ms
        self._pools: dict[str, _Pool] = {}

    def forget(self, pool: str) -> None:
        """Forget a pool that was deleted."""
        self._pools.pop(pool, None)

    async def eta(self, pool: str, job_id: str, position: int, limit: int) -> float | None:
        """Estimate when a waiter gets a slot.

        Args:
            pool: Name of the pool.
            job_id: The waiter.
            position: Its position in the queue; 1 is next.
            limit: Slots of the pool.

        Returns:
            Time (ms since 1970). None when no run of the pool has completed yet, or the pool has no slots.

        Raises:
            StoreDown: SQL does not answer.
        """
        known = self._pools.setdefault(pool, _Pool())
        now = time.monotonic()
        if now - known.runs_at > (RUNS_TTL_S if known.runs else LINE_TTL_S):
            known.runs_at = now
            known.runs = by_tool(await self._reading.runs(pool))
        if now - known.turns_at > LINE_TTL_S:
            known.turns_at = now
            known.turns, known.behind = simulate(
                await self._reading.line(pool, AHEAD_MAX), known.runs, limit, self._now_ms(pool)
            )
        if not known.runs or limit <= 0:
            return None
        if (turn := known.turns.get(job_id)) is not None:
            return turn
        behind = self._now_ms(pool) if known.behind is None else known.behind
        return behind + max(position - len(known.turns) - 1, 0) * whole(0, known.runs[None]) / limit


def by_tool(runs: Sequence[tuple[str | None, int]]) -> Runs:
    """Sort runs, given as tool and duration (ms), by tool and by duration."""
    found: Runs = {}
    for tool, took_ms in runs:
        found.setdefault(tool, []).append(took_ms)
    if runs:
        found[None] = [took_ms for _, took_ms in runs]
    return {tool: sorted(took) for tool, took in found.items()}


def whole(ran_ms: float, took: Sequence[int]) -> float:
    """Estimate the whole duration (ms) of a run.

    Args:
        ran_ms: Age of the run (ms).
        took: Durations of past runs (ms), the shortest first.

    Returns:
        The median of the past runs that took longer than `ran_ms`. When none did, twice `ran_ms`, because an estimate of
        "any moment now" that stays for minutes is of no use.
    """
    longer = took[bisect_right(took, ran_ms) :]
    return statistics.median(longer) if longer else 2 * ran_ms


def turns(line: Sequence[InLine], runs: Runs, limit: int, at_ms: int) -> dict[str, float]:
    """Estimate when each waiter gets a slot (ms since 1970), by job_id. See `simulate`."""
    return simulate(line, runs, limit, at_ms)[0]


def simulate(line: Sequence[InLine], runs: Runs, limit: int, at_ms: int) -> tuple[dict[str, float], float | None]:
    """Estimate when each waiter gets a slot, by a simulation of the queue.

    In it a holder leaves when a run of its tool would be over, at its deadline at the latest. The first waiter then takes its
    slot.

    Args:
        line: Holders and waiters of the pool, in order.
        runs: Durations of past runs.
        limit: Slots of the pool.
        at_ms: Time at which the simulation starts (ms since 1970).

    Returns:
        Time (ms since 1970) by job_id, and that of the next job to come. Empty and None when nothing can be estimated.
    """
    if not runs or limit <= 0:
        return {}, None
    took = {tool: runs.get(tool, runs[None]) for tool in {one.tool for one in line}}
    lasts = {tool: whole(0, of_tool) for tool, of_tool in took.items()}
    free = [
        min(one.granted_at + whole(at_ms - one.granted_at, took[one.tool]), max(one.due or at_ms, at_ms))
        for one in line
        if one.granted_at is not None
    ]
    free += [at_ms] * (limit - len(free))
    heapq.heapify(free)
    while len(free) > limit:  # more jobs hold slots than the limit allows, so the first free slots are not granted again
        heapq.heappop(free)
    found = {}
    for one in line:
        if one.granted_at is None:
            found[one.job_id] = heapq.heappop(free)
            heapq.heappush(free, found[one.job_id] + lasts[one.tool])
    return found, free[0]
