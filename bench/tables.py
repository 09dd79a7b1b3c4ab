"""The tables of docs/performance.md, out of the figures. One whose suites were not measured says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.medians import middle, ratio
from bench.targets import TARGETS, Suites

KINDS = {
    "bytes": "bytes back, nothing else",
    "uvicorn": "uvicorn alone, bytes back",
    "noop": "FastAPI no-op",
    "SKIP LOCKED": "`SKIP LOCKED` table, no HTTP",
    "counted rows": "counted rows, no HTTP",
    "steindamm": "steindamm, no HTTP, not durable",
}
"""How a contender is shown, where its name is not enough."""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """The first column to the left, the others to the right; padded, so that a terminal can show it as it is."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: list[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def number(value: float) -> str:
    """With as many digits as say something."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def targets(suites: Suites) -> str:
    rows = []
    for one in TARGETS:
        figure = one.figure(suites)
        sign = "≤ " if one.at_most else ""
        unit = "×" if one.unit == "×" else f" {one.unit}" if one.unit else ""
        rows.append([
            one.what, f"{sign}{number(one.must)}{unit}", f"{sign}{number(one.aim)}{unit}",
            "" if figure is None else f"{number(figure)}{unit}", one.cpu(suites) if one.cpu and figure is not None else "",
            one.verdict(figure),
        ])  # fmt: skip
    return markdown(["target", "must", "aim", "found", "CPU µs a pair", ""], rows)


def asked(suites: Suites) -> str:
    """What each target comes to here, beside what does nothing: where one asks for more, no gate can be written that meets it."""
    of = suites["throughput"]["clients"]["32"]
    rows = []
    for one in TARGETS:
        if one.asks is not None:
            pairs = one.asks(suites)
            nothing = [f"{number(pairs / middle(of[name]['per_s']))}×" for name in ("noop", "uvicorn")]
            rows.append([one.what, f"{number(one.must)}×", number(pairs), *nothing])
    return markdown(
        ["target, with 32 clients", "must", "pairs/s that it asks for", "of the no-op's", "of uvicorn's alone"], rows
    )


def throughput(suites: Suites) -> str:
    """32 clients. Each ratio is the median of what was measured in the same round."""
    of = suites["throughput"]["clients"]["32"]
    noop, rows = of["noop"], []
    for name, one in of.items():
        rows.append([
            KINDS.get(name, name), number(middle(one["per_s"])), number(ratio(one["per_s"], noop["per_s"])),
            number(middle(one["p50_ms"])), number(middle(one["p99_ms"])), number(ratio(one["p99_ms"], noop["p99_ms"])),
            number(middle(one["cpu_us"])), number(middle(one["load_us"])) if any(one["load_us"]) else "in it",
            number(sum(one["refused"])),
        ])  # fmt: skip
    head = ["", "pairs/s", "of the no-op", "p50 ms", "p99 ms", "of the no-op", "CPU µs a pair", "load's CPU µs", "refused"]
    return markdown(head, rows)


def load(suites: Suites) -> str:
    """Whether the load is the limit."""
    of = suites["throughput"]["clients"]["32"]
    fastest = max(
        (name for name in of if name == "noop" or name.startswith("gate")), key=lambda name: middle(of[name]["per_s"])
    )
    one = of[fastest]
    times, busy = ratio(of["bytes"]["per_s"], one["per_s"]), middle(one["load_us"]) * middle(one["per_s"]) / 1e6
    return (
        f"The load alone, against a server that writes bytes back, does {number(times)} times the pairs of the fastest of gate and the "
        f"no-op. Against that one it takes {number(middle(one['load_us']))} µs of CPU a pair, {number(busy)} of one core: it is not the "
        "limit."
    )


def clients(suites: Suites) -> str:
    """Pairs a second by clients."""
    by_clients = suites["clients"]["clients"] | suites["throughput"]["clients"]
    counts = sorted(by_clients, key=int)
    names = list(by_clients[counts[0]])
    rows = [
        [
            KINDS.get(name, name),
            *(number(middle(by_clients[count][name]["per_s"])) for count in counts if name in by_clients[count]),
        ]
        for name in names
    ]
    return markdown(["pairs/s with so many clients", *counts], rows)


def handover(suites: Suites) -> str:
    of = suites["handover"]
    rows = [
        ["release sent → the waiter has its answer, p50", f"{number(middle(of['handed_ms']))} ms"],
        ["→ its claim is answered, p50", f"{number(middle(of['claimed_ms']))} ms"],
        ["one commit on this disk, p50", f"{number(middle(of['commit_ms']))} ms"],
        ["hand-over beside its two commits, p50", f"{number(middle(of['beside_ms']))} ms"],
        ["32 in line for three slots", f"{number(middle(of['in_line_per_s']))} pairs/s"],
        ["of 3 ÷ (release → grant → claim, alone)", f"{number(middle(of['of_three']))}×"],
        ["served out of turn", f"{number(of['out_of_turn'])} of {number(of['granted'])}"],
    ]
    return markdown(["", "found"], rows)


def depth(suites: Suites) -> str:
    of = suites["depth"]["depths"]
    depths = sorted(of, key=int)
    shallow, deep = of[depths[0]], of[depths[-1]]

    def row(what: str, which: str, unit: str) -> list[str]:
        return [
            f"{what}, {unit}",
            *(number(of[one][which][what]) for one in depths),
            number(deep[which][what] / shallow[which][what]),
        ]

    rows = [row(what, "ms", "ms") for what in shallow["ms"]]
    rows += [row(what, "redis_us", "µs of Redis a script") for what in shallow["redis_us"]]
    return markdown(["waiting", *(number(int(one)) for one in depths), "last ÷ first"], rows)


def rest(suites: Suites) -> str:
    dead, parked, starting = suites["dead"], suites["parked"], suites["starting"]
    rows = [
        [f"one script with {dead['dead']:,} dead {name}: p50, p99, the worst of {dead['calls']}",
         " · ".join(number(dead[name][which] / 1000) for which in ("p50_us", "p99_us", "worst_us")) + " ms"]
        for name in ("leases", "waiters")
    ]  # fmt: skip
    each = [parked[f"{whose}_bytes_each"] / 1024 for whose in ("gate", "valkey")]
    rows += [
        [f"{parked['count']:,} parked: memory each, of gate and of its Valkey", " + ".join(map(number, each)) + " KB"],
        ["the others' throughput meanwhile", f"{number(parked['others'])}×"],
        [
            "`gate serve` ready, warm (Python alone)",
            f"{number(middle(starting['ready_s']))} s ({number(middle(starting['python_s']))} s)",
        ],
    ]
    return markdown(["", "found"], rows)


def lanes(suites: Suites) -> str:
    """What each part of the fast lane gains, where it stands, and whether it is worth its text."""
    rows = []
    for name, by_database in suites["ablation"]["lanes"].items():
        gains = {database: middle(of["gain"]) for database, of in by_database.items()}
        told = [f"{gains[database] * 100:+.0f} %" if database in gains else "" for database in ("SQLite", "Postgres")]
        tails = [f"{number(middle(of['p99']))}×" for of in by_database.values()]
        rows.append([f"{name.replace('_', ' ')}", *told, " · ".join(tails)])
    return markdown(["without", "CPU a pair, SQLite", "CPU a pair, Postgres", "p99"], rows)


def asking(suites: Suites) -> str:
    """Questions that hang: the ratio of the pairs, and what an idle gate uses."""
    found, rows = suites["asking"], []
    for database, of in found["databases"].items():
        pairs, idle = of["per_s"], {which: values[0] / found["idle_s"] for which, values in of["idle_cpu_s"].items()}
        rows.append([
            database, number(middle(pairs["without"])), number(middle(pairs["with"])),
            f"{ratio(pairs['with'], pairs['without']):.3f}", f"{ratio(of['cpu_us']['with'], of['cpu_us']['without']):.3f}",
            f"{idle['without']:.2%}", f"{idle['with']:.2%}",
        ])  # fmt: skip
    head = [
        "database",
        "pairs a second without accounts",
        "with, every question hangs",
        "ratio",
        "CPU a pair, ratio",
        "CPU when idle, without",
        "with",
    ]
    return markdown(head, rows)


def carries(suites: Suites, machine: dict[str, Any]) -> str:
    """What one machine of which size carries."""
    rows = []
    of = suites["throughput"]
    for name in ("gate, SQLite", "gate, Postgres"):
        one = of["clients"]["32"][name]
        busy = middle(one["cpu_us"]) * middle(one["per_s"]) / 1e6
        rows.append(
            [
                f"pairs a second, {name.removeprefix('gate, ')}",
                f"{number(middle(one['per_s']))}, with {number(busy)} cores busy",
            ]
        )
    parked = suites["parked"]
    each = (parked["gate_bytes_each"] + parked["valkey_bytes_each"]) / 1024
    depths = suites["depth"]["depths"]
    shallow, *_, deep = sorted(depths, key=int)
    dearer = max(depths[deep]["ms"][what] / depths[shallow]["ms"][what] for what in depths[deep]["ms"])
    rows += [
        ["one who waits in a call", f"{number(each)} KB: {number(each * 100_000 / 2**20)} GB for 100,000"],
        [f"a queue of {int(deep):,}, beside one of {int(shallow):,}", f"at most {number(dearer)} times the time of a call"],
    ]
    return markdown([f"{machine['cores']} cores, {machine['memory_gb']} GB", "carries"], rows)


def growth(found: dict[str, Any]) -> str:
    """The figures as a table: a row for each number of pools and servers."""
    names = {
        "cpu_percent": "CPU %", "commands": "Redis commands/s", "rows": "SQL rows/s", "ready_s": "ready, s",
        "first_ready_s": "ready on an empty Redis, s", "served_after_flushall_s": "served after FLUSHALL, s", "mended_s": "ZREM mended, s",
        "freed_s": "dead lease freed late by, s",
    }  # fmt: skip
    rows = {f"{int(count):,} pools": one for count, one in found["pools"].items()}
    rows |= {
        f"{found['of_four']:,} pools, {name} server{'s' * (name != 'one')}": one for name, one in found["servers"].items()
    }
    shown = [[about, *("" if one.get(key) is None else number(one[key]) for key in names)] for about, one in rows.items()]
    return markdown(["", *names.values()], shown)


def made(all_of_it: dict[str, Any]) -> dict[str, str]:
    """Each table by its name."""
    suites = {name: suite["found"] for name, suite in all_of_it["suites"].items()}
    makers: dict[str, Callable[[], str]] = {
        "machine": lambda: _machine(all_of_it),
        "targets": lambda: targets(suites),
        "asked": lambda: asked(suites),
        "throughput": lambda: f"{throughput(suites)}\n\n{load(suites)}",
        "clients": lambda: clients(suites),
        "handover": lambda: handover(suites),
        "depth": lambda: depth(suites),
        "rest": lambda: rest(suites),
        "lanes": lambda: lanes(suites),
        "asking": lambda: asking(suites),
        "growth": lambda: growth(suites["growth"]),
        "carries": lambda: carries(suites, all_of_it["machine"]),
    }
    return {name: _or_not_measured(maker) for name, maker in makers.items()}


def _or_not_measured(maker: Callable[[], str]) -> str:
    try:
        return maker()
    except LookupError:
        return "Not measured yet."


def _machine(all_of_it: dict[str, Any]) -> str:
    of = all_of_it["machine"]
    when = " and ".join(sorted({suite["when"] for suite in all_of_it["suites"].values()}))
    commits = ", ".join(sorted({suite["commit"] for suite in all_of_it["suites"].values()}))
    return (
        f"{when}, commit {commits}; {of['cores']} cores, {of['memory_gb']} GB, {of['system']}, Python {of['python']}, FastAPI "
        f"{of['fastapi']}, Valkey {of['valkey']}, Postgres {of['postgres']} with the settings that it ships with, Prefect "
        f"{of['prefect']}, steindamm {of['steindamm']}."
    )
