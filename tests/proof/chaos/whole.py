"""The whole of it: every run of the plan, each in a process of its own, its verdict kept in a file.

    python -m tests.proof.chaos.whole RESULTS [--at-once 2] [--only FAULT]     plays what RESULTS has no good verdict of
    python -m tests.proof.chaos.whole RESULTS --table                          the table of docs/reliability.md

It goes on where it stopped: a run whose verdict is there is not played again, unless something was wrong.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.proof.chaos.plan import DEADLINE_S, PLAN, Row
from tests.proof.chaos.scene import Options
from tests.support.paths import ROOT

Kept = dict[str, dict[str, Any]]


def name(options: Options) -> str:
    """The command that plays it."""
    given = dataclasses.asdict(options)
    fault = given.pop("fault")
    return " ".join(
        [
            "python -m tests.proof.chaos",
            fault,
            *(f"--{word} {value:g}" if isinstance(value, float) else f"--{word} {value}" for word, value in given.items()),
        ]
    )


def read(results: Path) -> Kept:
    """The last verdict of each run."""
    kept: Kept = {}
    if results.exists():
        for line in results.read_text().splitlines():
            verdict = json.loads(line)
            kept[verdict["run"]] = verdict
    return kept


def play(options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "verdict.json"
        words = [*name(options).split()[1:], "--verdict", str(file)]
        try:
            ended = subprocess.run([sys.executable, *words], cwd=ROOT, timeout=DEADLINE_S, capture_output=True, text=True)
            said = ended.stdout + ended.stderr[-2000:]
        except subprocess.TimeoutExpired:
            said = f"not done in {DEADLINE_S} s"
        verdict = json.loads(file.read_text()) if file.exists() else {"wrong": [said], "breaches": []}
    return {"run": name(options), "at": datetime.date.today().isoformat(), "commit": _commit(), "said": said} | verdict


def _commit() -> str:
    """What was played; '' where there is no checkout."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip()


def is_right(verdict: dict[str, Any]) -> bool:
    return not verdict["wrong"] and not verdict["breaches"]


def table(kept: Kept) -> str:
    lines = ["| what happens | how often | what was done meanwhile | commands | result |", "|---|---|---|---|---|"]
    for row in PLAN:
        found = [kept[name(options)] for options in row.runs if name(options) in kept]
        commands = "<br>".join(f"`{_short(options)}`" for options in row.runs)
        lines.append(f"| {row.promise} | {_count(row, found)} | {_meanwhile(found)} | {commands} | {_result(row, found)} |")
    return "\n".join(lines)


def _short(options: Options) -> str:
    return name(options).removeprefix("python -m tests.proof.chaos ").replace("--calls 0", "").replace("  ", " ").strip()


def _count(row: Row, found: list[dict[str, Any]]) -> str:
    count = sum(verdict.get("calls" if row.counts == "calls" else "faults", 0) for verdict in found)
    return f"{count:,} {row.counts}"


def _meanwhile(found: list[dict[str, Any]]) -> str:
    jobs, calls = (sum(verdict.get(what, 0) for verdict in found) for what in ("jobs", "calls"))
    return f"{jobs:,} jobs, {calls:,} calls, {sum(verdict.get('rebuilds', 0) for verdict in found)} rebuilds"


def _result(row: Row, found: list[dict[str, Any]]) -> str:
    played = [verdict for verdict in found if "most" in verdict]
    if len(played) < len(row.runs):
        return f"{len(played)} of {len(row.runs)} runs done"
    wrong = sum(len(verdict["wrong"]) + len(verdict["breaches"]) for verdict in found)
    slowest = max((verdict["slowest"] for verdict in found if verdict["slowest"] is not None), default=None)
    back = f", served again after at most {slowest:.2f} s" if slowest is not None else ""
    most = max(verdict["most"] for verdict in found)
    return f"{wrong or 'nothing'} wrong; at most {most} of {found[0]['limit']} at once{back}"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.proof.chaos.whole")
    options.add_argument("results", type=Path)
    options.add_argument("--at-once", type=int, default=1)
    options.add_argument("--only", help="runs of this fault")
    options.add_argument("--table", action="store_true")
    given = options.parse_args()
    kept = read(given.results)
    if given.table:
        print(table(kept))
        return
    done = {run for run, verdict in kept.items() if is_right(verdict)}
    wanted = [one for row in PLAN for one in row.runs if given.only in (None, one.fault) and name(one) not in done]
    right = True
    with given.results.open("a") as file, concurrent.futures.ThreadPoolExecutor(given.at_once) as players:
        for future in concurrent.futures.as_completed([players.submit(play, one) for one in wanted]):
            verdict = future.result()
            right = right and is_right(verdict)
            print(json.dumps(verdict), file=file, flush=True)
            print(f"{verdict['run']}\n{verdict['said']}", flush=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
