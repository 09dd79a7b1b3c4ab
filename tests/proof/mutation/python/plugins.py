"""What pytest is told in a fork: to take these tests in this order and say which one failed; or to note what each one reaches."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest

Reach = dict[str, tuple[float, list[str]]]
"""By test: how many seconds it takes, and the functions that it reaches."""


class InOrder:
    """`limits` are the tests in their order, and how many seconds each may take before it counts as hanging. `told` is where it is
    written who is under way, or who failed.
    """

    def __init__(self, limits: dict[str, float], told: Path) -> None:
        self._limits, self._told = limits, told

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[name] for name in self._limits if name in found]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._told.write_text(nodeid)
        # Left to the system, which ends the process: a mutant may hang where no Python runs.
        signal.alarm(int(self._limits[nodeid]))

    def pytest_runtest_logfinish(self) -> None:
        signal.alarm(0)


class Noting:
    """Writes a `Reach` of the tests that passed to `into`. `seen` is where the functions say that they were reached."""

    def __init__(self, seen: Path, into: Path) -> None:
        self._seen, self._into = seen, into
        self._took: defaultdict[str, float] = defaultdict(float)
        self._reach: Reach = {}
        self._bad: set[str] = set()

    def pytest_runtest_logstart(self) -> None:
        self._seen.write_text("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took[report.nodeid] += report.duration
        if not report.passed:
            self._bad.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        functions = sorted(set(self._seen.read_text(errors="replace").split()))
        self._reach[nodeid] = (round(self._took[nodeid], 3), functions)

    def pytest_sessionfinish(self) -> None:
        self._into.write_text(json.dumps({name: one for name, one in self._reach.items() if name not in self._bad}))
