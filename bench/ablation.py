"""What each part of the fast lane gains: gate as it is beside gate with that part replaced (`bench.without`), in alternating rounds.

The gain is the CPU of gate and its stores for a pair of acquire and release, with 32 clients: without the part over with it, less
one. It is the median over the rounds. On a noisy machine CPU for a pair swings less than pairs for a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import servers
from bench.contenders import POOL, Contender
from bench.load import Shape
from bench.progress import say
from bench.without import LANES, ONLY_ON

CLIENTS = 32
KEPT_FROM = 0.03
"""Gain from which a part is worth its text."""


def run(folder: Path, rounds: int = 5, seconds: float = 1.5, lanes: tuple[str, ...] = tuple(LANES)) -> dict[str, Any]:
    """By part and database: the gain in CPU for a pair, and the ratio of the p99, each by round."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with ExitStack() as stack:
        url, pid = stack.enter_context(servers.postgres(folder / "pg"))
        for database in ("SQLite", "Postgres"):
            wanted = [lane for lane in lanes if ONLY_ON.get(lane, database) == database]
            if not wanted:
                continue
            for lane in wanted:
                say(f"{database} without {lane}")
                # Both are new: a gate whose tables have grown is dearer.
                with _started(folder, database, lane, url, pid) as (whole, less):
                    found.setdefault(lane, {})[database] = _compared(whole, less, lane, rounds, seconds)
    return {"rounds": rounds, "seconds": seconds, "lanes": found}


def _compared(whole: Contender, less: Contender, lane: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    gains, p99 = [], []
    for number in range(rounds):
        pair = {}
        for which, one in sorted({"whole": whole, "less": less}.items(), reverse=bool(number % 2)):
            pair[which] = one.measure(CLIENTS, seconds, f"{lane}-{number}")
        of_whole, of_less = pair["whole"], pair["less"]
        assert of_whole is not None and of_less is not None
        gains.append(of_less["cpu_us"] / of_whole["cpu_us"] - 1)
        p99.append(of_less["p99_ms"] / of_whole["p99_ms"])
    say(f"  {median(gains):+.1%} CPU for a pair, p99 {median(p99):.2f}x")
    return {"gain": gains, "p99": p99}


@contextmanager
def _started(folder: Path, database: str, lane: str, url: str, pid: int) -> Iterator[tuple[Contender, Contender]]:
    """A gate as it is, and one without the part, both warm."""
    with ExitStack() as stack:
        made = []
        for which, module in (("whole", ("gate",)), ("less", ("bench.without", lane))):
            name = f"{database}_{lane}_{which}".lower()
            sql = servers.database(url, name) if database == "Postgres" else None
            gate = servers.gate(name, folder / name, sql, pid if sql else None, pools=POOL, module=module)
            server = stack.enter_context(gate)
            made.append(Contender(server, Shape(key=server.key)))
            made[-1].measure(CLIENTS, 1.0, "warm")
        yield made[0], made[1]
