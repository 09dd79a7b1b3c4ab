"""Real servers, real stores, clients with an account of their own, and a fault.

    python -m tests.proof.chaos FAULT --times N --clients C --seconds S --seed K --redis valkey --sql postgres --servers 2
    python -m tests.proof.chaos all

What is not given is small, as in every run of the tests. Each prints what it did and what was wrong; exit 1 if anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.proof.chaos import (
    by_hand,
    callbacks,
    cancels,
    ends,
    exits,
    faults,
    full,
    moves,
    outbox,
    owner_money,
    provider,
    provider_account,
    provoking,
    redis_hurt,
    sql_away,
    sql_hurt,
)
from tests.proof.chaos.judge import Verdict, epochs, judge
from tests.proof.chaos.scene import Options, Scene, opened, settled, under_load
from tests.support.servers import lacking


@dataclass(frozen=True, slots=True)
class Fault:
    """`small` is what every run of the tests plays; `config` is added to that of the servers."""

    play: Callable[[Scene], Awaitable[None]]
    small: Options
    config: str = ""
    replicated: bool = False


def small(
    times: int = 2, seconds: float = 5, redis: str = "valkey", sql: str = "postgres", servers: int = 2, away: float = 5,
    clients: int = 12, calls: int = 0,
) -> Options:  # fmt: skip
    return Options("", times, clients, seconds, 1, redis, sql, servers, calls, away)


FAULTS = {
    "none": Fault(faults.none, small(0)),
    "kill": Fault(faults.kill, small(13, 8)),
    "kill-only": Fault(faults.kill_only, small(7, 7, "embedded", "sqlite", 1)),
    "flush": Fault(faults.flush, small(2, redis="redis")),
    "empty": Fault(faults.empty, small(2, sql="sqlite", servers=1)),
    "snapshot": Fault(faults.snapshot, small(redis="redis")),
    "failover": Fault(faults.failover, small(5, 8), replicated=True),
    "storm": Fault(faults.storm, small(3, 6)),
    "stop": Fault(faults.stop, small(2)),
    "exits": Fault(exits.exits, dataclasses.replace(small(0, 0, sql="sqlite", servers=1), clients=5), provoking.CONFIG),
    "kill-redis": Fault(redis_hurt.kill_redis, small(10, 10, "embedded", "sqlite", 1)),
    "replies": Fault(redis_hurt.replies, small(0), replicated=True),
    "memory": Fault(redis_hurt.memory, small(1, 1, "redis", "sqlite", 1, away=2), redis_hurt.CONFIG),
    "outbox": Fault(outbox.outbox, small(3, 1), outbox.CONFIG),
    "operator": Fault(by_hand.operator, small(1, 2, sql="sqlite", servers=1), by_hand.CONFIG),
    "sql-away": Fault(sql_away.sql_away, small(1, 3, away=6), sql_away.CONFIG),
    "sql-hangs": Fault(sql_away.sql_hangs, small(1, 3, away=10), sql_away.CONFIG),
    "sql-refuses": Fault(sql_away.sql_refuses, small(1, 3, away=6), sql_away.CONFIG),
    "row-locked": Fault(sql_hurt.row_locked, small(1, 1, away=7), sql_hurt.CONFIG),
    "bad-row": Fault(sql_hurt.bad_row, small(1, 1), sql_hurt.CONFIG),
    "sql-locked": Fault(sql_away.sql_away, small(1, 3, "embedded", "sqlite", 1, 10), sql_away.CONFIG),
    "moves": Fault(moves.moves, small(8, 4)),
    "ends": Fault(ends.ends, small(200, 0, clients=2), ends.CONFIG),
    "cancels": Fault(cancels.cancels, small(500, 0, clients=2), cancels.CONFIG),
    "full": Fault(full.full, small(1000, 0, "embedded", "sqlite", 1, clients=2), full.CONFIG),
    "webhooks": Fault(callbacks.webhooks, small(20, 0, "embedded", "sqlite", 1, clients=2, calls=10_000), callbacks.CONFIG),
    "owner-money": Fault(owner_money.owner_money, small(60, 0, clients=2), owner_money.CONFIG),
    "provider": Fault(provider.provider, small(1, 0, away=0, clients=2), provider_account.CONFIG),
    **{
        f"provider-{mood}": Fault(provider.alone(mood), small(3, 0, away=9, clients=2), provider_account.CONFIG)
        for mood in provider.MOODS
    },
}

IN_ANOTHER = frozenset(f"provider-{mood}" for mood in provider.MOODS)
"""Faults that every run of the tests plays as parts of another one."""

EMBEDDED = (
    "none",
    "kill-only",
    "exits",
    "kill-redis",
    "sql-away",
    "sql-hangs",
    "sql-refuses",
    "sql-locked",
    "ends",
    "cancels",
    "full",
    "webhooks",
    "provider",
    *IN_ANOTHER,
)


async def run(options: Options, folder: Path) -> Verdict:
    fault = FAULTS[options.fault]
    async with opened(options, folder, fault.config, fault.replicated) as scene:
        before = epochs(scene.books)
        await under_load(scene, fault.play)
        took = time.time() - scene.began
        await settled(scene)
        verdict = await asyncio.to_thread(judge, scene, before, took)
        for server in scene.servers:
            code = await asyncio.to_thread(server.stop)
            scene.account.expect(code == 0, f"a server that was asked to stop ended with {code}")
        return verdict


def play(options: Options, keep: Path | None = None) -> Verdict:
    """In a folder that is gone afterwards, or in `keep`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as passing:
        folder = keep / options.fault if keep is not None else Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run(options, folder))


