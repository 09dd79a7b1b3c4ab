"""Gauges of pools, read without a change to them.

No script is used, because every script reaps and promotes. Monitoring must not do the work that it checks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gate.slots import keys
from gate.slots.connection import RedisConnection, answering

POOLS_AT_ONCE = 200
"""Pools that one round trip reads. More would keep the event loop for long."""
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


async def read(link: RedisConnection, pools: Sequence[str]) -> dict[str, RedisGauges]:
    """Read the gauges of pools, by two round trips for each POOLS_AT_ONCE of them.

    Args:
        link: Connection to Redis.
        pools: Names of the pools.

    Returns:
        The gauges by pool, in the order given. In a cluster, the pools of a primary that is away are left out.

    Raises:
        StoreDown: Redis does not answer.
    """
    found: dict[str, RedisGauges] = {}
    for first in range(0, len(pools), POOLS_AT_ONCE):
        with answering():
            found |= await _read(link, pools[first : first + POOLS_AT_ONCE])
    return found


async def _read(link: RedisConnection, pools: Sequence[str]) -> dict[str, RedisGauges]:
    """Read the gauges of pools: one round trip for the pools, and one for the entries of the jobs that hold slots."""
    asked: list[tuple[str | int, ...]] = []
    for pool in pools:
        slots, queue, _, outbox, meta, _ = keys.keys(pool)
        asked += [
            ("TIME",),
            ("ZRANGE", slots, 0, -1, "WITHSCORES"),
            ("LLEN", queue),
            ("HMGET", meta, *OF_META),
            ("XLEN", outbox),
            ("XRANGE", outbox, "-", "+", "COUNT", 1),
        ]
    each = _answers(pools, await link.ask_all(pools, asked))
    held = {pool: _pairs(one[1]) for pool, one in each.items()}
    busy = [pool for pool, pairs in held.items() if pairs]
    wanted = [("HMGET", keys.keys(pool)[2], *(name for name, _ in held[pool])) for pool in busy]
    entries = _answers(busy, await link.ask_all(busy, wanted))
    return {
        pool: _gauges(clock, held[pool], [_entry(raw) for raw in (entries[pool][0] if pool in entries else ())], *rest)
        for pool, (clock, _, *rest) in each.items()
        if pool in entries or not held[pool]
    }


def _answers(pools: Sequence[str], replies: list[Any]) -> dict[str, list[Any]]:
    """Return the replies about each pool, without the pools that cannot be read. Raise an error when there are no others."""
    each = len(replies) // len(pools) if pools else 0
    found = {pool: replies[number * each : (number + 1) * each] for number, pool in enumerate(pools)}
    good = {pool: own for pool, own in found.items() if not any(isinstance(one, Exception) for one in own)}
    if found and not good:
        raise next(one for one in replies if isinstance(one, Exception))
    return good


def _pairs(held: list[Any]) -> list[tuple[Any, Any]]:
    """Return member and score of each slot. RESP3 has pairs, RESP2 a flat list."""
    return held if held and isinstance(held[0], list) else list(zip(held[::2], held[1::2], strict=True))


def _gauges(
    clock: list[Any], held: list[tuple[Any, Any]], known: list[dict[str, Any]], queued: int, settings: list[Any], entries: int,
    oldest: list[Any],
) -> RedisGauges:  # fmt: skip
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
        granted=len(held) - claimed - draining,
        draining=draining,
        overdue=sum(_number(due) <= now_ms for _, due in held),
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
