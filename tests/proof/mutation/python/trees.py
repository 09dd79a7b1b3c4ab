"""Copies of the checkout, one for each mutant under test, and pytest in a fork of a warm process that runs inside one.

Everything that a test starts, `gate serve` too, comes from the copy. The fork has the libraries loaded already, and neither gate nor
tests: those it imports anew, as they stand in its copy.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".gate", ".bench", ".mutation", ".hypothesis", ".ruff_cache", "__pycache__"
)
WARM = ("pytest", "anyio.pytest_plugin", "fakeredis", "fastapi", "hypothesis", "httpx2", "psycopg", "redis.asyncio", "schemathesis",
        "sqlalchemy", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "alembic.command", "structlog",
        "standardwebhooks", "uvicorn", "typer", "rich.table")  # fmt: skip


def warm() -> None:
    for name in WARM:
        importlib.import_module(name)


class Tree:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        shutil.copytree(ROOT, self.tree, ignore=NOT_COPIED)
        self.seen = folder / "seen"
        self.output = folder / "output"

    @contextlib.contextmanager
    def holding(self, path: str, text: str) -> Iterator[None]:
        """The bytecode that is there stays good for the text before, by its time, and is none for this one."""
        file = self.tree / path
        before, times = file.read_text(), file.stat()
        file.write_text(text)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 10**10))
        try:
            yield
        finally:
            file.write_text(before)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def watch(self, paths: list[str]) -> None:
        """Each function of these modules writes down that it was reached, in whatever process."""
        for path in paths:
            file = self.tree / path
            file.write_text(_watched(path, file.read_text()))

    def fork(self, plugin: Any, *words: str, keep_bytecode: bool = False) -> int:
        """pytest inside, in a session of its own; the id of its process."""
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            os.setsid()
            with self.output.open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.chdir(self.tree)
            os.environ["MUTATION_SEEN"] = str(self.seen)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "" if keep_bytecode else "1"
            sys.dont_write_bytecode = not keep_bytecode
            sys.path[:] = [str(self.tree), *(one for one in sys.path if one and Path(one).resolve() != ROOT.resolve())]
            for name in [name for name in sys.modules if name.partition(".")[0] in ("gate", "tests")]:
                del sys.modules[name]
            code = int(
                pytest.main(
                    [
                        "-p",
                        "no:randomly",
                        "-W",
                        "ignore::pytest.PytestAssertRewriteWarning",
                        f"--basetemp={self.folder / 'tmp'}",
                        "--tb=short",
                        *words,
                    ],
                    plugins=[plugin],
                )
            )
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def end(process: int) -> None:
    """Whatever it has started too, as far as that stayed in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _watched(path: str, text: str) -> str:
    tree = ast.parse(text)
    for one in tree.body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            one.body[:0] = _say(path, one.name)
        elif isinstance(one, ast.ClassDef):
            for inner in one.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    inner.body[:0] = _say(path, f"{one.name}.{inner.name}")
    after_future = (
        next(n for n, one in enumerate(tree.body) if isinstance(one, ast.ImportFrom) and one.module == "__future__") + 1
    )
    tree.body[after_future:after_future] = ast.parse(
        "from tests.proof.mutation.python.seen import seen as reached_by_a_test"
    ).body
    return ast.unparse(tree)


def _say(path: str, function: str) -> list[ast.stmt]:
    return ast.parse(f"reached_by_a_test({f'{path}::{function}'!r})").body
