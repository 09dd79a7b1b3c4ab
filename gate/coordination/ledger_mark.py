"""The file with the newest event that this server has read from SQL. It outlives Redis, and shows that SQL has gone back.

Redis keeps the same number, and may be emptied together with a restore of SQL. The file is in the data directory, which a restore
leaves alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

log = structlog.get_logger("gate.ledger")

FILE = "newest-event.json"
"""Name of the file in the data directory."""
LEDGERS_MAX = 20
"""Ledger ids that the file keeps. One is enough to know the database again, and a pool may be deleted."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Content of the file.

    Attributes:
        newest: ID of the newest event in SQL.
        ledgers: IDs of ledgers of pools in that database, LEDGERS_MAX at most.
        stopped: Whether gate has stopped in order since, so that no event is newer.
    """

    newest: int
    ledgers: list[str]
    stopped: bool = False

    def is_of(self, ledgers: Iterable[str]) -> bool:
        """Return whether a database with these ledgers is the one that was read."""
        return not set(self.ledgers).isdisjoint(ledgers)


class MarkFile:
    """Reads and writes the file. It is a help, so an error of the disk is logged and stops nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mark | None:
        """Return what was written last; None when there is nothing that can be read."""
        try:
            return Mark(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, mark: Mark) -> None:
        """Replace the content."""
        new_file = self._path.with_suffix(".new")
        try:
            new_file.write_text(json.dumps(asdict(mark)))
            new_file.rename(self._path)
        except OSError as error:
            log.warning("ledger.mark_not_kept", file=str(self._path), why=error.strerror)

    def forget_stop(self) -> Mark | None:
        """Take back that gate has stopped in order, because SQL is about to be written. Returns the mark as it was."""
        if (found := self.read()) is not None and found.stopped:
            self.write(replace(found, stopped=False))
        return found
