"""What data that grows costs: a million ended jobs, thousands of waiters that leave at once, thousands of grants that SQL has to catch up
with, and a thousand pools.

The ledger is filled by `bench.ended_jobs`. Each command is a process of its own, as an operator runs it, with the memory that the system
counted for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench import ended_jobs, many_pools, servers
from bench.load import Shape, connect, pairs
from bench.medians import middle
from bench.progress import say
from gate.ledger import Database, LedgerQueries, PoolSettings
from gate.ledger.admin import migrate
from gate.model.job import Request
from gate.runtime.wiring import open_gate

PAIRS_S, CLIENTS = 3.0, 8
LINE, WIDE = "line", "wide"
POOLS = f"[pools.bench]\nlimit = 20\n[pools.{LINE}]\nlimit = 0\nqueue_max = 20000\n"
WIDE_SETTINGS = PoolSettings(0, 600_000, 3_600_000, 600_000, 3_600_000, 100_000, 5_000, 0)


def run(
    folder: Path, jobs: int = 1_000_000, waiters: int = 5_000, grants: int = 10_000, pools: int = 1_000, idle_s: float = 3.0
) -> dict[str, Any]:
    """By store: what `_store` finds. Beside it: the commands and pages with many pools."""
    found: dict[str, Any] = {"jobs": jobs, "waiters": waiters, "grants": grants, "pools": pools, "stores": {}}
    (folder / "sqlite").mkdir()
    url = f"sqlite:///{folder / 'sqlite' / 'gate.db'}"
    found["stores"]["SQLite"] = _store(folder / "on_sqlite", url, jobs, waiters, grants)
    if servers.postgres_programs() is not None:
        with servers.postgres(folder / "postgres") as (root, pid):
            url = servers.database(root, "gate")
            found["stores"]["Postgres"] = _store(folder / "on_postgres", url, jobs, waiters, grants, pid)
    say(f"{pools:,} pools")
    found["many_pools"] = many_pools.run(folder / "pools", pools, idle_s)
    return found


def _store(folder: Path, url: str, jobs: int, waiters: int, grants: int, pid: int | None = None) -> dict[str, float]:
    found: dict[str, float] = {}
    with servers.gate("gate", folder / "empty", url, pid, POOLS) as server:
        found |= _pairs(server, "with none")
        found |= uvloop.run(_cancel(server, waiters))
    found |= uvloop.run(_catch_up(folder / "wide", url, grants))
    say(f"{jobs:,} ended jobs")
    began = time.monotonic()
    ended_jobs.fill(url, jobs)
    found["filled in, s"] = time.monotonic() - began
    with servers.gate("gate", folder / "full", url, pid, POOLS) as server:
        found |= _pairs(server, "with all")
        found |= asyncio.run(_reads(url))
        found |= _command(server.folder, "verify", "verify")
        found |= _command(server.folder, "doctor", "doctor")
        found |= _command(server.folder, "archive", "prune", "--older-than", "180d", "--archive", str(folder / "archive"))
        found |= _command(server.folder, "verify after it", "verify")
    return found


def _pairs(server: servers.Server, how: str) -> dict[str, float]:
    """Pairs a second, and the CPU of a pair in all processes of the server and of its stores."""
    shape = Shape(key=server.key)
    uvloop.run(pairs(server.port, shape, CLIENTS, 1.0, f"warm {how}"))
    before = server.cpu_s()
    samples = uvloop.run(pairs(server.port, shape, CLIENTS, PAIRS_S, how))
    return {
        f"pairs/s {how}": samples.pairs / samples.took_s,
        f"CPU a pair {how}, µs": (server.cpu_s() - before) / samples.pairs * 1e6,
        f"acquire p50 {how}, ms": middle(samples.acquire_s) * 1000,
        f"release p50 {how}, ms": middle(samples.release_s) * 1000,
    }


async def _cancel(server: servers.Server, waiters: int) -> dict[str, float]:
    """Seconds in which all waiters of one user leave, by one call, and the CPU of the server and its stores."""
    shape = Shape(LINE, server.key)

    async def come(numbers: range) -> None:
        mine = await connect(server.port)
        for number in numbers:
            status, body = await mine.ask(shape.acquire(f"line-{number}", 2))
            assert status == 202, body
        mine.close()

    await asyncio.gather(*(come(range(first, waiters, 16)) for first in range(16)))
    connection = await connect(server.port)
    began, before = time.perf_counter(), server.cpu_s()
    status, body = await connection.ask(shape._post(f"/v1/pools/{LINE}/cancel", {"user": "ana"}))
    took, used = time.perf_counter() - began, server.cpu_s() - before
    assert status == 200 and json.loads(body)["cancelled"] == waiters, body[:200]
    connection.close()
    return {f"cancel of {waiters} waiters, s": took, f"cancel of {waiters} waiters, CPU s": used}


async def _catch_up(folder: Path, url: str, grants: int) -> dict[str, float]:
    """Seconds in which SQL records grants that Redis has made alone. No server runs, so nothing else does."""
    with servers.valkey(folder) as (redis_url, _):
        migrate.make(url)
        async with open_gate(redis_url, url, made_live=WIDE_SETTINGS) as gate:
            await gate.services.pools.make(WIDE, {})
            names = [f"wide-{number}" for number in range(grants)]
            for first in range(0, grants, 500):
                some = names[first : first + 500]
                await asyncio.gather(*(gate.services.admission.acquire(WIDE, Request(name)) for name in some))
            changed = await gate.ledger.change_pool(WIDE, {"limit": grants})
            epoch = await gate.registry.epoch(WIDE)
            await gate.semaphore.configure(WIDE, epoch, changed.in_redis())
            while (await gate.semaphore.tick(WIDE, epoch)).more:
                pass
            began = time.perf_counter()
            await gate.recorder.run(WIDE)
            took = time.perf_counter() - began
            recorded = sum(job.status == "granted" for job in (await gate.services.ledger.live(WIDE)).values())
            assert recorded == grants, f"{recorded} of {grants} are recorded"
            live = list(await gate.services.ledger.live(WIDE))
            for first in range(0, len(live), 200):
                await asyncio.gather(*(gate.services.jobs.cancel(WIDE, name) for name in live[first : first + 200]))
    return {f"{grants} grants recorded, s": took}


async def _reads(url: str) -> dict[str, float]:
    """Milliseconds of what `gate jobs` and the page of a user with very many jobs read."""
    database = Database(url)
    reading = LedgerQueries(database)
    user = ended_jobs.HEAVY
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "gate jobs": lambda: reading.recent("default", None, None, 50),
        "gate jobs --status expired": lambda: reading.recent("default", "expired", None, 50),
        "gate jobs --user": lambda: reading.recent("default", None, user, 50),
        "a user's page": lambda: asyncio.gather(reading.timelines.of_user(user, 50), reading.balance(user)),
        "trends of a day": lambda: reading.statistics.lately("default", "day"),
    }
    found: dict[str, float] = {}
    try:
        for name, question in questions.items():
            took = []
            for _ in range(5):
                began = time.perf_counter()
                try:
                    await question()
                except Exception as error:
                    say(f"{name}: {error}")
                took.append((time.perf_counter() - began) * 1000)
            found[f"{name}, ms"] = middle(took)
    finally:
        database.close()
    return found


def _command(folder: Path, name: str, *words: str) -> dict[str, float]:
    """Seconds, CPU and memory of a command, as the system counts them."""
    command = [sys.executable, "-m", "gate", *words]
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=servers.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with process.stdout as out:
        text = out.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        say(f"gate {' '.join(words)} ended with {process.returncode}: {text[-500:]}")
    return {
        f"{name}, s": time.monotonic() - began,
        f"{name}, CPU s": used.ru_utime + used.ru_stime,
        f"{name}, MB": used.ru_maxrss / 1024,
    }
