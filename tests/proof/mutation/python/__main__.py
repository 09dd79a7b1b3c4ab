"""Whether the tests of the Python can fail: `python -m tests.proof.mutation.python --sample 300 --seed 1`.

A sample of what mutmut makes of the modules that decide is put into copies of the tree, one mutant at a time, and the tests that
reach it are run on real servers. At least 85 of 100 have to be killed. What was judged stands in .mutation/, and is not judged
again: a kill as long as the mutated module is the same, a survival as long as no test has changed either.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.proof.mutation.python.judging import Judge, Verdict
from tests.proof.mutation.python.mutants import Mutant, population
from tests.proof.mutation.python.reach import reach
from tests.proof.mutation.python.trees import warm
from tests.support.paths import ROOT

KEPT = ROOT / ".mutation"
WANTED = 0.85
CONTROLS = 4
"""Runs on unchanged text: where one of these is `killed`, the tests fail by themselves and the rest says nothing."""


class Record:
    """What was judged before, by other runs too."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tests = _digest()
        self._known: dict[str, dict[str, str]] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            one = json.loads(line)
            self._known[one["mutant"]] = one

    def find(self, mutant: Mutant) -> Verdict | None:
        one = self._known.get(mutant.name)
        if one is None or one["sha"] != mutant.sha or one["word"] == "error":
            return None
        if one["word"] == "survived" and one["tests"] != self._tests:
            return None
        return Verdict(mutant, one["word"], one["by"], float(one["seconds"]))

    def add(self, verdict: Verdict) -> None:
        mutant = verdict.mutant
        one = {"mutant": mutant.name, "sha": mutant.sha, "word": verdict.word, "by": verdict.by, "tests": self._tests}
        with self._file.open("a") as file:
            file.write(json.dumps(one | {"seconds": verdict.seconds}) + "\n")


def _digest() -> str:
    """Of everything that a survivor could be killed by."""
    files = sorted(
        file for room in ("gate", "lua", "tests") for file in (ROOT / room).rglob("*.*") if file.suffix in (".py", ".lua")
    )
    whole = hashlib.sha256()
    for file in files:
        if "mutation" not in file.parts:
            whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def judge(mutants: list[Mutant], workers: int) -> list[Verdict]:
    KEPT.mkdir(exist_ok=True)
    record = Record(KEPT / "python.jsonl")
    known = {mutant.name: record.find(mutant) for mutant in mutants}
    verdicts = [verdict for verdict in known.values() if verdict is not None]
    print(f"{len(mutants)} to judge, {len(verdicts)} of them judged before", flush=True)
    if len(verdicts) == len(mutants):
        return verdicts
    warm()
    with tempfile.TemporaryDirectory(prefix="gate-mutation-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        found = reach(KEPT / "reach", Path(folder), workers)
        court = Judge(found, Path(folder), workers)
        for verdict in verdicts:
            if verdict.word != "survived":
                court.learn(f"{verdict.mutant.path}::{verdict.mutant.function}", verdict.by)

        def tell(verdict: Verdict) -> None:
            record.add(verdict)
            verdicts.append(verdict)
            print(f"{len(verdicts)} {verdict.word} {verdict.seconds} s {verdict.mutant.name} {verdict.by}", flush=True)

        court.run([mutant for mutant in mutants if known[mutant.name] is None], tell)
    return verdicts


def controls(mutants: list[Mutant]) -> list[Mutant]:
    texts = [replace(mutant, number=0, text=(ROOT / mutant.path).read_text()) for mutant in mutants]
    return list({mutant.name: mutant for mutant in texts}.values())[:CONTROLS]


def report(generated: int, wanted: int, verdicts: list[Verdict]) -> bool:
    """Prints it; whether it is good enough."""
    unchanged = [verdict for verdict in verdicts if verdict.mutant.number == 0]
    judged = sorted((one for one in verdicts if one.mutant.number), key=lambda one: one.mutant.name)
    living = [one for one in judged if one.word not in ("killed", "hung")]
    for one in living:
        print(f"\n{one.word}: {one.mutant.name} ({one.by})\n{one.mutant.diff()}")
    killed = len(judged) - len(living)
    hung = sum(one.word == "hung" for one in judged)
    print(f"\n{generated} mutants by mutmut, {generated - wanted} of them in words for people only, left out")
    print(
        f"{len(judged)} sampled, {killed} killed ({hung} of them hung), {len(living)} alive: {100 * killed / len(judged):.1f} %"
    )
    sound = all(one.word == "survived" for one in unchanged)
    print(f"{len(unchanged)} runs of the unchanged text: {'none fails' if sound else 'ONE FAILS, so this says nothing'}")
    return sound and killed >= WANTED * len(judged)


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of the Python that decides, and the tests that kill them.")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    said = parser.parse_args()
    began = time.monotonic()
    whole = population()
    sampled = whole.sample(said.seed, said.sample)
    verdicts = judge([*controls(sampled), *sampled], said.workers)
    good = report(whole.generated, len(whole.wanted), verdicts)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
