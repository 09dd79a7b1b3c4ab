"""Who is measured side by side: gate on both its databases, what does nothing, and what else one might use. One Postgres for all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import environments, servers
from bench.load import Samples, Shape, pairs
from bench.medians import PERCENTS, percentiles
from bench.peers import prefect
from bench.progress import say

POOL = "[pools.bench]\nlimit = 200\n"
GATES = ("gate, SQLite", "gate, Postgres")
PLAIN = ("bytes", "uvicorn", "noop", *GATES, "SKIP LOCKED", "counted rows")
"""Those that need no environment of their own."""
PREFECTS = ("Prefect, SQLite", "Prefect, Postgres")
ALL = (*PLAIN, *PREFECTS, "steindamm")
OURS = ("bytes", "uvicorn", "noop", *GATES)
"""Those that refuse nobody, and whose failure is the bench's."""


@dataclass
class Contender:
    server: servers.Server
    shape: Shape
    failed: bool = False
    """Whether it is out of the race: a peer that does not hold what is asked of it."""

    @property
    def name(self) -> str:
        return self.server.name

    def measure(self, clients: int, seconds: float, name: str) -> dict[str, Any] | None:
        """The figures of one round, or None of a peer that failed, now or before."""
        if self.failed:
            return None
        try:
            return self._measured(clients, seconds, name)
        except (AssertionError, OSError, json.JSONDecodeError) as failure:
            if self.name in OURS:
                raise
            say(f"left out from here: {self.name}: {failure}")
            self.failed = True
            return None

    def _measured(self, clients: int, seconds: float, name: str) -> dict[str, Any]:
        before, before_load = self.server.cpu_s(), time.process_time()
        if self.server.port:
            samples = uvloop.run(pairs(self.server.port, self.shape, clients, seconds, name))
            load_s = time.process_time() - before_load
        else:
            samples, load_s = self._told(clients, seconds), 0.0  # it is its own load
        cpu_s = self.server.cpu_s() - before
        assert samples.pairs, (self.name, samples.refused)
        assert not samples.refused or self.name not in OURS, (self.name, samples.refused)
        spread = percentiles(samples.acquire_s + samples.release_s, 1000)
        return {
            "per_s": samples.pairs / samples.took_s,
            "p50_ms": spread[PERCENTS.index(50)],
            "p99_ms": spread[PERCENTS.index(99)],
            "cpu_us": cpu_s / samples.pairs * 1e6,
            "load_us": load_s / samples.pairs * 1e6,
            "refused": sum(samples.refused.values()),
            "spread_ms": spread,
        }

    def _told(self, clients: int, seconds: float) -> Samples:
        """By a library, see bench/peers/library.py."""
        talking = self.server.process
        assert talking.stdin is not None and talking.stdout is not None
        talking.stdin.write(f"{clients} {seconds}\n")
        talking.stdin.flush()
        line = talking.stdout.readline()
        assert line, f"{self.name} ended with {talking.poll()}"
        return Samples(**json.loads(line))


@contextmanager
def started(folder: Path, names: tuple[str, ...] = ALL) -> Iterator[list[Contender]]:
    """Those of `names` that can be had here, each ready."""
    with ExitStack() as stack:
        url, pid = stack.enter_context(servers.postgres(folder / "pg")) if _on_postgres(names) else ("", 0)
        made = []
        for name in names:
            say(f"starting {name}")
            try:
                server = stack.enter_context(_start(name, folder, url, pid))
            except (environments.NotMade, AssertionError) as missing:
                if name in OURS:
                    raise
                say(f"left out: {name}: {missing}")
                continue
            made.append(Contender(server, prefect.PrefectShape() if name in PREFECTS else Shape(key=server.key)))
        yield made


def _on_postgres(names: tuple[str, ...]) -> bool:
    return bool({"gate, Postgres", "SKIP LOCKED", "counted rows", "Prefect, Postgres"} & set(names))


@contextmanager
def _start(name: str, folder: Path, url: str, pid: int) -> Iterator[servers.Server]:
    with ExitStack() as stack:
        match name:
            case "bytes" | "noop":
                made = servers.python(name, f"bench.peers.{name}")
            case "uvicorn":
                made = servers.python(name, "bench.peers.uvicorn_alone")
            case "gate, SQLite":
                made = servers.gate(name, folder / "gate-sqlite", pools=POOL)
            case "gate, Postgres":
                made = servers.gate(name, folder / "gate-postgres", servers.database(url, "gate"), pid, pools=POOL)
            case "SKIP LOCKED":
                made = servers.library(name, "bench.peers.skip_locked", servers.database(url, "skip_locked"), pid)
            case "counted rows":
                made = servers.library(name, "bench.peers.count_rows", servers.database(url, "count_rows"), pid)
            case "Prefect, SQLite":
                made = prefect.started(name, folder / "prefect-sqlite")
            case "Prefect, Postgres":
                made = prefect.started(name, folder / "prefect-postgres", servers.database(url, "prefect"), pid)
            case "steindamm":
                program = environments.python("steindamm")
                redis, redis_pid = stack.enter_context(servers.valkey(folder / "valkey"))
                made = servers.library(name, "bench.peers.steindamm", redis, redis_pid, program)
            case _:
                raise ValueError(f"there is no contender {name}")
        yield stack.enter_context(made)
