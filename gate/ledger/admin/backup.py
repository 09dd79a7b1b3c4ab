"""Copy the SQLite file while gate runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gate.ledger.admin.migrate import sqlite_file
from gate.model.errors import CannotStart

PAGES = 2_000
"""Pages in one step of the copy (8 MiB), after which the progress is reported."""
COPY = 0x67617465
"""`user_version` of a file that `backup` has made. A ledger in use has 0."""


def is_copy(url: str) -> bool:
    """Return whether the ledger is a copy that `backup` has made, and that no gate has opened since."""
    file = sqlite_file(url)
    if file is None or not file.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as here:
            return bool(here.execute("pragma user_version").fetchone()[0] == COPY)
    except sqlite3.Error:
        return False  # the next query of its rows says what is wrong


def use(url: str) -> None:
    """Make a ledger of the copy. From then on `is_copy` is false.

    Raises:
        CannotStart: The file cannot be written.
    """
    file = sqlite_file(url)
    assert file is not None
    try:
        with contextlib.closing(sqlite3.connect(file)) as here:
            here.execute("pragma user_version = 0")
    except sqlite3.Error as error:
        raise CannotStart(f"{file} cannot be written: {error}") from error


def backup(url: str, target: Path, progress: Callable[[int, int], None] = lambda done, whole: None) -> int:
    """Copy the whole ledger, as it is at one moment.

    Args:
        url: Address of the ledger.
        target: File to create.
        progress: Called after each step with the number of copied pages and of all pages.

    Returns:
        Size of the copy in bytes.

    Raises:
        CannotStart: The ledger is on Postgres, `target` exists, or the copy failed. Nothing is left at `target` then.
    """
    source = sqlite_file(url)
    if source is None:
        raise CannotStart("a Postgres ledger is backed up with pg_dump: docs/backup.md says how")
    if target.exists():
        raise CannotStart(f"{target} exists already: a backup never overwrites anything")
    passing = target.with_name(f".{target.name}.part")
    try:
        passing.unlink(missing_ok=True)
        passing.touch(mode=0o600)
        with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as here, sqlite3.connect(passing) as there:
            # One read transaction for all steps. Without it SQLite restarts the copy after each write between two steps.
            here.execute("begin")
            here.execute("select count(*) from sqlite_master").fetchone()
            here.backup(there, pages=PAGES, progress=lambda _, left, whole: progress(whole - left, whole))
        with there:
            there.execute(f"pragma user_version = {COPY}")
        here.close()
        there.close()
        with passing.open("rb") as copied:
            os.fsync(copied.fileno())
        passing.rename(target)
        return target.stat().st_size
    except (OSError, sqlite3.Error) as error:
        passing.unlink(missing_ok=True)
        raise CannotStart(f"no backup at {target}: {error}") from error
