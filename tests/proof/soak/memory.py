"""Mixed load for a long time: memory, descriptors, threads and SQLite's log stay flat.

    python -m tests.proof.soak.memory --minutes 25

Callers acquire, wait, release, cancel, and let leases expire. Pools are made, used and deleted. Beside them run scrapes of `/metrics`,
streams and pages of the panel, and readers of the ledger. The first part of the run is the warm-up: caches fill. After it the figures of the
first and of the last third are compared. GATE_TEST_POSTGRES_URL names a Postgres for the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx2

from gate.diagnostics.verify import verify
from gate.ledger.sql.engines import LOG_PAGES, PAGE_BYTES
from tests.support.gate_process import Served

CONFIG = "lease_seconds = 1\nclaim_seconds = 1\nqueue_seconds = 3\nlimit = 3\n"
CALLERS = 8
STREAMS = 4
LIVE_POOLS = 12
"""Pools that exist at one time beside the default one."""
SAMPLES = 60
WARM_UP = 0.4
"""Part of the run after which the figures are compared."""
MAY_GROW = {"rss_mb": 4.0, "descriptors": 12, "threads": 3}
"""Growth from the first to the last third that is noise: arenas of malloc, connections that come and go."""
WAL_MB = LOG_PAGES * PAGE_BYTES / 1e6 * 1.2
"""Size of SQLite's log (MB) up to which gate lets it grow, with a batch more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of the process at one moment. `made`: pools made until then."""

    seconds: float
    rss_mb: float
    descriptors: int
    threads: int
    wal_mb: float
    made: int


@dataclass
class Soak:
    """The load on one gate."""

    served: Served
    http: httpx2.AsyncClient
    dice: random.Random
    pools: list[str] = field(default_factory=lambda: ["default"])
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, *allowed: int, **more: Any) -> httpx2.Response:
        answer = await self.http.request(method, path, **more)
        self.done[f"{method} {answer.status_code}"] += 1
        if answer.status_code >= 500 or (allowed and answer.status_code not in allowed):
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer

    async def one_job(self, pool: str | None = None) -> None:
        pool = pool or self.dice.choice(self.pools)
        self.done["jobs"] += 1
        body = {
            "job_id": f"soak-{self.done['jobs']}",
            "user": f"u{self.dice.randrange(50)}",
            "credits": 3,
            "wait_seconds": self.dice.choice((0, 0.5, 2)),
        }
        answer = await self.call("POST", f"/v1/pools/{pool}/acquire", 200, 202, 404, 429, json=body)
        if answer.status_code not in (200, 202):
            return
        job, fate = answer.json(), self.dice.choices(("completed", "failed", "cancel", "expire"), (60, 15, 10, 15))[0]
        path = f"/v1/pools/{pool}/jobs/{job['job_id']}"
        if fate == "cancel" or (fate != "expire" and job["lease"] is None):
            await self.call("POST", f"{path}/cancel", json={})
        elif fate != "expire":
            lease = {"lease_id": job["lease"]["lease_id"]}
            await self.call("POST", f"{path}/renew", json=lease)
            await self.call("POST", f"{path}/release", json=lease | {"outcome": fate})
        self.done[fate] += 1

    async def come_and_go(self) -> None:
        """Make a pool, and delete the oldest that has no live job."""
        name = f"soak-{self.done['made']}"
        await self.call("PUT", f"/v1/pools/{name}", 201, json={"limit": 2})
        self.done["made"] += 1
        self.pools.append(name)
        await self.one_job(name)
        if len(self.pools) > LIVE_POOLS:
            leaves = self.pools.pop(1)
            for _ in range(40):
                if (await self.call("DELETE", f"/v1/pools/{leaves}", 200, 409)).status_code == 200:
                    self.done["deleted"] += 1
                    break
                await asyncio.sleep(0.2)  # until its waits and leases are over
            else:
                self.wrong.append(f"{leaves} still has a live job")
        await asyncio.sleep(0.3)

    async def scrape(self) -> None:
        await self.call("GET", "/metrics", 200)
        await self.call("GET", "/", 200, headers={"accept": "text/html"})
        await self.call("GET", "/v1/ledger", 200, params={"after": self.dice.randrange(1_000)})
        await asyncio.sleep(0.5)

    async def stream(self) -> None:
        """Watch a page of the panel for a while, then go without a word."""
        pool = self.dice.choice(self.pools)
        path = self.dice.choice(("/live", f"/pools/{pool}/live", "/pools/default/live"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.dice.uniform(1, 8)), self.http.stream("GET", path) as answer:
                self.done[f"stream {answer.status_code}"] += 1
                async for _ in answer.aiter_bytes():
                    pass

    def sample(self, began: float) -> Sample:
        process = Path("/proc") / str(self.served.process.pid)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        log = Path(self.served.sql_url.removeprefix("sqlite:///") + "-wal")
        return Sample(
            round(time.monotonic() - began, 1),
            int(status["VmRSS"].split()[0]) / 1024,
            len(list((process / "fd").iterdir())),
            int(status["Threads"]),
            log.stat().st_size / 1e6 if log.exists() else 0.0,
            self.done["made"],
        )

    async def run(self, minutes: float) -> list[Sample]:
        """Load the gate for so long, and return the samples."""
        over = asyncio.Event()

        async def again(what: Callable[[], Awaitable[None]]) -> None:
            while not over.is_set():
                await what()

        began, samples = time.monotonic(), []
        async with asyncio.TaskGroup() as load:
            for what, times in ((self.one_job, CALLERS), (self.come_and_go, 1), (self.scrape, 1), (self.stream, STREAMS)):
                for _ in range(times):
                    load.create_task(again(what))
            for _ in range(SAMPLES):
                await asyncio.sleep(minutes * 60 / SAMPLES)
                samples.append(self.sample(began))
                print("  ".join(f"{one.name} {getattr(samples[-1], one.name):8.1f}" for one in fields(Sample)), flush=True)
            over.set()
        return samples


def not_flat(samples: list[Sample]) -> list[str]:
    """Return what has grown from the first to the last third after the warm-up."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = max(len(warm) // 3, 1)
    found = []
    for name, may_grow in MAY_GROW.items():
        first, last = (statistics.median(getattr(one, name) for one in part) for part in (warm[:third], warm[-third:]))
        if last - first > may_grow:
            found.append(f"{name} grew from {first:.1f} to {last:.1f}")
    if (log := max(one.wal_mb for one in samples)) > WAL_MB:
        found.append(f"SQLite's log had {log:.0f} MB")
    return found


async def soak(served: Served, minutes: float, seed: int) -> tuple[list[Sample], Soak]:
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(base_url=served.url, timeout=60, limits=limits) as http:
        load = Soak(served, http, random.Random(seed))
        return await load.run(minutes), load


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=25)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), config=CONFIG) as served:
        samples, load = asyncio.run(soak(served, given.minutes, given.seed))
        report = verify(served.sql_url, served.redis_url)
    wrong = [*load.wrong[:10], *not_flat(samples)]
    print("  ".join(f"{what}: {count}" for what, count in sorted(load.done.items())))
    print(f"first {astuple(samples[0])}, last {astuple(samples[-1])}")
    print(f"wrong: {wrong or 'nothing'}; verify: {report.breaches[:10] or 'clean'}")
    sys.exit(1 if wrong or report.breaches else 0)


if __name__ == "__main__":
    main()
