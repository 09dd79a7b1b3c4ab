"""A pool in figures, read and not touched. No script: each of those reaps and promotes, and whoever watches whether that is done must
not be the one who does it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from gate.slots import keys
from gate.slots.connection import RedisConnection, answering

OF_META = ("epoch", "limit", "paused", "cooling_until", "tools_until")


@dataclass(frozen=True, slots=True)
class RedisGauges:
    """Times are seconds by Redis's clock, ages and what is left of them; 0 where there is nothing. `overdue`: slots whose deadline is
    over and that nobody has reaped. Everything is 0 in a pool that Redis does not know."""

    epoch: int
    limit: int
    running: int
    granted: int
    overdue: int
    queued: int
    paused: bool
    cooling_s: float
    tools_down_s: float
    oldest_lease_s: float
    outbox: int
    oldest_entry_s: float

    @property
    def free(self) -> int:
        return max(self.limit - self.running - self.granted, 0)


async def read(link: RedisConnection, pool: str) -> RedisGauges:
    """Raises StoreDown."""
    slots, queue, jobs, outbox, meta, _ = keys.keys(pool)
    ask = link.pipe.ask
    with answering():
        # Asked within one turn of the loop: one journey, and so one moment.
        clock, held, queued, settings, entries, oldest = await asyncio.gather(
            ask("TIME"),
            ask("ZRANGE", slots, 0, -1, "WITHSCORES"),
            ask("LLEN", queue),
            ask("HMGET", meta, *OF_META),
            ask("XLEN", outbox),
            ask("XRANGE", outbox, "-", "+", "COUNT", 1),
        )
        pairs = held if held and isinstance(held[0], list) else list(zip(held[::2], held[1::2], strict=True))  # RESP3, RESP2
        holders = [name for name, _ in pairs]
        known = [_entry(raw) for raw in await ask("HMGET", jobs, *holders)] if holders else []
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
    epoch, limit, paused, cooling_until, tools_until = (_number(value) for value in settings)
    claimed = sum(bool(entry.get("claimed")) for entry in known)
    granted_at = [at for entry in known if isinstance(at := entry.get("granted_at"), (int, float)) and at > 0]
    return RedisGauges(
        epoch=int(epoch),
        limit=int(limit),
        running=claimed,
        granted=len(holders) - claimed,
        overdue=sum(_number(due) <= now_ms for _, due in pairs),
        queued=queued,
        paused=bool(paused),
        cooling_s=max(cooling_until - now_ms, 0) / 1000,
        tools_down_s=max(tools_until - now_ms, 0) / 1000,
        oldest_lease_s=_age_s(now_ms, min(granted_at, default=now_ms)),
        outbox=entries,
        oldest_entry_s=_age_s(now_ms, int(oldest[0][0].partition(b"-")[0])) if oldest else 0.0,
    )


def _age_s(now_ms: int, at_ms: float) -> float:
    return max(now_ms - at_ms, 0) / 1000


def _number(value: bytes | float | None) -> float:
    """0 for what is no number: an operator may write there by hand, a deadline of infinity too."""
    try:
        found = float(value or 0)
    except ValueError:
        return 0.0
    return min(max(found, 0.0), float(2**53)) if found == found else 0.0


def _entry(raw: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(raw or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
