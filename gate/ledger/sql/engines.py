"""Create engines for SQLite and Postgres, and detect a store that does not answer."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from gate.ledger.sql.drawn_ids import ANNOUNCED
from gate.ledger.sql.pg_prepared import prepare_ahead
from gate.ledger.sql.statements import say
from gate.model.errors import CannotStart, StoreDown
from gate.model.store_url import OF_SQL, primary_of_several

if TYPE_CHECKING:
    from gate.ledger.sql.pg_reader import ReadingSession

READERS = 4
"""Connections of one engine that read at the same time."""
SQLITE_BUSY_MS = 5_000
"""How long to wait (ms) for the file's write lock, which the terminal or a backup may hold."""
LOG_PAGES = 8_000
"""Pages in the write-ahead log (33 MB) above which an engine that does not wait makes a checkpoint itself.

A long read keeps the log from being emptied, so the file may grow beyond this. Afterwards SQLite cuts it back to this size.
"""
PAGE_BYTES = 4_096
"""Size of a SQLite page (bytes)."""
ROOM_BYTES = 2 * LOG_PAGES * PAGE_BYTES
"""Free space (bytes) below which the disk of a SQLite file counts as nearly full: the log at its largest, twice."""
READER_CACHE_KB = 256
"""Pages (KB) that a SQLite connection keeps which only reads. The default of SQLite is 2 MB, beside the copy that the system keeps."""
STEPS_BETWEEN_LOOKS = 100_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""
STATEMENTS_KEPT = 256
"""Prepared statements of a SQLite connection: one for each kind of write and each number of rows."""
LOCK_TIMEOUT_MS = 5_000
"""How long to wait (ms) on Postgres for a row that another transaction holds."""
IDLE_TIMEOUT_MS = 3_000
"""How long a server may be idle within a transaction (ms), as after SIGSTOP, before Postgres ends the session.

It is well below the time after which other servers give up waiting for the pool's row.
"""


READ_ONLY = "25006"
"""SQLSTATE for a write to a server that takes none, such as a former primary that is a standby now."""
REFUSING = {READ_ONLY, "42501", "53100"}
"""SQLSTATEs of a store that can be read but not written.

It is read-only, gate lacks the privilege, or its disk is full. Only the operator can repair that.
"""
REFUSING_FILE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}
"""Primary result codes of SQLite for a file that takes no writes. A quota shows as an I/O error."""


