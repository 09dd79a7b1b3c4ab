"""What is made of figures: verdicts, tables, the page, plots. No server runs here."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bench import contenders, environments, page, tables
from bench.medians import PERCENTS, percentiles, ratio
from bench.targets import TARGETS, Target

RATES = {"bytes": 30_000.0, "uvicorn": 15_000.0, "noop": 3000.0, "gate, SQLite": 3300.0, "gate, Postgres": 1500.0, "SKIP LOCKED": 3000.0,
         "counted rows": 300.0, "Prefect, SQLite": 20.0, "Prefect, Postgres": 60.0, "steindamm": 4000.0}  # fmt: skip


def contender(per_s: float) -> dict[str, Any]:
    return {"per_s": [per_s, per_s * 2, per_s], "p50_ms": [5.0], "p99_ms": [9.0, 9.0, 9.0], "cpu_us": [200.0], "load_us": [50.0],
            "refused": [0], "spread_ms": [1 + percent / 10 for percent in PERCENTS]}  # fmt: skip


def of_depth(ms: float) -> dict[str, Any]:
    asked = ("enqueue", "position", "renew", "cancel")
    return {"ms": dict.fromkeys((*asked, "hand-over"), ms), "redis_us": dict.fromkeys(asked, 250.0)}


def suites() -> dict[str, Any]:
    all_of_them = {name: contender(per_s) for name, per_s in RATES.items()}
    dead = {"p50_us": 400.0, "p99_us": 1100.0, "worst_us": 2000.0}
    return {
        "throughput": {"clients": {"32": all_of_them}},
        "clients": {"clients": {"1": all_of_them, "8": all_of_them}},
        "handover": {"handed_ms": [2.0], "claimed_ms": [3.0], "commit_ms": [0.4], "beside_ms": [1.2], "in_line_per_s": [900.0],
                     "of_three": [0.9], "granted": 1000, "out_of_turn": 0,
                     "handed_spread_ms": [1.0] * len(PERCENTS), "claimed_spread_ms": [2.0] * len(PERCENTS)},
        "depth": {"depths": {"10": of_depth(1.0), "10000": of_depth(1.1)}},
        "dead": {"dead": 100_000, "calls": 200, "leases": dead, "waiters": dead},
        "parked": {"count": 10_000, "gate_bytes_each": 15_000.0, "valkey_bytes_each": 360.0, "others": 0.92},
        "growth": {"pools": {"1": {"cpu_percent": 1.4}}, "servers": {"one": {"commands": 91.0}}, "of_four": 1000},
        "starting": {"ready_s": [0.9], "python_s": [0.01]},
        "asking": {
            "idle_s": 20.0,
            "databases": {
                "SQLite": {
                    "per_s": {"with": [98.0], "without": [100.0]}, "idle_cpu_s": {"with": [0.4], "without": [0.2]},
                    "cpu_us": {"with": [101.0], "without": [100.0]},
                    "most_hanging": 16,
                }
            },
        },
        "ablation": {"lanes": {"fast_path": {"SQLite": {"gain": [2.0], "p99": [3.0]}}}},
    }  # fmt: skip


def all_of_it() -> dict[str, Any]:
    of = {"cores": 2, "memory_gb": 24} | dict.fromkeys(
        ("system", "python", "fastapi", "valkey", "postgres", "prefect", "steindamm"), "1"
    )
    return {
        "machine": of,
        "suites": {name: {"when": "2026-11-25", "commit": "c", "found": one} for name, one in suites().items()},
    }


@pytest.mark.parametrize("figure, at_most, verdict", [
    (1.5, False, "met, the aim too"), (1.0, False, "met"), (0.99, False, "not met"), (None, False, "not measured"),
    (1.5, True, "met"), (1.0, True, "met, the aim too"), (1.51, True, "not met"),
])  # fmt: skip
def test_a_verdict(figure: float | None, at_most: bool, verdict: str) -> None:
    must, aim = (1.5, 1.0) if at_most else (1.0, 1.5)
    assert Target("", must, aim, lambda _: 0.0, at_most=at_most).verdict(figure) == verdict


def test_each_target_finds_its_figure() -> None:
    found = {one.what: one.figure(suites()) for one in TARGETS}
    assert found == pytest.approx({
        "gate, SQLite: pairs/s of the no-op's, 32 clients": 1.1,
        "gate, Postgres: pairs/s of the no-op's, 32 clients": 0.5,
        "gate, SQLite: p99 of the no-op's": 1.0,
        "gate, Postgres: p99 of the no-op's": 1.0,
        "gate, SQLite: pairs/s of Prefect's, 32 clients": 55.0,
        "gate, Postgres: pairs/s of Prefect's, 32 clients": 25.0,
        "gate, SQLite: pairs/s of Prefect's, 1 client": 55.0,
        "gate, Postgres: pairs/s of Prefect's, 1 client": 25.0,
        "gate, Postgres: pairs/s of SKIP LOCKED's, 32 clients": 0.5,
        "gate, Postgres: pairs/s of counting rows', 32 clients": 5.0,
        "release sent → the waiter has its answer, beside the commits, p50": 1.2,
        "served out of turn": 0,
        "32 in line for three slots, of 3 ÷ (release → grant → claim)": 0.9,
        "enqueue with 10,000 waiting ÷ 10": 1.1,
        "hand-over with 10,000 waiting ÷ 10": 1.1,
        "renew with 10,000 waiting ÷ 10": 1.1,
        "position with 10,000 waiting, in Redis": 0.25,
        "cancel with 10,000 waiting, in Redis": 0.25,
        "one script with 100,000 dead leases, p99": 1.1,
        "one script with 100,000 dead waiters, p99": 1.1,
        "10,000 parked: memory each, gate's and its Valkey's": 15.0,
        "10,000 parked: the others' throughput": 0.92,
        "`gate serve` ready, warm": 0.9,
    })  # fmt: skip


def test_what_was_not_measured_is_not_judged() -> None:
    assert {one.verdict(one.figure({})) for one in TARGETS} == {"not measured"}
    fewer = suites()
    fewer["parked"]["count"] = 500
    fewer["dead"]["dead"] = 500
    assert sum(one.figure(fewer) is None for one in TARGETS) == 4


def test_the_table_of_targets_says_it_all() -> None:
    rows = tables.targets(suites()).splitlines()
    assert len(rows) == 2 + len(TARGETS)
    (one,) = [row for row in rows if "SQLite: pairs/s of the no-op" in row]
    assert [cell.strip() for cell in one.split("|")[2:-1]] == ["1×", "1.50×", "1.10×", "200 : 200", "met"]


def test_what_a_target_asks_for_stands_beside_what_does_nothing() -> None:
    rows = tables.asked(suites()).splitlines()
    (one,) = [row for row in rows if "counting rows" in row]
    assert [cell.strip() for cell in one.split("|")[2:-1]] == ["10×", "3,000", "1×", "0.20×"]
    assert len(rows) == 2 + sum("32 clients" in one.what for one in TARGETS)


def test_ratios_are_of_the_same_round() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.5]) == 2.0
    assert percentiles([3.0, 1.0, 2.0], 10)[PERCENTS.index(50)] == 20.0


def test_the_page_is_what_its_figures_make_it() -> None:
    """`python -m bench --write` writes the figures, never a person."""
    kept = page.FOLDER / "figures.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"machine": {}, "suites": {}}
    assert page.filled(page.PAGE.read_text(), found) == page.PAGE.read_text()


def test_what_the_page_says_of_other_machines_stands_in_their_figures() -> None:
    (said,) = re.findall(r"^\| before .*?(?=\n\n)", page.PAGE.read_text(), re.DOTALL | re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in said.splitlines()[2:]]
    assert len(rows) == 16
    for machine, figures in zip(("fast", "medium", "slow"), zip(*rows, strict=True), strict=True):
        found = tables.made(json.loads((page.FOLDER / f"figures-{machine}.json").read_text()))["targets"]
        assert not {figure for figure in figures if f" {figure} |" not in found}, machine


def test_the_page_has_a_place_for_each_table_and_plot(tmp_path: Path) -> None:
    text = page.PAGE.read_text()
    assert {name for _, name, _, _ in page.MARKED.findall(text)} == set(tables.made(all_of_it())) | {
        f"plot_{name}" for name in page.PLOTS
    }
    assert "Not measured" not in page.filled(text, all_of_it(), tmp_path)


@pytest.mark.skipif(
    "GATE_TEST_EVERYTHING" not in os.environ and not environments.is_made("plots"),
    reason="plots are drawn with their environment",
)
def test_plots_are_written(tmp_path: Path) -> None:
    figures = tmp_path / "measured.json"
    figures.write_text(json.dumps(all_of_it()))
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    page.write(figures, copy, tmp_path / "performance")
    for name in page.PLOTS:
        assert "<svg" in (tmp_path / "performance" / f"{name}.svg").read_text()
        assert f"](performance/{name}.svg)" in copy.read_text()


def test_each_environment_is_pinned_as_it_is_wanted() -> None:
    for wanted in environments.FOLDER.glob("*.in"):
        lock = wanted.with_suffix(".lock").read_text()
        pinned = {line.split("==")[0] for line in lock.splitlines() if not line.startswith((" ", "#"))}
        for line in wanted.read_text().split():
            name, _, version = line.partition("==")
            name = name.partition("[")[0]
            assert name in pinned
            assert not version or environments.version(wanted.stem, name) == version
    assert set(RATES) == set(contenders.ALL)
