"""Which tests reach which function, and how long they take: found out once for each file of tests, and kept until its text changes.

It says only which tests are asked first about a mutant. Were it wrong, a mutant would live that could have been killed. So tests
that fail in a watched copy end the run: they would reach nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from gate.coordination import outbox_recorder
from gate.ledger.reports import backlog
from gate.ledger.transitions import deliveries, inbox, outbox
from tests.proof.mutation.python.mutants import MODULES, path_of
from tests.proof.mutation.python.plugins import Noting, Reach
from tests.proof.mutation.python.trees import Tree, end
from tests.support.paths import ROOT

FOLDERS = (
    "unit/ledger", "unit/providers", "unit/coordination", "integration/ledger", "integration/workers", "integration/races",
    "integration/http", "fundamentals", "proof/billing",
)  # fmt: skip
FILES = ("proof/terminal/test_doctor.py",)
NOT_ASKED = {"test_guards.py", "test_hostile.py", "test_schema.py", "test_simulator.py", "test_hanging.py"}
"""They mutate gate themselves, fire thousands of requests at it, or are about something else."""
FILE_S = 240
HOME = {
    path_of(outbox_recorder): ("tests/integration/races/",),
    path_of(inbox): ("tests/integration/http/",),
    path_of(deliveries): ("tests/integration/workers/",),
    path_of(backlog): ("tests/proof/terminal/",),
    path_of(outbox): ("tests/integration/races/",),
}
"""Where the tests of a module stand besides the folder of its name. They are asked before others that happen to reach it."""


def is_home(module: str, test: str) -> bool:
    folder = module.split("/")[1]
    return test.startswith((f"tests/unit/{folder}/", f"tests/integration/{folder}/", *HOME.get(module, ())))


def asked() -> list[str]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))]
    found += [ROOT / "tests" / name for name in FILES]
    return [str(path.relative_to(ROOT)) for path in found if path.name not in NOT_ASKED]


def reach(folder: Path, work: Path, workers: int) -> Reach:
    """Of all tests that are asked; `folder` keeps what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {path: folder / f"{_sha(path)}.json" for path in asked()}
    missing = [path for path, file in known.items() if not file.exists()]
    if missing:
        _note(missing, known, work, workers)
    whole: Reach = {}
    for file in known.values():
        if file.exists():
            whole |= {name: (took, functions) for name, (took, functions) in json.loads(file.read_text()).items()}
    return whole


def _sha(path: str) -> str:
    return hashlib.sha256(f"{path} {(ROOT / path).read_text()}".encode()).hexdigest()[:16]


def _note(missing: list[str], known: dict[str, Path], work: Path, workers: int) -> None:
    free = [Tree(work / f"watched-{number}") for number in range(min(workers, len(missing)))]
    for tree in free:
        tree.watch(MODULES)
    running: dict[int, tuple[Tree, str, float]] = {}
    waiting, bad = list(missing), list[str]()
    while waiting or running:
        while waiting and free:
            tree, path = free.pop(), waiting.pop()
            print(f"what {path} reaches …", flush=True)
            process = tree.fork(Noting(tree.seen, known[path]), path, keep_bytecode=True)
            running[process] = (tree, path, time.monotonic())
        time.sleep(0.05)
        for process, (tree, path, since) in list(running.items()):
            if time.monotonic() - since > FILE_S:
                end(process)
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                end(process)
                del running[process]
                free.append(tree)
                if os.waitstatus_to_exitcode(status):
                    known[path].unlink(missing_ok=True)
                    bad.append(f"{path} fails in a watched copy:\n{tree.output.read_text()[-1500:]}")
    if bad:
        raise SystemExit("\n\n".join(bad))
