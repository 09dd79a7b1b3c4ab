"""Where mutants are tried: a real Valkey, a copy of lua/, and the tests, collected once and forked for each trial.

What counts is what a test sees of a script that runs. The tests that read its text (headers, guards) are not asked; nor what
would run in a process of its own, on the scripts as they are.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from gate.runtime.embedded_redis import EmbeddedRedis
from gate.slots import scripts
from tests.proof.mutation.lua.mutants import Mutant

NEAR = {
    "lua": ("tests/unit/lua/",),
    "fakeredis": ("tests/unit/lua/",),
    "fundamentals": ("tests/fundamentals/", "tests/proof/state_machine/"),
}
FAR = {
    "races": (
        "tests/integration/races/test_races.py",
        "tests/integration/races/test_promises.py",
        "tests/integration/races/test_store_borders.py",
        "tests/integration/races/test_waiting.py",
        "tests/integration/races/test_refusing_stores.py",
    ),
    "keeper": ("tests/integration/workers/",),
}
"""Which tests are asked, in this order: the first that goes red ends it. The far ones take a minute."""
STAGES = NEAR | FAR
BY_TEXT = "tests/unit/lua/test_headers.py"
LIMIT_S = {"lua": 60, "fakeredis": 60, "fundamentals": 120, "races": 240, "keeper": 300}
SURE = ("tests/unit/lua/", "tests/proof/state_machine/")
"""What turns its own clock is never red by chance; of other tests a red one is asked again."""
BUSY_MS = 3000
"""A script that has run this long will not end."""
WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """`by` is the test that went red, or `it never ends`, or `the time was over`; '' when all stayed green."""

    by: str
    stage: str
    took_s: float


class CannotJudge(Exception):
    """The tests did not run as they should."""


class _Warm:
    """A pytest plugin: collects the tests for the mutants, and runs some of them in a fork."""

    def __init__(self, use: Callable[[pytest.Session], None]) -> None:
        self._use = use
        self.used = False
        self.error: BaseException | None = None
        self.forked: Path | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if self.forked is not None:
            return None  # pytest's own
        self.used = True
        try:
            self._use(session)
        except BaseException as error:
            self.error = error
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self.forked is not None and report.failed and not self.forked.read_text():
            self.forked.write_text(report.nodeid)


def with_tests(use: Callable[[pytest.Session], None], stages: Iterable[str]) -> None:
    """Calls `use` where pytest stands before the first test."""
    plugin = _Warm(use)
    asked = sorted({prefix for stage in stages for prefix in STAGES[stage]})
    code = pytest.main(["-p", "no:randomly", "-x", "-s", "-qq", "--tb=short", "--no-summary", *asked], plugins=[plugin])
    if plugin.error is not None:
        raise plugin.error
    if not plugin.used:
        raise CannotJudge(f"pytest could not collect the tests: {code}")


class Bench:
    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.items = list(session.items)
        gc.freeze()  # what is loaded stays: a fork that never looks at it never copies it
        self.folder = Path(tempfile.mkdtemp(prefix="mutation-"))
        shutil.copytree(scripts.FOLDER, self.folder / "whole")
        self._start()

    def _start(self) -> None:
        self.server = EmbeddedRedis(self.folder)
        self.server.wait()
        self.client = redis.Redis.from_url(self.server.url, socket_timeout=10)
        self.client.config_set("busy-reply-threshold", BUSY_MS)
        self.client.config_set("maxmemory", "512mb")

    def close(self) -> None:
        self.client.close()
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def judge(self, mutant: Mutant | None, noticed_by: str, stages: Iterable[str]) -> Verdict:
        """None is the scripts as they are. `noticed_by`: the test that noticed this mutant before is asked first."""
        started = time.monotonic()
        shutil.rmtree(self.folder / "lua", ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.folder / "lua")
        if mutant is not None:
            (self.folder / "lua" / mutant.file).write_text(mutant.text)
        for stage, items in self._trials(mutant, noticed_by, stages):
            by = self._red(items, LIMIT_S[stage])
            if by and not by.startswith(SURE) and "::" in by:
                by = self._red([item for item in items if item.nodeid == by], LIMIT_S[stage])
            if by:
                return Verdict(by, stage, round(time.monotonic() - started, 2))
        return Verdict("", "", round(time.monotonic() - started, 2))

    def _trials(
        self, mutant: Mutant | None, noticed_by: str, stages: Iterable[str]
    ) -> Iterator[tuple[str, list[pytest.Item]]]:
        """Which tests, one lot after the other: likely ones first."""
        of = {stage: [item for item in self.items if _belongs(item.nodeid, stage)] for stage in stages}
        own = f"tests/unit/lua/test_{mutant.file.removesuffix('.lua')}.py::" if mutant else "none"
        for stage, items in of.items():
            if likely := [item for item in items if item.nodeid == noticed_by]:
                yield stage, likely
        for stage, items in of.items():
            if likely := [item for item in items if item.nodeid.startswith(own)]:
                yield stage, likely
            yield stage, [item for item in items if not item.nodeid.startswith(own)]

    def _red(self, items: list[pytest.Item], limit_s: float) -> str:
        """The first that goes red."""
        self.client.flushall()
        shutil.rmtree(self.folder / "temp", ignore_errors=True)
        (self.folder / "temp").mkdir()
        noticed = self.folder / "noticed"
        noticed.write_text("")
        child = os.fork()
        if child == 0:
            self._play(items, noticed)
        by = self._watch(child, limit_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if by:
            os.waitpid(child, 0)
            self.client.close()
            self.server.stop()
            self._start()
        return by or noticed.read_text()

    def _watch(self, child: int, limit_s: float) -> str:
        """Until it has ended (''), its script does not, or its time is over."""
        give_up, look = time.monotonic() + limit_s, time.monotonic() + WATCH_S
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                if status:
                    raise CannotJudge(f"the tests broke down:\n{(self.folder / 'log').read_text()[-3000:]}")
                return ""
            if time.monotonic() > give_up:
                return "the time was over"
            if time.monotonic() > look:
                look = time.monotonic() + WATCH_S
                try:
                    self.client.ping()
                except redis.TimeoutError:
                    return "it never ends"
                except redis.ResponseError as error:
                    if "BUSY" in str(error):
                        return "it never ends"
            time.sleep(0.003)

    def _play(self, items: list[pytest.Item], noticed: Path) -> NoReturn:
        """In the fork: these tests, on the copy of lua/."""
        code = 1
        try:
            gc.disable()
            os.setpgid(0, 0)
            with (self.folder / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            scripts.FOLDER = self.folder / "lua"
            sys.modules["tests.conftest"].EmbeddedRedis = lambda *_: _Shared(self.server.url)  # type: ignore[attr-defined]
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(self.folder / "temp")  # of its own, and gone before the next
            config = self.session.config
            next(plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, _Warm)).forked = noticed
            self.session.items[:] = items
            with contextlib.suppress(pytest.Session.Failed):
                config.hook.pytest_runtestloop(session=self.session)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _belongs(nodeid: str, stage: str) -> bool:
    """Fakeredis is the fast lane, never the judge of anything but itself."""
    return (
        nodeid.startswith(STAGES[stage])
        and ("[fakeredis" in nodeid) == (stage == "fakeredis")
        and not nodeid.startswith(BY_TEXT)
    )


class _Shared:
    """The bench's Valkey, where the tests would start one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def wait(self) -> None:
        return None

    def stop(self) -> None:
        return None
