"""What the loop commits to SQLite by itself, and what it leaves to the writer's thread."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger import Database, Ledger
from gate.ledger.commit import checkpoints, inline_commit
from gate.ledger.commit import database as database_module
from gate.ledger.commit import unit_of_work as batch
from gate.ledger.sql import engines, pool_rows, statements, tables
from gate.model.errors import StoreDown
from gate.model.job import Request
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only"),
    pytest.mark.usefixtures("quick_disk"),
]
SLOW_S = inline_commit.SLOW_S
THREADS_S = 0.2
THREAD = "gate-sql-write"
HELD_S = 1.0


@pytest.fixture
async def database(sql_url: str) -> AsyncIterator[Database]:
    opened = Database(sql_url)
    await opened.write("", "", lambda b: pool_rows.configure(b.connection, "default", settings_of()))
    yield opened
    opened.close()


@pytest.fixture
def other(sql_url: str) -> Iterator[sa.Connection]:
    """An operator at a terminal, in a transaction that may write."""
    connection = sa.create_engine(sql_url, isolation_level="AUTOCOMMIT").connect()
    connection.exec_driver_sql("begin immediate")
    yield connection
    connection.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the loop sees of the disk, instead of what it does; and the thread finds it quick."""
    now = [1_000.0]
    monkeypatch.setattr(inline_commit, "THREADS_S", HELD_S)
    monkeypatch.setattr(inline_commit, "SLOW_S", SLOW_S)
    monkeypatch.setattr(inline_commit, "time", SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: 0.0))
    return now


async def done_by(database: Database, pool: str = "default", **how: Any) -> str:
    return await database.write(pool, "", lambda batch: threading.current_thread().name, **how)


async def test_the_loop_commits_what_nothing_stands_in_the_way_of(database: Database) -> None:
    assert await done_by(database) == threading.current_thread().name
    assert set(await asyncio.gather(*(done_by(database) for _ in range(20)))) == {threading.current_thread().name}


async def test_while_another_process_locks_the_file_the_loop_goes_on(database: Database, other: sa.Connection) -> None:
    """The thread waits for the lock. Later requests wait behind it, and the event loop goes on."""
    first = asyncio.create_task(done_by(database))
    longest_s, over = 0.0, time.monotonic() + HELD_S
    while time.monotonic() < over:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - began)
    second = asyncio.create_task(done_by(database))
    await asyncio.sleep(0)
    assert not first.done()
    other.exec_driver_sql("rollback")
    assert await first == await second == THREAD
    assert longest_s < HELD_S / 2

    async def by_the_loop() -> bool:
        return await done_by(database) != THREAD

    await until(by_the_loop, "nothing prevents a commit by the loop")


