"""The engine room of SQL: one writer thread that commits in groups, a few readers, SQLite or Postgres.

Many requests, one commit. A batch runs in one order (pool, then job_id), so that two servers never lock crosswise. When
it fails, it is rolled back and replayed one by one: each request answers for itself, and a replay that finds its own
outcome already there has succeeded. So work handed in here must be repeatable, and says no by returning, not by raising.

Nobody waits for ever: a store that is not reached fails a whole batch at once, a pool's row that somebody holds fails the
requests of that pool, and a caller whose answer hangs is let go. What he asked for may be committed after that; a repeat of
his call, or the sweep, finds it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from gate.errors import StoreDown

T = TypeVar("T")

BATCH_MAX = 256
"""Requests in one commit: beyond it the first of a batch waits longer than the commit saves."""
READERS = 4
LOCK_NOT_AVAILABLE = "55P03"
SQLITE_BUSY_MS = 5_000
"""How long another process (the terminal, a backup) may hold the file's write lock."""
LOCK_TIMEOUT_MS = 5_000
"""The same on Postgres, for whoever holds the pool's row."""
IDLE_TIMEOUT_MS = 3_000
"""So long a server may stand still within a transaction (SIGSTOP) before Postgres takes the pool's row from it: well before the
others give up waiting for that row."""
ANSWER_S = 6.0
"""How long a caller waits for SQL: longer than any of those, and short enough to be told so within the grace of a stop."""
HANGS_S = 2.5
"""A batch under way for so long: SQL cannot be written at the moment."""


@dataclass(slots=True)
class _Task:
    key: tuple[str, str]
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """`url` as in GATE_DATABASE_URL. Nothing is opened before the first use."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._write_engine = engine(url, writes=True)
        self._read_engine = engine(url, writes=False)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="gate-sql-read")
        self._writer = threading.Thread(target=self._write_batches, name="gate-sql-write", daemon=True)
        self.writable = True
        """Whether the last attempt to write reached the store."""
        self._since: float | None = None
        self._writer.start()

    @property
    def hangs(self) -> bool:
        """Whether a write is under way that should have ended long ago."""
        since = self._since
        return since is not None and time.monotonic() - since > HANGS_S

    async def write(self, pool: str, job_id: str, work: Callable[[Connection], T]) -> T:
        """What `work` returned, once it is committed. Raises StoreDown when SQL can't take it."""
        loop = asyncio.get_running_loop()
        task = _Task((pool, job_id), work, loop, loop.create_future())
        task.future.add_done_callback(_heard)
        self._tasks.put(task)
        # Shielded: a caller that goes away does not take back what the writer is about to commit.
        return await _in_time(asyncio.shield(task.future))

    async def read(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with answering(), self._read_engine.connect() as connection:
                return work(connection)

        return await _in_time(asyncio.get_running_loop().run_in_executor(self._readers, run))

    def close(self) -> None:
        """Commits what was handed in, then closes."""
        self._tasks.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()

    def _write_batches(self) -> None:
        while (first := self._tasks.get()) is not None:
            batch: list[_Task | None] = [first]
            while len(batch) < BATCH_MAX and batch[-1] is not None and not self._tasks.empty():
                batch.append(self._tasks.get())
            tasks = [task for task in batch if task is not None]
            self._since = time.monotonic()
            self._commit(sorted(tasks, key=lambda task: task.key))
            self._since = None
            if batch[-1] is None:
                return

    def _commit(self, tasks: list[_Task]) -> None:
        """All in one; failing that, one by one. A store that is not even reached fails all at once: nobody waits in turn."""
        try:
            self._run(tasks)
        except _Unreached as error:
            self._fail(tasks, error)
        except BaseException:
            self._replay(tasks)
        for loop in {task.loop for task in tasks}:
            mine = [task for task in tasks if task.loop is loop]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, mine)

    def _run(self, tasks: list[_Task]) -> None:
        reached = False
        try:
            with answering(), self._write_engine.begin() as connection:
                reached = self.writable = True
                for task in tasks:
                    task.result = task.work(connection)
        except StoreDown as error:
            if not reached:
                raise _Unreached(error) from error
            if _is_locked(error.__cause__):
                raise _Locked(error) from error
            raise

    def _replay(self, tasks: list[_Task]) -> None:
        locked: dict[str, StoreDown] = {}
        for number, task in enumerate(tasks):
            try:
                if task.key[0] in locked:
                    raise locked[task.key[0]]
                self._run([task])
            except _Unreached as error:
                self._fail(tasks[number:], error)
                return
            except _Locked as error:
                task.error = locked[task.key[0]] = error.args[0]
            except BaseException as error:
                task.error = error

    def _fail(self, tasks: list[_Task], error: _Unreached) -> None:
        self.writable = False
        for task in tasks:
            task.error = error.args[0]