def store_down(error: BaseException) -> StoreDown | None:
    """Return the StoreDown for an error of a store that does not answer, or that refuses every write, with the error as its cause.

    None for any other error, such as that of a wrong statement: it is a fault in gate.
    """
    if isinstance(error, DBAPIError) and _refuses(error):
        down = StoreDown("sql", f"SQL takes no writes: {first_line(error)}", refuses=True)
    elif isinstance(error, (OperationalError, InterfaceError, sa.exc.TimeoutError, OSError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    ):
        down = StoreDown("sql", f"SQL does not answer: {first_line(error)}")
    else:
        return None
    down.__cause__ = error
    return down


def _refuses(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return sqlstate(error) in REFUSING or (code is not None and code & 0xFF in REFUSING_FILE)


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of an error.

    Returns:
        None for an error of SQLite, or one that the driver raised without an answer of Postgres.
    """
    return getattr(error.orig, "sqlstate", None)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text. Postgres adds details and hints on further lines."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


DEAD_PEER = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""TCP settings (ms and s) that detect a Postgres host that is down within some ten seconds, even during a statement."""
ISOLATION = "READ COMMITTED"
"""Isolation of each transaction that writes.

Its correctness rests on the lock of the pool's row, and on reading the rows after the lock. Under `serializable`, which a server or a role may
have as its default, every seventh call was refused with a serialization failure.
"""
REPLICA_CONNECT_S = 2
"""How long a replica may take to let gate in (s). The primary answers in its place afterwards, within the time of the same call."""


@contextlib.contextmanager
def ends_by(connection: Connection, give_up: float) -> Iterator[None]:
    """End each query that is still running at a time. It raises OperationalError then.

    Args:
        connection: A connection of an engine that only reads.
        give_up: The time by `time.monotonic()` (s).
    """
    if connection.dialect.name == "postgresql":
        session = cast("ReadingSession", connection.connection.dbapi_connection)
        session.give_up = give_up
        try:
            yield
        finally:
            session.give_up = math.inf
        return
    file = connection.connection.dbapi_connection
    assert isinstance(file, sqlite3.Connection)
    file.set_progress_handler(
        lambda: time.monotonic() > give_up,  # guard: read-ends-with-its-caller
        STEPS_BETWEEN_LOOKS,
    )
    try:
        yield
    finally:
        file.set_progress_handler(None, 0)


@contextlib.contextmanager
def visit(url: str, what_fails: str, *, writes: bool) -> Iterator[Connection]:
    """Open one transaction on an engine of its own.

    Args:
        url: Address of the ledger.
        what_fails: Beginning of the error, such as `the keys cannot be reached`.
        writes: Whether the transaction may write.

    Raises:
        CannotStart: The address is none, or SQL does not answer or refuses a statement.
    """
    try:
        made = engine(url, writes=writes)
    except (SQLAlchemyError, ValueError) as error:  # a port that is no number is a ValueError
        raise CannotStart(OF_SQL) from error
    try:
        with made.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise CannotStart(f"{what_fails}: {first_line(error)}") from error
    finally:
        made.dispose()


def engine(
    url: str, *, writes: bool, in_batches: bool = False, waits: bool = True, lives_in: set[int] | None = None
) -> Engine:
    """Create an engine for a ledger.

    Args:
        url: Address of the database, `sqlite:///FILE` or `postgresql://…`.
        writes: Whether the engine may write.
        in_batches: The user of the engine calls `begin` and `commit`. On Postgres both travel in one pipeline with the
            statements between them.
        waits: Whether SQLite may wait, for a lock or for its own checkpoints.
        lives_in: Inode of the SQLite file, shared by all engines of one ledger. The first connection fills it in. None when
            there is only one engine.

    Raises:
        ArgumentError: SQLAlchemy cannot parse `url`, or it names another kind of database.
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
    # A read needs no transaction, since each statement sees one moment. Autocommit saves two round trips.
    isolation = "AUTOCOMMIT" if in_batches or not writes else ISOLATION
    made = postgres(url, primary_of_several(url), isolation=isolation, ping=not writes)
    if writes and not in_batches:
        sa.event.listen(made, "begin", lambda connection: _limit(connection, LOCK_TIMEOUT_MS))
    if in_batches:
        sa.event.listen(made, "connect", prepare_ahead)
    return made if writes else _ending_in_time(made)


def replica(url: str) -> Engine:
    """Create an engine that reads from a replica of a Postgres.

    Args:
        url: Address of the replica. Of several hosts a standby is preferred, unless the address says otherwise.

    Raises:
        ArgumentError: SQLAlchemy cannot parse `url`.
    """
    wanted = {} if "target_session_attrs" in make_url(url).query else {"target_session_attrs": "prefer-standby"}
    # Not autocommit: a standby refuses `serializable`, which may be its default.
    return _ending_in_time(postgres(url, wanted, connect_s=REPLICA_CONNECT_S))


def _ending_in_time(made: Engine) -> Engine:
    """Make the sessions of an engine end a read whose caller has left."""
    from gate.ledger.sql.pg_reader import ReadingSession

    sa.event.listen(made, "do_connect", lambda _dialect, _record, words, options: ReadingSession.connect(*words, **options))
    return made


def postgres(
    url: str,
    options: dict[str, str],
    *,
    isolation: str | None = ISOLATION,
    ping: bool = True,
    connect_s: int = 5,
) -> Engine:
    """Create an engine for a Postgres.

    Args:
        url: Its address, which may name several hosts.
        options: Options of libpq, beside those that gate always needs.
        isolation: Isolation of each transaction; `AUTOCOMMIT` for none, None for the default of the database.
        ping: Whether a connection of the pool is tried before it is lent.
        connect_s: How long a host may take to let gate in (s).
    """
    made = sa.create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        # Every statement names its schema, and none is prepared on the server, unless `prepare_ahead` finds that no pooler stands in between.
        connect_args={"prepare_threshold": None, "connect_timeout": connect_s, "client_encoding": "utf8"}
        | DEAD_PEER
        | options,
        pool_size=READERS + 1,
        pool_pre_ping=ping,
        **({} if isolation is None else {"isolation_level": isolation}),
    )
    sa.event.listen(made, "handle_error", _leave_a_standby)
    return made


def _leave_a_standby(context: ExceptionContext) -> None:
    """Count a session as lost whose server takes no writes: it may be a former primary, and the address another's by now."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True  # guard: leave-a-former-primary


def has_room(made: Engine) -> bool:
    """Return whether a SQLite file may be written and its disk is not nearly full, as far as the system tells.

    Args:
        made: An engine of the file.
    """
    file = made.url.database or ""
    try:
        disk = os.statvfs(file)
    except OSError:
        return False
    is_read_only = bool(disk.f_flag & os.ST_RDONLY) or not os.access(file, os.W_OK)
    return not is_read_only and disk.f_bavail * disk.f_frsize > ROOM_BYTES


def begin(connection: Connection, lock_ms: int) -> None:
    """Begin a transaction without SQLAlchemy's own begin, which costs one statement on SQLite and one round trip on Postgres.

    Args:
        connection: A connection of an engine with `in_batches`.
        lock_ms: How long to wait for a row (ms), on Postgres only.

    Raises:
        OSError: The SQLite file was moved or replaced.
    """
    if connection.dialect.name == "postgresql":
        say(connection, f"begin isolation level {ISOLATION}")
        _limit(
            connection,
            lock_ms,
            ANNOUNCED,  # guard: announce-before-an-id-is-drawn
        )
    else:
        _begin(connection, "begin immediate")


def commit(connection: Connection) -> None:
    """Commit a transaction that `begin` began."""
    say(connection, "commit")


def _limit(connection: Connection, lock_ms: int, *more: str) -> None:
    # Without the idle limit, a server that is suspended (SIGSTOP) in a transaction would block the pool's row for the others.
    limits = "set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)"
    say(connection, f"select {', '.join((limits, *more))}", str(lock_ms), str(IDLE_TIMEOUT_MS))


def _sqlite(made: Engine, writes: bool, in_batches: bool, waits: bool, lives_in: set[int]) -> None:
    @sa.event.listens_for(made, "do_connect")
    def look(*_: Any) -> None:
        # SQLite would create an empty file, and then apply the old file's log to it.
        if lives_in:
            _same(made, lives_in)  # guard: open-the-same-file

    @sa.event.listens_for(made, "connect")
    def prepare(dbapi: Any, record: Any) -> None:
        dbapi.isolation_level = None  # the driver's own BEGIN comes late and takes no write lock
        dbapi.execute("pragma journal_mode = wal")
        dbapi.execute("pragma synchronous = full")
        dbapi.execute("pragma foreign_keys = on")
        lives_in.update(lives_in or filter(None, [_file(made)]))
        record.info["file"] = lives_in
        if writes:
            # Otherwise a statement of many rows writes a rollback file to /var/tmp, with a copy of each page that it changes.
            dbapi.execute("pragma temp_store = memory")
            dbapi.execute(f"pragma journal_size_limit = {LOG_PAGES * PAGE_BYTES}")
        else:
            dbapi.execute("pragma query_only = on")
            dbapi.execute(f"pragma cache_size = -{READER_CACHE_KB}")
        if not waits:
            dbapi.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")

    if not in_batches:
        sa.event.listen(made, "begin", lambda connection: _begin(connection, "begin immediate" if writes else "begin"))


def _begin(connection: Connection, text: str) -> None:
    _same(connection.engine, connection.info["file"])  # guard: write-into-the-same-file
    say(connection, text)


def _same(made: Engine, lives_in: set[int]) -> None:
    """Raise OSError when the file was moved or replaced. Otherwise a confirmed write would be lost with the old file."""
    if _file(made) not in lives_in:
        raise OSError(f"{made.url.database} was moved or replaced; put it back, or restart gate")


def _file(made: Engine) -> int | None:
    """Return the inode of the file that has the name now; None when there is none."""
    try:
        return os.stat(made.url.database or "").st_ino
    except FileNotFoundError:
        return None