async def test_no_caller_overtakes_those_waiting_for_the_thread(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    order, goes_on = itertools.count(), threading.Event()
    commit = database._writer._committer.commit

    def standing(tasks: Any, lock_ms: int) -> bool:
        goes_on.wait(5)
        return commit(tasks, lock_ms)

    monkeypatch.setattr(database._writer._committer, "commit", standing)
    first = asyncio.create_task(database.write("default", "", lambda batch: next(order), takes_long=True))
    while not database._writer.behind:
        await asyncio.sleep(0)
    second = asyncio.create_task(database.write("default", "", lambda batch: next(order)))
    for _ in range(5):
        await asyncio.sleep(0)
    goes_on.set()
    assert (await first, await second) == (0, 1)


async def test_a_request_that_fails_is_tried_again_by_the_thread_which_finds_out_whose_fault_it_is(
    clock: list[float], database: Database
) -> None:
    def refused(batch: Any) -> None:
        batch.connection.exec_driver_sql(
            "insert into ledger (at, job_id, pool, kind, amount) values (1, 'nobody', 'p', 'charge', 1)"
        )

    answers = await asyncio.gather(
        done_by(database), database.write("default", "x", refused), done_by(database), return_exceptions=True
    )
    assert answers[0] == answers[2] == THREAD
    assert isinstance(answers[1], sa.exc.IntegrityError)
    assert await done_by(database) == THREAD, "for a while"
    clock[0] += inline_commit.AGAIN_S
    assert await done_by(database) != THREAD


async def test_what_takes_long_by_itself_is_the_threads(database: Database) -> None:
    assert await done_by(database, takes_long=True) == THREAD
    assert await done_by(database) != THREAD


async def test_a_disk_that_is_slow_is_waited_for_by_the_thread(
    clock: list[float], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while: then the loop tries it again."""
    commit, slow_s = batch.commit, [SLOW_S / 2]

    def committing(connection: sa.Connection) -> None:
        commit(connection)
        clock[0] += slow_s[0]

    monkeypatch.setattr(batch, "commit", committing)
    for _ in range(5 * inline_commit.LATELY):
        assert await done_by(database) != THREAD, "fast enough"
    slow_s[0] = 4 * SLOW_S
    by = [await done_by(database) for _ in range(inline_commit.LATELY)]
    assert THREAD not in by[:2] and by[-5:] == [THREAD] * 5, "not for one that was slow, and not for long"
    clock[0] += inline_commit.PAUSE_S
    assert await done_by(database) != THREAD


async def test_one_standstill_of_the_disk_is_not_followed_by_another(
    clock: list[float], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = batch.commit

    def hanging(connection: sa.Connection) -> None:
        commit(connection)
        clock[0] += 5.0

    monkeypatch.setattr(batch, "commit", hanging)
    assert [await done_by(database) == THREAD for _ in range(3)] == [False, True, True]


async def test_the_loop_does_not_go_back_to_a_disk_that_the_thread_finds_slow(
    clock: list[float], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline_commit, "THREADS_S", THREADS_S)
    commit, hangs = batch.commit, [True]

    def hanging(connection: sa.Connection) -> None:
        commit(connection)
        if hangs[0] and threading.current_thread().name == THREAD:
            time.sleep(2 * THREADS_S)
        clock[0] += 5.0 if hangs[0] else 0.0

    monkeypatch.setattr(batch, "commit", hanging)
    by = []
    for _ in range(10):
        by.append(await done_by(database))
        clock[0] += inline_commit.PAUSE_S
    assert by[0] != THREAD and by[1:] == [THREAD] * 9
    hangs[0] = False
    assert [await done_by(database) == THREAD for _ in range(2)] == [True, False], "once the thread has seen it"


async def test_very_many_at_once_are_the_threads(database: Database) -> None:
    assert set(await asyncio.gather(*(done_by(database) for _ in range(inline_commit.MANY + 1)))) == {THREAD}
    assert set(await asyncio.gather(*(done_by(database) for _ in range(inline_commit.MANY)))) != {THREAD}


async def test_nothing_stays_beside_the_file_of_a_gate_that_has_stopped(sql_url: str) -> None:
    """Who copies the file of a stopped gate has all of it."""
    opened = Database(sql_url)
    await opened.write("", "", lambda b: pool_rows.configure(b.connection, "default", settings_of()))
    await done_by(opened)
    opened.close()
    file = Path(sql_url.removeprefix("sqlite:///"))
    assert [path.name for path in file.parent.glob(f"{file.name}*")] == [file.name]


async def test_nothing_is_written_by_a_gate_that_has_stopped(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, begun = Database(sql_url), []
    monkeypatch.setattr(batch, "begin", lambda *_: begun.append(1))
    opened.close()
    assert not begun, "there was nothing"
    monkeypatch.setattr(database_module, "ANSWER_S", 0.2)
    done = []
    with pytest.raises(StoreDown):
        await opened.write("", "", lambda batch: done.append(1))
    assert not done


async def test_without_a_thread_committed_callers_are_still_answered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    monkeypatch.setattr(checkpoints, "EVERY", 1)
    monkeypatch.setattr(threading.Thread, "start", nothing_left)
    assert await done_by(database) != THREAD
    assert not faults


async def test_what_undoes_a_statement_of_many_rows_is_no_file(database: Database) -> None:
    """A copy of each page that it touches, of which there are many here: job_ids in no order."""
    ids = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(5_000)]
    rows = [("default", id, "completed", 0, n, n, 1_000, n, n, "holder") for n, id in enumerate(ids, 1)]
    columns = ("pool", "job_id", "status", "credits", "ticket", "fence", "lease_ms", "enqueued_at", "ended_at", "ended_by")
    many = statements.BulkWrite(tables.jobs, columns)

    def work(batch: Any) -> list[str]:
        many.run(batch.connection, rows[:-32])
        many.run(batch.connection, rows[-32:])
        opened = []
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.append(str(one.readlink()))
        return [name for name in opened if "etilqs" in name]

    assert await database.write("default", "", work) == []


@pytest.mark.parametrize("takes_long", [False, True])
async def test_a_log_that_grew_during_a_read_is_cut(database: Database, takes_long: bool) -> None:
    def limit(batch: Any) -> int:
        return batch.connection.exec_driver_sql("pragma journal_size_limit").scalar()

    assert await database.write("", "", limit, takes_long=takes_long) == engines.LOG_PAGES * engines.PAGE_BYTES


@pytest.mark.parametrize("instead", ["nothing", "a copy"])
async def test_the_thread_that_comes_late_takes_no_other_file_for_the_ledger(
    database: Database, sql_url: str, tmp_path: Path, instead: str
) -> None:
    """All was done by the loop so far. SQLite would make a file where there is none, and take the log of the other for its own."""
    file, away = Path(sql_url.removeprefix("sqlite:///")), tmp_path / "away.db"
    file.rename(away)
    if instead == "a copy":
        shutil.copy(away, file)
    with pytest.raises(StoreDown, match="put it back"):
        await done_by(database, takes_long=True)
    with pytest.raises(StoreDown, match="put it back"):
        await database.read(lambda connection: connection.exec_driver_sql("select 1").scalar())
    assert file.exists() == (instead == "a copy")
    away.rename(file)
    assert await done_by(database, takes_long=True) == THREAD


async def test_what_the_loop_itself_has_computed_is_no_slow_disk(
    clock: list[float], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computing(batch: Any) -> str:
        clock[0] += 1.0
        return threading.current_thread().name

    monkeypatch.setattr(inline_commit, "time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: clock[0]))
    assert THREAD not in [await database.write("default", "", computing) for _ in range(3)]


async def test_what_was_written_ahead_goes_into_the_file_without_a_commit_that_waits_for_it(
    database: Database, sql_url: str, tmp_path: Path
) -> None:
    ledger, facts = Ledger(database), {"epoch": 0, "at": 1, "lease_ms": 1_000, "lease": None}
    for number in range(1, 3 * checkpoints.EVERY):
        assert (await ledger.admit("default", Request(f"j{number}"), ticket=number, **facts)).result == "admitted"
    assert database._at_once is not None
    connection = database._at_once._committer._connection
    assert connection is not None
    assert connection.exec_driver_sql("pragma wal_autocheckpoint").scalar() == engines.LOG_PAGES
    connection.commit()

    def in_the_file() -> bool:
        shutil.copy(sql_url.removeprefix("sqlite:///"), tmp_path / "without-its-log.db")
        with sqlite3.connect(tmp_path / "without-its-log.db") as copy:
            return copy.execute("select count(*) from jobs").fetchone()[0] >= checkpoints.EVERY

    await until(in_the_file, "the first of them are in the file")