class _Unreached(Exception):
    """Not even a transaction could be begun; `args[0]` is the StoreDown that says why."""


class _Locked(Exception):
    """Somebody holds the pool's row; `args[0]` is the StoreDown that says so."""


def _is_locked(error: BaseException | None) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE


async def _in_time(answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await answer
    except TimeoutError:
        raise StoreDown("sql", f"SQL has not answered for {ANSWER_S:g} s") from None


def _heard(answer: asyncio.Future[Any]) -> None:
    """A caller who was let go, or went, does not hear of the failure any more."""
    if not answer.cancelled():
        answer.exception()


def _answer(tasks: list[_Task]) -> None:
    for task in tasks:
        if task.future.done():
            continue
        if task.error is None:
            task.future.set_result(task.result)
        else:
            task.future.set_exception(task.error)


class answering:
    """Turns a store that does not answer into `StoreDown`. A statement that is wrong stays what it is: a fault of ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OperationalError, InterfaceError, sa.exc.TimeoutError)) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            raise StoreDown("sql", f"SQL does not answer: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


DEAD_PEER = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""A Postgres whose machine is gone is noticed within some ten seconds, in the middle of a statement too."""


def engine(url: str, *, writes: bool) -> Engine:
    """Raises ArgumentError when `url` is none that SQLAlchemy knows."""
    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        made = sa.create_engine(
            where.set(drivername="sqlite+pysqlite"),
            connect_args={"timeout": SQLITE_BUSY_MS / 1000, "check_same_thread": False},
            execution_options={"schema_translate_map": {"gate": None}},
            pool_size=READERS + 1,
        )
        _sqlite(made, writes)
        return made
    if where.get_backend_name() != "postgresql":
        raise sa.exc.ArgumentError("gate knows sqlite:///FILE and postgresql://…")
    made = sa.create_engine(
        where.set(drivername="postgresql+psycopg"),
        # Names are prefixed in every statement and nothing is prepared on the server: a transaction pooler may stand between.
        connect_args={"prepare_threshold": None, "connect_timeout": 5, "client_encoding": "utf8"} | DEAD_PEER,
        pool_size=READERS + 1,
        pool_pre_ping=not writes,
    )
    if writes:
        _postgres(made)
    return made


def _postgres(made: Engine) -> None:
    @sa.event.listens_for(made, "begin")
    def begin(connection: Connection) -> None:
        # A server that stands still in a transaction (SIGSTOP) must not hold the pool's row from the others for long.
        connection.exec_driver_sql(
            f"set local lock_timeout = {LOCK_TIMEOUT_MS}; set local idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}"
        )


def _sqlite(made: Engine, writes: bool) -> None:
    @sa.event.listens_for(made, "connect")
    def prepare(dbapi: Any, _record: object) -> None:
        dbapi.isolation_level = None  # the driver's own BEGIN would come too late and too weak
        dbapi.execute("pragma journal_mode = wal")
        dbapi.execute("pragma synchronous = full")
        dbapi.execute("pragma foreign_keys = on")
        if not writes:
            dbapi.execute("pragma query_only = on")

    @sa.event.listens_for(made, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("begin immediate" if writes else "begin")
