"""One mutant, one verdict: the tests that reach its function, the likeliest first, until one fails or their time is over.

`killed`: a test failed · `hung`: a test took ten times its time and 30 s more · `survived`: none did within the budget · `error`: the
run itself went wrong, and says nothing of the mutant.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.proof.mutation.python.mutants import Mutant
from tests.proof.mutation.python.plugins import InOrder, Reach
from tests.proof.mutation.python.reach import is_home
from tests.proof.mutation.python.trees import Tree, end

BUDGET_S = 20.0
"""Of tests, by the time that they took unmutated. Who outlives that counts as a survivor, though another test may exist."""
WHOLE_S = 300.0


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    word: str
    by: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Run:
    mutant: Mutant
    tree: Tree
    tests: int
    since: float
    restore: Callable[[], None]


class Judge:
    def __init__(self, reach: Reach, work: Path, workers: int) -> None:
        self._reach = reach
        self._free = [Tree(work / f"worker-{number}") for number in range(workers)]
        self._kills: Counter[tuple[str, str]] = Counter()
        """What has killed others of the same function is asked first."""

    def learn(self, function: str, test: str) -> None:
        self._kills[function, test] += 1

    def order(self, function: str) -> dict[str, float]:
        """The tests for this function within the budget, and how long each may take."""
        reaching = [(name, took) for name, (took, functions) in self._reach.items() if function in functions]
        chosen, left = {}, BUDGET_S
        module = function.partition("::")[0]
        for name, took in sorted(
            reaching, key=lambda one: (-self._kills[function, one[0]], not is_home(module, one[0]), one[1])
        ):
            left -= took
            if left < 0:
                break
            chosen[name] = 30 + 10 * took
        return chosen

    def run(self, mutants: Iterable[Mutant], tell: Callable[[Verdict], None]) -> None:
        waiting, running = list(mutants)[::-1], dict[int, _Run]()
        while waiting or running:
            while waiting and self._free:
                process, run = self._begin(waiting.pop(), self._free.pop())
                running[process] = run
            time.sleep(0.02)
            for process, run in list(running.items()):
                if time.monotonic() - run.since > WHOLE_S:
                    end(process)
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    end(process)
                    run.restore()
                    del running[process]
                    self._free.append(run.tree)
                    tell(self._verdict(run, status))

    def _begin(self, mutant: Mutant, tree: Tree) -> tuple[int, _Run]:
        function = f"{mutant.path}::{mutant.function}"
        limits = self.order(function)
        told = tree.folder / "told"
        told.write_text("no test")
        holding = tree.holding(mutant.path, mutant.text)
        holding.__enter__()
        files = list(dict.fromkeys(name.partition("::")[0] for name in limits))
        process = tree.fork(InOrder(limits, told), "-x", *(files or ["--collect-only", "tests/unit/source/test_walls.py"]))
        return process, _Run(mutant, tree, len(limits), time.monotonic(), lambda: holding.__exit__(None, None, None))

    def _verdict(self, run: _Run, status: int) -> Verdict:
        by = (run.tree.folder / "told").read_text()
        if not run.tests:
            word, by = "survived", "no test reaches it"
        elif os.WIFSIGNALED(status):
            word = "hung"
        else:
            word = {0: "survived", 1: "killed", 2: "killed"}.get(os.WEXITSTATUS(status), "error")
        if word == "survived" and run.tests:
            by = f"{run.tests} tests"
        if word in ("killed", "hung"):
            self.learn(f"{run.mutant.path}::{run.mutant.function}", by)
        return Verdict(run.mutant, word, by, round(time.monotonic() - run.since, 1))
