"""Gauges of a pool, read without a change to it.

No script is used, because every script reaps and promotes. Monitoring must not do the work that it checks.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from gate.slots import keys
from gate.slots.connection import RedisConnection, answering

OF_META = ("epoch", "limit", "paused", "cooling_until", "tools_until", "aside_until", "ahead_ms")
"""Fields of the hash `meta` that are read."""


@dataclass(frozen=True, slots=True)
class RedisGauges:
    """Gauges of one pool. All are 0 in a pool that Redis does not have.

    Attributes:
        epoch: Epoch under which the pool was loaded.
        limit: Slots of the pool.
        running: Slots whose holders have claimed them.
        granted: Slots that were not claimed yet.
        overdue: Slots whose deadline has passed and that no script has reaped yet.
        queued: Jobs that wait.
        paused: No slot is given out.
        cooling_s: Time (s) until the pool gives out slots again after a refusal; 0 when it does now.
        tools_down_s: Time (s) until gate calls the last of the failing tools again; 0 when no tool fails.
        aside_s: Time (s) until the last of the jobs that are always refused is tried again; 0 without such a job.
        oldest_lease_s: Age (s) of the oldest lease; 0 without a lease.
        clock_ahead_s: By how much (s) the clock of Redis is ahead of the pool's, since it stepped.
        outbox: Entries in the outbox.
        oldest_entry_s: Age (s) of the oldest entry in the outbox; 0 when the outbox is empty.
    """

    epoch: int
    limit: int
    running: int
    granted: int
    draining: int
    overdue: int
    queued: int
    paused: bool
    cooling_s: float
    tools_down_s: float
    aside_s: float
    oldest_lease_s: float
    clock_ahead_s: float
    outbox: int
    oldest_entry_s: float

    @property
    def free(self) -> int:
        """Slots that no job holds."""
        return max(self.limit - self.running - self.granted - self.draining, 0)


async def read(link: RedisConnection, pool: str) -> RedisGauges:
    """Read the gauges of a pool.

    Args:
        link: Connection to Redis.
        pool: Name of the pool.

    Raises:
        StoreDown: Redis does not answer.
    """
    slots, queue, jobs, outbox, meta, _ = keys.keys(pool)
    ask = link.of(pool).pipe.ask
    with answering():
        # All are asked within one turn of the event loop, so they go out in one round trip and show the same moment.
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
    epoch, limit, paused, cooling_until, tools_until, aside_until = (_number(value) for value in settings[:6])
    ahead_ms = _signed(settings[6])
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000 - ahead_ms
    draining = sum(bool(entry.get("drains")) for entry in known)
    claimed = sum(bool(entry.get("claimed")) and not entry.get("drains") for entry in known)
    granted_at = [at for entry in known if isinstance(at := entry.get("granted_at"), (int, float)) and at > 0]
    return RedisGauges(
        epoch=int(epoch),
        limit=int(limit),
        running=claimed,
        granted=len(holders) - claimed - draining,
        draining=draining,
        overdue=sum(_number(due) <= now_ms for _, due in pairs),
        queued=queued,
        paused=bool(paused),
        cooling_s=max(cooling_until - now_ms, 0) / 1000,
        tools_down_s=max(tools_until - now_ms, 0) / 1000,
        aside_s=max(aside_until - now_ms, 0) / 1000,
        oldest_lease_s=_age_s(now_ms, min(granted_at, default=now_ms)),
        clock_ahead_s=ahead_ms / 1000,
        outbox=entries,
        oldest_entry_s=_age_s(now_ms, _written_at(*oldest[0])) if oldest else 0.0,
    )


def _age_s(now_ms: int, at_ms: float) -> float:
    return max(now_ms - at_ms, 0) / 1000


def _written_at(entry_id: bytes, fields: list[bytes]) -> float:
    """When a script wrote an entry of the outbox (ms), by the pool's clock; by its id when an operator wrote it by hand."""
    return _number(dict(zip(fields[::2], fields[1::2], strict=False)).get(b"at")) or int(entry_id.partition(b"-")[0])


def _signed(value: bytes | None) -> int:
    return int(_number(value) or -_number(value and value.removeprefix(b"-")))


def _number(value: bytes | float | None) -> float:
    """Read a number; 0 for anything else. An operator may write such a field by hand, even an infinite deadline."""
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
