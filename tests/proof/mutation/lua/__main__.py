"""Every script of lua/ is changed in one small place after the other, and the tests have to notice.

    python -m tests.proof.mutation.lua                    every mutant; what is known from an earlier run is not tried again
    python -m tests.proof.mutation.lua --only acquire     those of one script (prelude: of what all share)
    python -m tests.proof.mutation.lua --sample 60        as many, drawn by --seed
    python -m tests.proof.mutation.lua --near             the tests of the scripts, of the rules and of the tutorial only

The report names each mutant that survived. Exit 1 when fewer than 95 in 100 were killed, or when one survived that
tests/proof/mutation/lua/explained.py does not speak of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import multiprocessing.util
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gate.slots import scripts
from tests.proof.mutation.lua.bench import NEAR, STAGES, Bench, CannotJudge, Verdict, with_tests
from tests.proof.mutation.lua.explained import REASONS
from tests.proof.mutation.lua.mutants import Mutant, mutants
from tests.support.paths import ROOT

ENOUGH = 0.95
RESULTS = ROOT / ".mutation" / "lua.jsonl"

Known = dict[str, dict[str, Any]]
_bench: Bench


def every_mutant() -> list[Mutant]:
    prelude = (scripts.FOLDER / "_prelude.lua").read_text()
    return [
        mutant
        for path in sorted(scripts.FOLDER.glob("*.lua"))
        for mutant in mutants(path.name, path.read_text(), prelude if path.stem in scripts.WITH_PRELUDE else "")
    ]


def ground() -> str:
    """Of what a verdict depends on beside the mutant: the scripts, gate, and the tests that are asked."""
    whole = hashlib.sha256()
    folders = (
        "lua",
        "gate",
        "tests/unit/lua",
        "tests/fundamentals",
        "tests/proof/state_machine",
        "tests/integration/races",
        "tests/integration/workers",
    )
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".lua")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def known_verdicts(results: Path) -> Known:
    """By the mutant's key, the last word on it."""
    if not results.exists():
        return {}
    return {row["key"]: row for row in map(json.loads, results.read_text().splitlines())}


def _take_place(session: pytest.Session) -> None:
    global _bench
    _bench = Bench(session)
    multiprocessing.util.Finalize(None, _bench.close, exitpriority=1)


def _judge(task: tuple[Mutant | None, str, tuple[str, ...]]) -> tuple[Mutant | None, Verdict]:
    return task[0], _bench.judge(*task)


def try_all(wanted: list[Mutant], stages: tuple[str, ...], results: Path, workers: int) -> Known:
    """The verdicts on all of them; a new one is written down at once."""
    known, on = known_verdicts(results), ground()
    settled = {key for key, row in known.items() if row["ground"] == on and (row["by"] or set(stages) <= set(row["asked"]))}
    noticed_by = {tuple(row["mutant"]): row["by"] for row in known.values()}
    todo = [(mutant, noticed_by.get(mutant.name, ""), stages) for mutant in wanted if mutant.key not in settled]
    print(f"{len(wanted)} mutants, {len(wanted) - len(todo)} known from an earlier run", flush=True)

    def use(session: pytest.Session) -> None:
        with multiprocessing.get_context("fork").Pool(workers, _take_place, (session,)) as pool, results.open("a") as book:
            _, unchanged = pool.apply(_judge, [(None, "", stages)])
            if unchanged.by:
                raise CannotJudge(f"the scripts as they are fail {unchanged.by}")
            for done, (mutant, verdict) in enumerate(pool.imap_unordered(_judge, todo), 1):
                assert mutant is not None
                row = {"key": mutant.key, "mutant": mutant.name, "ground": on, "asked": stages} | asdict(verdict)
                known[mutant.key] = row
                print(json.dumps(row), file=book, flush=True)
                if not verdict.by:
                    print(f"  {done}/{len(todo)} survived: {said_of(mutant)}", flush=True)
            pool.close()
            pool.join()

    if todo:
        results.parent.mkdir(exist_ok=True)
        with_tests(use, stages)
    return known


def said_of(mutant: Mutant) -> str:
    inside = f" in {mutant.inside}" if mutant.inside else ""
    return f"lua/{mutant.file}:{mutant.line}{inside}\n      was {mutant.was}\n      now {mutant.becomes or '(nothing)'}"


def report(wanted: list[Mutant], known: Known) -> bool:
    """Printed; whether it is good enough."""
    survivors = [mutant for mutant in wanted if not known[mutant.key]["by"]]
    killed = len(wanted) - len(survivors)
    print()
    for file in sorted({mutant.file for mutant in wanted}):
        of_file = [mutant for mutant in wanted if mutant.file == file]
        left = sum(mutant in survivors for mutant in of_file)
        print(f"{'lua/' + file:22}{len(of_file):5} mutants {len(of_file) - left:5} killed {left:4} survived")
    stages = Counter(known[mutant.key]["stage"] for mutant in wanted if known[mutant.key]["by"])
    print(
        f"{'in all':22}{len(wanted):5} mutants {killed:5} killed {len(survivors):4} survived: {killed / len(wanted):.1%} killed"
    )
    print("killed by " + ", ".join(f"{stage} {count}" for stage, count in stages.most_common()))
    unexplained = [mutant for mutant in survivors if mutant.change not in REASONS]
    for title, which in (("explained", [m for m in survivors if m not in unexplained]), ("NOT EXPLAINED", unexplained)):
        print(f"\n{title}: {len(which)}" if which else "", end="\n" if which else "")
        for mutant in which:
            print("  " + said_of(mutant) + (f"\n      for {REASONS[mutant.change]}" if mutant.change in REASONS else ""))
    for mutant in wanted:
        if mutant not in survivors and mutant.change in REASONS:
            print(f"explained, yet killed by {known[mutant.key]['by']}: {said_of(mutant)}")
    return killed >= ENOUGH * len(wanted) and not unexplained


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.mutation.lua", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="SCRIPT", help="acquire, prelude, …; may be given again")
    parser.add_argument("--sample", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--near", action="store_true", help="without the tests of the races and the keeper")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="verdicts, as JSON lines")
    options = parser.parse_args()
    only = {name.removeprefix("_") + ".lua" for name in options.only or ()}
    wanted = [mutant for mutant in every_mutant() if not only or mutant.file.removeprefix("_") in only]
    if options.sample and options.sample < len(wanted):
        wanted = random.Random(options.seed).sample(wanted, options.sample)
    if not wanted:
        parser.error("there is no such script")
    started = time.monotonic()
    known = try_all(wanted, tuple(NEAR if options.near else STAGES), options.results, options.workers)
    good = report(wanted, known)
    print(f"\n{'good' if good else 'NOT GOOD ENOUGH'}, after {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
