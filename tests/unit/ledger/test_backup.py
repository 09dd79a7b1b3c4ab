"""The copy of a SQLite ledger during writes to it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gate.ledger.admin import backup


def test_a_copy_in_steps_is_of_one_moment_and_never_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its transaction it does not end: a write between two steps throws away what was copied."""
    monkeypatch.setattr(backup, "PAGES", 5)
    source, target = tmp_path / "gate.db", tmp_path / "copy.db"
    writer = sqlite3.connect(source, isolation_level=None)
    writer.execute("pragma journal_mode = wal")
    writer.execute("create table t (text)")
    writer.executemany("insert into t values (?)", [("x" * 1000,)] * 200)
    told: list[tuple[int, int]] = []

    def busy(done: int, whole: int) -> None:
        told.append((done, whole))
        assert len(told) < 200, "it began anew"
        writer.execute("insert into t values ('meanwhile')")

    assert backup.backup(f"sqlite:///{source}", target, busy) == target.stat().st_size
    writer.close()
    assert len(told) > 5 and told[-1][0] == told[-1][1]
    assert told == sorted(told)
    with sqlite3.connect(target) as copy:
        assert copy.execute("select count(*), max(text = 'meanwhile') from t").fetchone() == (200, 0)
    copy.close()
