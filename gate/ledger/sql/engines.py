"""How SQL is reached: an engine for SQLite or Postgres, and what it means when there is no answer."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from gate.ledger.sql.statements import say
from gate.model.errors import StoreDown

READERS = 4
SQLITE_BUSY_MS = 5_000
"""How long another process (the terminal, a backup) may hold the file's write lock."""
LOG_PAGES = 8_000
"""What SQLite may have written ahead (33 MB) before whoever does not wait for checkpoints makes one all the same. While somebody reads
for long it becomes more; then it is cut to this again.
"""
PAGE_BYTES = 4_096
STATEMENTS_KEPT = 256
"""Of a connection to SQLite: for each thing that a batch writes, one for each number of rows."""
LOCK_TIMEOUT_MS = 5_000
"""The same on Postgres, for whoever holds a row."""
IDLE_TIMEOUT_MS = 3_000
"""So long a server may stand still within a transaction (SIGSTOP) before Postgres takes the pool's row from it: well before the
others give up waiting for that row."""


REFUSING = {"25006", "42501"}
"""The SQLSTATEs of a store that may be read and not written, and of one where gate may not: an operator's doing, and his to mend."""


class answering:
    """Turns a store that does not answer, or takes nothing, into `StoreDown`. A statement that is wrong stays what it is: a
    fault of ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DBAPIError) and sqlstate(error) in REFUSING:
            raise StoreDown("sql", f"SQL takes nothing: {first_line(error)}") from error
        if isinstance(error, (OperationalError, InterfaceError, sa.exc.TimeoutError, OSError)) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            raise StoreDown("sql", f"SQL does not answer: {first_line(error)}") from error


def sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def first_line(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


DEAD_PEER = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""A Postgres whose machine is gone is noticed within some ten seconds, in the middle of a statement too."""


def engine(
    url: str, *, writes: bool, in_batches: bool = False, waits: bool = True, lives_in: set[int] | None = None
) -> Engine:
    """`in_batches`: whoever writes calls `begin` and `commit`, which to Postgres travel with what stands between them. `waits`: whether
    SQLite may wait, for a lock or for its checkpoints. `lives_in`: given to each engine of one ledger, which file of SQLite's it is in.
    Raises ArgumentError when `url` is none that SQLAlchemy knows.
    """
    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        made = sa.create_engine(
            where.set(drivername="sqlite+pysqlite"),
            connect_args={
                "timeout": SQLITE_BUSY_MS / 1000 if waits else 0,
                "check_same_thread": False,
                "cached_statements": STATEMENTS_KEPT,
            },
            execution_options={"schema_translate_map": {"gate": None}},
            pool_size=READERS + 1,
        )
        _sqlite(made, writes, in_batches, waits, set() if lives_in is None else lives_in)
        return made
    if where.get_backend_name() != "postgresql":
        raise sa.exc.ArgumentError("gate knows sqlite:///FILE and postgresql://…")
    made = sa.create_engine(
        where.set(drivername="postgresql+psycopg"),
        # Names are prefixed in every statement and nothing is prepared on the server: a transaction pooler may stand between.
        connect_args={"prepare_threshold": None, "connect_timeout": 5, "client_encoding": "utf8"} | DEAD_PEER,
        pool_size=READERS + 1,
        pool_pre_ping=not writes,
        # Whoever reads needs no transaction: each statement is of one moment, and a journey there and one back are saved.
        **({"isolation_level": "AUTOCOMMIT"} if in_batches or not writes else {}),
    )
    if writes and not in_batches:
        sa.event.listen(made, "begin", lambda connection: _limit(connection, LOCK_TIMEOUT_MS))
    return made


def begin(connection: Connection, lock_ms: int) -> None:
    """A transaction, on Postgres one in which a row is waited for as long. Not the library's own, which costs as much as a statement on
    SQLite, and on Postgres a journey.
    """
    if connection.dialect.name == "postgresql":
        say(connection, "begin")
        _limit(connection, lock_ms)
    else:
        _begin(connection, "begin immediate")


def commit(connection: Connection) -> None:
    say(connection, "commit")


def _limit(connection: Connection, lock_ms: int) -> None:
    # A server that stands still in a transaction (SIGSTOP) must not hold the pool's row from the others for long.
    names = "set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)"
    say(connection, f"select {names}", str(lock_ms), str(IDLE_TIMEOUT_MS))


def _sqlite(made: Engine, writes: bool, in_batches: bool, waits: bool, lives_in: set[int]) -> None:
    @sa.event.listens_for(made, "do_connect")
    def look(*_: Any) -> None:
        # SQLite would make an empty file, and take the log beside it for that file's.
        if lives_in:
            _same(made, lives_in)  # guard: open-the-same-file

    @sa.event.listens_for(made, "connect")
    def prepare(dbapi: Any, record: Any) -> None:
        dbapi.isolation_level = None  # the driver's own BEGIN would come too late and too weak
        dbapi.execute("pragma journal_mode = wal")
        dbapi.execute("pragma synchronous = full")
        dbapi.execute("pragma foreign_keys = on")
        lives_in.update(lives_in or filter(None, [_file(made)]))
        record.info["file"] = lives_in
        if writes:
            # What a statement of many rows would be undone with is a file in /var/tmp otherwise, a copy of each page that it touches.
            dbapi.execute("pragma temp_store = memory")
            dbapi.execute(f"pragma journal_size_limit = {LOG_PAGES * PAGE_BYTES}")
        else:
            dbapi.execute("pragma query_only = on")
        if not waits:
            dbapi.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")

    if not in_batches:
        sa.event.listen(made, "begin", lambda connection: _begin(connection, "begin immediate" if writes else "begin"))


def _begin(connection: Connection, text: str) -> None:
    _same(connection.engine, connection.info["file"])  # guard: write-into-the-same-file
    say(connection, text)


def _same(made: Engine, lives_in: set[int]) -> None:
    """Raises OSError. What was written into a file that is gone would be gone too, and had been told."""
    if _file(made) not in lives_in:
        raise OSError(f"{made.url.database} was moved or replaced; put it back, or restart gate")


def _file(made: Engine) -> int | None:
    """Which file has the name now."""
    try:
        return os.stat(made.url.database or "").st_ino
    except FileNotFoundError:
        return None
