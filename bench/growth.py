"""What grows with the number of pools and of servers: the cost of idle pools, a restart, four servers, a repair, a loss of Redis.

python -m bench growth
python -m bench.growth --pools 1,1000     # fewer pools
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis

from bench import servers, tables
from bench.progress import say
from gate.client import Gate

IDLE_S = 20.0
"""Time (s) over which an idle server is measured. Two sweeps of the reconciler fall into it."""
SETTLED_S = 400.0
"""Longest wait (s) for a server that has just started to come to rest."""
POOLS = (1, 1_000, 10_000)
OF_FOUR = 1_000
"""Pools of the four servers."""
MAKE = """
insert into gate.pools (name, epoch, void_fence, void_ticket, redis_identity, redis_former, ledger_id, clock_ahead_ms, paused,
  configured, {settings})
select 'p' || lpad(n::text, 6, '0'), 0, 0, 0, '', '', md5(n::text), 0, false, '{{}}', {settings}
from gate.pools, generate_series(1, %s) n where name = 'default'"""
SETTINGS = (
    "select column_name from information_schema.columns where table_schema = 'gate' and table_name = 'pools' and column_name"
    " not in ('name','epoch','void_fence','void_ticket','redis_identity','redis_former','ledger_id','clock_ahead_ms','paused','configured')"
)
ROWS = "select sum(idx_tup_fetch + seq_tup_read) from pg_stat_user_tables where schemaname = 'gate'"


class Stores:
    """A Valkey and a Postgres that count what they are asked."""

    def __init__(self, redis_url: str, sql_url: str) -> None:
        self.redis_url, self.sql_url = redis_url, sql_url
        self.redis = redis.Redis.from_url(redis_url, decode_responses=True)

    def commands(self) -> int:
        """Commands that were run until now, those of scripts too."""
        return sum(int(one["calls"]) for one in self.redis.info("commandstats").values())

    def rows(self) -> int:
        """Rows of tables that queries have read until now, by Postgres's own account."""
        with psycopg.connect(self.sql_url, autocommit=True) as connection:
            found = connection.execute(ROWS).fetchone()
        return int(found[0] or 0) if found else 0

    def make_pools(self, count: int) -> None:
        with psycopg.connect(self.sql_url, autocommit=True) as connection:
            names = ", ".join(f'"{row[0]}"' for row in connection.execute(SETTINGS).fetchall())
            connection.execute(MAKE.format(settings=names), [count])
            connection.execute("analyze")


@contextlib.contextmanager
def _stores(folder: Path, postgres: str, name: str) -> Iterator[Stores]:
    with servers.valkey(folder / f"valkey-{name}") as (redis_url, _):
        yield Stores(redis_url, servers.database(postgres, f"growth_{name}"))