def options_of(given: argparse.Namespace, fault: str) -> Options:
    named = {
        name: value for name, value in vars(given).items() if name not in ("fault", "keep", "verdict") and value is not None
    }
    return dataclasses.replace(FAULTS[fault].small, fault=fault, **named)


def refusal(options: Options) -> str:
    """Why this cannot be played here; '' if it can."""
    if absent := lacking(options.redis, options.sql):
        return f"needs {' and '.join(absent)}"
    if options.servers > 1 and (options.sql == "sqlite" or options.redis == "embedded"):
        return "several servers need Postgres and a shared Redis"
    if options.redis == "embedded" and options.fault not in EMBEDDED:
        return "needs a Redis of its own: --redis valkey or redis"
    if options.servers > 1 and options.fault in ("kill-only", "exits"):
        return "is about the only server there is"
    if options.redis != "embedded" and options.fault == "kill-redis":
        return "is about the embedded Redis; the other is `empty`"
    if options.sql == "sqlite" and options.fault == "row-locked":
        return "needs Postgres: a SQLite file is locked as a whole, see sql-locked"
    if options.servers < 2 and options.fault in ("stop", "moves"):
        return "needs another server that goes on"
    if options.sql == "sqlite" and options.fault in ("sql-hangs", "sql-refuses", "storm", "owner-money"):
        return "needs Postgres"
    if options.sql == "postgres" and options.fault == "sql-locked":
        return "needs SQLite"
    return ""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.proof.chaos")
    options.add_argument("fault", choices=[*FAULTS, "all"])
    for name in ("times", "clients", "seed", "servers", "calls"):
        options.add_argument(f"--{name}", type=int)
    for name in ("seconds", "away"):
        options.add_argument(f"--{name}", type=float)
    options.add_argument("--redis", choices=("embedded", "valkey", "redis"))
    options.add_argument("--sql", choices=("sqlite", "postgres"))
    options.add_argument("--keep", type=Path, help="a new folder for logs and stores, which stay there")
    options.add_argument("--verdict", type=Path, help="a file for the verdict, as JSON")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    right = True
    for fault in FAULTS if given.fault == "all" else [given.fault]:
        wanted = options_of(given, fault)
        if why := refusal(wanted):
            sys.exit(f"chaos {fault} {why}")
        verdict = play(wanted, given.keep)
        print(verdict, flush=True)
        if given.verdict:
            fields = {one.name: getattr(verdict, one.name) for one in dataclasses.fields(verdict) if one.name != "options"}
            given.verdict.write_text(json.dumps(fields))
        right = right and verdict.right
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
