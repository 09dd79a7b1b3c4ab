"""The version before this one, out of the history of the repository: the newest tag `v…`, or the last commit of 0.1.0 while there is none.

A shallow clone has neither. `.github/workflows/ci.yml` therefore fetches the whole history.
"""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
import pytest

from tests.support.gate_process import gate_environment
from tests.support.paths import ROOT

LAST_OF_0_1_0 = "b9565c6971de660ac0547beda604e9e711edfa66"
"""The commit before CHANGELOG.md has a section `Unreleased`."""
PARTS = ("gate", "lua", "pyproject.toml")
READY_S = 30.0


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-c", "safe.directory=*", "-C", str(ROOT), *words], capture_output=True, check=False)


def version_before() -> str:
    """The name of the version: a tag that this commit is not, or a commit."""
    here = _git("tag", "--points-at", "HEAD").stdout.decode().split()
    tags = _git("tag", "--merged", "HEAD", "--list", "v*", "--sort=-version:refname").stdout.decode().split()
    return next((tag for tag in tags if tag not in here), LAST_OF_0_1_0)


def unpack(folder: Path) -> Path:
    """Put the version before this one into a folder. The test is skipped where the clone lacks it."""
    name = version_before()
    archive = _git("archive", name, *PARTS)
    if archive.returncode:
        pytest.skip(f"this clone has not {name}, the version before: git fetch --unshallow --tags")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def schema_of(source: Path) -> str:
    """The newest migration of a version."""
    found = re.search(r'^HEAD = "(\d+)"', (source / "gate/ledger/admin/migrate.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def judges_by_tables(source: Path) -> bool:
    """Whether a version serves on a newer schema by itself, as long as that has what it needs."""
    return "SchemaState" in (source / "gate/ledger/admin/migrate.py").read_text()


class Previous:
    """A `gate serve` of that version, with the packages of this one."""

    def __init__(self, source: Path, folder: Path, **environment: str) -> None:
        self._source, self._folder = source, folder
        self._environment = gate_environment(**environment) | {"PYTHONPATH": str(source)}
        folder.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        with (self._folder / "errors.log").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from gate.cli.main import main; main()", "serve", "--port", "0"],
                cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        self.url = self._address()
        self.http = httpx2.Client(base_url=self.url, timeout=70)
        return self

    def _address(self) -> str:
        assert self.process.stdout is not None
        said = b""
        while select.select([self.process.stdout], [], [], READY_S)[0]:
            if not (more := os.read(self.process.stdout.fileno(), 65_536)):
                break
            said += more
            if (found := re.search(rb"  http   (\S+) ", said)) and b"\n  data" in said:
                return found[1].decode()
        raise AssertionError(said.decode() + (self._folder / "errors.log").read_text())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