@contextlib.contextmanager
def _serving(folder: Path, stores: Stores) -> Iterator[tuple[servers.Server, float]]:
    """A gate on these stores, and how long it took to be ready (s)."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = servers.ENVIRONMENT | {"GATE_REDIS_URL": stores.redis_url, "GATE_DATABASE_URL": stores.sql_url}
    port, began = servers.free_port(), time.monotonic()
    with (folder / "log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-m", "gate", "serve", "--port", str(port)], cwd=folder, env=environment,
                                   stdout=subprocess.PIPE, stderr=log, text=True)  # fmt: skip
        with servers.stopped(process):
            assert process.stdout is not None and "ready" in process.stdout.readline(), "gate did not start"
            yield servers.Server("gate", port, process), time.monotonic() - began


def _rates(stores: Stores, watched: list[servers.Server], idle_s: float) -> dict[str, float]:
    """What servers cost that have nothing to do: CPU (% of a core), commands and rows a second."""
    before = stores.commands(), stores.rows(), sum(one.cpu_s() for one in watched)
    time.sleep(idle_s)
    commands, rows, cpu_s = stores.commands(), stores.rows(), sum(one.cpu_s() for one in watched)
    return {
        "cpu_percent": (cpu_s - before[2]) / idle_s * 100,
        "commands": (commands - before[0]) / idle_s,
        "rows": (rows - before[1]) / idle_s,
    }


def _at_rest(stores: Stores) -> float:
    """Wait until a server that has started does no more than it always does; how long that took (s)."""
    began, before = time.monotonic(), stores.commands()
    while time.monotonic() - began < SETTLED_S:
        time.sleep(3)
        now = stores.commands()
        if now - before < 3 * 300:
            break
        before = now
    return time.monotonic() - began


def _mended(stores: Stores, port: int, pool: str) -> float | None:
    """How long (s) a lease is out of its slot that an operator takes out by hand; None when it is not back within two minutes."""
    with Gate(f"http://127.0.0.1:{port}") as gate:
        job = gate.acquire(pool, job_id=f"job-{pool}", lease_seconds=600)
        time.sleep(3)
        began = time.monotonic()
        stores.redis.zrem(f"gate:{{{pool}}}:slots", job.job_id)
        while time.monotonic() - began < 120:
            if stores.redis.zscore(f"gate:{{{pool}}}:slots", job.job_id) is not None:
                gate.cancel(pool, job.job_id)
                return time.monotonic() - began
            time.sleep(0.1)
    return None


def _freed(port: int, pool: str) -> float:
    """How long (s) after its deadline the slot of a lease is still held that no call reaches."""
    with Gate(f"http://127.0.0.1:{port}") as gate:
        began = time.monotonic()
        gate.acquire(pool, job_id=f"dead-{pool}", lease_seconds=2)
        while gate.job(pool, f"dead-{pool}").status == "running" and time.monotonic() - began < 120:
            time.sleep(0.05)
    return time.monotonic() - began - 2


def _of(folder: Path, postgres: str, pools: int, idle_s: float) -> dict[str, Any]:
    """The figures of one server with so many pools."""
    with _stores(folder, postgres, str(pools)) as stores:
        home = folder / f"gate-{pools}"
        with _serving(home, stores):
            stores.make_pools(pools - 1)
        with _serving(home, stores) as (server, took):
            found: dict[str, Any] = {"first_ready_s": took, "loaded_s": _at_rest(stores)}
        with _serving(home, stores) as (server, took):
            found["ready_s"] = took
            _at_rest(stores)
            found |= _rates(stores, [server], idle_s)
            found["mended_s"] = _mended(stores, server.port, "p000001" if pools > 1 else "default")
            found["freed_s"] = _freed(server.port, "default")
            stores.redis.flushall()
            began = time.monotonic()
            with Gate(f"http://127.0.0.1:{server.port}") as gate:
                gate.acquire("default", job_id="after-the-loss")
            found["served_after_flushall_s"] = time.monotonic() - began
    return found


def _four(folder: Path, postgres: str, idle_s: float) -> dict[str, Any]:
    """The same pools with one server and with four: CPU and commands of all."""
    with _stores(folder, postgres, "four") as stores, contextlib.ExitStack() as running:
        with _serving(folder / "four-0", stores):
            stores.make_pools(OF_FOUR)
        first, _ = running.enter_context(_serving(folder / "four-0", stores))
        _at_rest(stores)
        found: dict[str, Any] = {"one": _rates(stores, [first], idle_s)}
        others = [running.enter_context(_serving(folder / f"four-{n}", stores))[0] for n in (1, 2, 3)]
        _at_rest(stores)
        found["four"] = _rates(stores, [first, *others], idle_s)
    return found


def run(folder: Path, pools: tuple[int, ...] = POOLS, idle_s: float = IDLE_S) -> dict[str, Any]:
    """Measure gates on Postgres and a Valkey beside them.

    Args:
        folder: Where they live.
        pools: Numbers of pools, nearly all of them idle.
        idle_s: How long an idle server is watched (s).

    Returns:
        The figures by number of pools, and those of one and four servers.
    """
    with servers.postgres(folder / "postgres") as (url, _):
        found: dict[str, Any] = {"pools": {}}
        for count in pools:
            say(f"{count} pools")
            found["pools"][str(count)] = _of(folder, url, count, idle_s)
            say(str(found["pools"][str(count)]))
        say("four servers")
        return found | {"servers": _four(folder, url, idle_s), "of_four": OF_FOUR}


def main() -> None:
    reading = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    reading.add_argument("--pools", default=",".join(map(str, POOLS)), help="numbers of pools (%(default)s)")
    reading.add_argument(
        "--idle", type=float, default=IDLE_S, help="time over which an idle server is watched, s (%(default)s)"
    )
    asked = reading.parse_args()
    with tempfile.TemporaryDirectory(prefix="gate-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user there
        print(tables.growth(run(Path(folder), tuple(map(int, asked.pools.split(","))), asked.idle)))


if __name__ == "__main__":
    main()
