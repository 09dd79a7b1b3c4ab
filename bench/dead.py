"""How long one script takes when very many leases, or waiters, are dead at once: each call clears a bounded number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import redis

from bench import servers
from bench.progress import say
from gate.slots import keys, scripts

POOL = "dead"
LIFE = "1.bench"


def _load(client: redis.Redis, leases: int, waiters: int) -> None:
    slots, queue, jobs, outbox, meta, users = keys.keys(POOL)
    client.delete(slots, queue, jobs, outbox, meta, users)
    seconds, micros = client.time()
    now = seconds * 1000 + micros // 1000
    client.hset(meta, mapping={
        "life": LIFE, "epoch": 1, "limit": 3, "lease_ms": 600_000, "max_hold_ms": 3_600_000, "claim_ms": 60_000,
        "queue_ms": 600_000, "queue_max": 1_000_000, "cooldown_ms": 5_000, "max_active_per_user": 1, "refusals_before_passing": 3,
        "paused": 0, "cooling_until": 0,
        "refusals": 0, "loaded_at": 0, "seen_at": now, "ticket": 2**32, "fence": 2**32,
    })  # fmt: skip
    with client.pipeline(transaction=False) as asked:
        for number in range(leases + waiters):
            held = number < leases
            entry = {"ticket": str(number + 1), "queued_at": now - 700_000, "lease_ms": 600_000, "user": f"u{number}"}
            if held:
                entry |= {"lease_id": f"{number:032x}", "fence": str(number + 1), "claimed": True, "granted_at": now - 650_000,
                          "due": now - 50_000, "hard": now + 3_000_000}  # fmt: skip
                asked.zadd(slots, {f"job-{number}": now - 50_000})
            else:
                asked.rpush(queue, f"job-{number}")
            asked.hset(jobs, f"job-{number}", json.dumps(entry))
            asked.zadd(users, {f"u{number}\x1fjob-{number}": 0})
            if number % 1000 == 999:
                asked.execute()
        asked.execute()


def _calls(client: redis.Redis, calls: int) -> list[float]:
    """Microseconds of Redis for each of so many ticks, by its own account."""
    digest = client.script_load(scripts.source("tick"))
    took = []
    client.config_resetstat()
    before = 0.0
    for _ in range(calls):
        client.evalsha(digest, 6, *keys.keys(POOL), LIFE, "", "f" * 32 * 100)
        usec = client.info("commandstats")["cmdstat_evalsha"]["usec"]
        took.append(usec - before)
        before = usec
        client.hset(keys.keys(POOL)[4], "seen_at", round(time.time() * 1000))
    return took


def run(folder: Path, dead: int = 100_000, calls: int = 200) -> dict[str, Any]:
    """Microseconds of one call, by what is dead: the median, the 99th of a hundred, and the worst."""
    found: dict[str, Any] = {"dead": dead, "calls": calls}
    with servers.valkey(folder / "valkey") as (url, _), redis.Redis.from_url(url) as client:
        for name, leases, waiters in (("leases", dead, 0), ("waiters", 0, dead)):
            say(f"{dead:,} dead {name}")
            _load(client, leases, waiters)
            took = sorted(_calls(client, calls))
            found[name] = {"p50_us": took[len(took) // 2], "p99_us": took[len(took) * 99 // 100], "worst_us": took[-1]}
    return found
