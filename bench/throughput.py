"""Pairs a second: acquire and release over HTTP, durable, with everything on that a user has on, beside a route that does nothing.

Rounds are interleaved and each figure is the median over rounds: on a noisy machine only ratios of one run mean anything.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import servers
from bench.load import Samples, Shape, pairs

POOL = "[pools.bench]\nlimit = 200\n"


@dataclass
class Contender:
    """Its figures by round."""

    server: servers.Server
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def note(self, samples: Samples, cpu_s: float) -> None:
        assert samples.pairs and not samples.refused, (self.server.name, samples.refused)
        requests = sorted(samples.acquire_s + samples.release_s)
        self.per_s.append(samples.pairs / samples.took_s)
        self.p50_ms.append(requests[len(requests) // 2] * 1000)
        self.p99_ms.append(requests[len(requests) * 99 // 100] * 1000)
        self.cpu_us.append(cpu_s / samples.pairs * 1e6)


def run(
    folder: Path, clients: int = 32, rounds: int = 7, seconds: float = 3.0, sqls: tuple[str, ...] = ("sqlite", "postgres")
) -> dict:
    with ExitStack() as stack:
        started = [
            stack.enter_context(servers.python("bytes", "bench.peers.bytes")),
            stack.enter_context(servers.python("noop", "bench.peers.noop")),
        ]
        if "sqlite" in sqls:
            started.append(stack.enter_context(servers.gate("gate, SQLite", folder / "sqlite", pools=POOL)))
        if "postgres" in sqls:
            url, pid = stack.enter_context(servers.postgres(folder / "pg"))
            started.append(stack.enter_context(servers.gate("gate, Postgres", folder / "postgres", url, pid, pools=POOL)))
        contenders = [Contender(server) for server in started]
        for number in range(-1, rounds):
            for one in contenders:
                before = one.server.cpu_s()
                shape = Shape(key=one.server.key)
                samples = uvloop.run(pairs(one.server.port, shape, clients, seconds if number >= 0 else 1.0, f"r{number}"))
                if number >= 0:
                    one.note(samples, one.server.cpu_s() - before)
    return {one.server.name: one for one in contenders}


def report(found: dict) -> str:
    noop = found["noop"]
    lines = [f"{'':<16}{'pairs/s':>9}{'of no-op':>9}{'p50 ms':>8}{'p99 ms':>8}{'of no-op':>9}{'CPU µs':>8}"]
    for name, one in found.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(one.per_s, noop.per_s, strict=True))
        tail = statistics.median(mine / theirs for mine, theirs in zip(one.p99_ms, noop.p99_ms, strict=True))
        lines.append(
            f"{name:<16}{statistics.median(one.per_s):>9.0f}{ratio:>9.2f}{statistics.median(one.p50_ms):>8.2f}"
            f"{statistics.median(one.p99_ms):>8.2f}{tail:>9.2f}{statistics.median(one.cpu_us):>8.0f}"
        )
    return "\n".join(lines)
