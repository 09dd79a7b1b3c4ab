"""What a panel shows in tests and in pictures: no job, a few, many; and names that are meant to harm."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.support.gate_process import Served

TOOLS = ["Upscaler Arcano", "Pose Changer", "Veste AI", "Video Upscaler"]
USERS = ["ana", "bruno", "carla", "davi", "eva", "fabio"]
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "'\"><svg/onload=alert(3)>{{7*7}}",
    "\u202eRTL \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "W" * 256,
    "um nome muito comprido com espaços " * 7,
]


def printable(text: str) -> str:
    """As acquire takes it."""
    return "".join(char for char in text if char.isprintable())[:256]


def past(served: Served, pool: str, seed: int = 7) -> None:
    """An hour that went by: jobs of it are moved back in SQL, as if they had waited and held."""
    chance = random.Random(seed)
    now_ms = time.time_ns() // 1_000_000
    for n in range(60):
        outcome = chance.choices(["completed", "failed", "cancelled"], [8, 1, 1])[0]
        job = _take(served, pool, f"{pool}-past-{n:02d}", n, credits=10).json()
        served.act(job, "release", outcome=outcome, error="the GPU went away" if outcome == "failed" else None)
        ended = now_ms - (60 - n) * 59_000
        held, waited = chance.randrange(90_000, 260_000), int(chance.expovariate(1 / 90_000))
        at = {"e": ended, "g": ended - held, "q": ended - held - waited, "job": job["job_id"]}
        served.sql("update @jobs set ended_at = :e, granted_at = :g, enqueued_at = :q where job_id = :job", **at)
        served.sql("update @events set at = case kind when 'running' then :g else :e end where job_id = :job", **at)


def few(served: Served, pool: str = "default") -> list[dict[str, Any]]:
    """Three that run, three that wait, and some that have ended."""
    for n, outcome in enumerate(["completed", "failed", "completed", "cancelled", "completed"]):
        job = _take(served, pool, f"{pool}-done-{n}", n, credits=10).json()
        served.act(job, "release", outcome=outcome, error="the GPU went away" if outcome == "failed" else None)
    return [_take(served, pool, f"{pool}-cat-{n}", n, credits=10).json() for n in range(6)]


def many(served: Served, pool: str = "default", count: int = 500) -> None:
    few(served, pool)
    for n in range(count - 6):
        _take(served, pool, f"{pool}-{n:04d}", n)


def hostile(served: Served, pool: str = "default") -> None:
    for n, name in enumerate(HOSTILE * 2):
        job_id = f"{'x' * 120}-{n}" if n % 2 else f"h-{n}"
        served.acquire(
            pool, job_id=job_id, user=printable(name), tool=printable(HOSTILE[(n + 1) % len(HOSTILE)]), credits=10**9
        )
    job = served.acquire(pool, job_id="ended", user=printable(HOSTILE[0])).json()
    served.post(f"/v1/pools/{pool}/jobs/{job['job_id']}/cancel", {"reason": HOSTILE[0] + HOSTILE[5]})


def _take(served: Served, pool: str, job_id: str, n: int, **more: Any) -> Any:
    return served.acquire(pool, job_id=job_id, user=USERS[n % len(USERS)], tool=TOOLS[n % len(TOOLS)], **more)
