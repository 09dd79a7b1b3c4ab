"""Bring the schema up to date, and judge whether this gate can serve on a schema of another version.

Two versions of gate may serve side by side, on the schema of the newer one. So a migration only adds, and what it replaces is removed
by a later version ([the rule](../../../docs/how-it-is-built.md)). This module asks the tables themselves, not their version: an older
gate serves on a newer schema as long as all that it reads and writes is there.

Alembic is slow to import, so it is imported only when a migration is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gate.ledger.sql.engines import sqlstate, visit
from gate.ledger.sql.tables import metadata
from gate.model import store_url
from gate.model.errors import CannotStart

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0018"
"""The newest revision in `migrations/versions`; a test holds the two equal.

It is a constant, because Alembic would have to be imported to find it.
"""
TRIES = 5
"""How often a migration is tried that meets a lock of a running server. Each time it waits for the lock timeout of its transaction."""
MEETS_A_LOCK = frozenset({"40P01", "55P03"})
"""SQLSTATEs of a deadlock, and of a lock that was not free in time."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How a schema compares with what this gate wants.

    Attributes:
        at: Its revision; None when there are no tables.
        due: The migrations that `migrate` would run, oldest first, each as its revision and what it does.
        misfit: Why this gate cannot serve on a newer schema; None when it can, and for one that is not newer.
    """

    at: str | None
    due: tuple[str, ...] = ()
    misfit: str | None = None

    @property
    def is_newer(self) -> bool:
        """Whether a newer gate has written it."""
        return self.at is not None and self.at > HEAD


def shown(url: str) -> str:
    """Return the address without its password. A text that is no address is not shown: it may be a password."""
    return store_url.shown(url, "GATE_DATABASE_URL")


def sqlite_file(url: str) -> Path | None:
    """Return the file behind an address; None for another kind of database, or for a text that is no address."""
    try:
        where = sa.make_url(url)
    except SQLAlchemyError:
        return None
    return Path(where.database) if where.get_backend_name() == "sqlite" and where.database else None


def exists(url: str) -> bool:
    """Return whether gate's tables exist. A SQLite file is not created by this call.

    Raises:
        CannotStart: The database cannot be used.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        return False
    return revision(url) is not None


def revision(url: str) -> str | None:
    """Return the revision of the tables; None when there are none.

    Raises:
        CannotStart: The database cannot be used.
    """
    with _visit(url, writes=False) as connection:
        return _revision(connection)


def state(url: str) -> SchemaState:
    """Compare the schema with what this gate wants. A SQLite file is not created by this call.

    Raises:
        CannotStart: The database cannot be used.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        return SchemaState(None, _due(None))
    with _visit(url, writes=False) as connection:
        at = _revision(connection)
        if at is not None and at > HEAD:
            return SchemaState(at, misfit=next(_misfits(connection), None))
    return SchemaState(at, () if at == HEAD else _due(at))


def require(url: str) -> None:
    """Refuse a schema that this gate can neither read nor upgrade by itself here.

    Raises:
        CannotStart: There are no tables, they are of an older version, or of a newer one on which this gate cannot serve.
    """
    file, at = sqlite_file(url), None
    if file is None or file.is_file():
        with _visit(url, writes=False) as connection:
            at = _revision(connection)
            if at is not None:
                _refuse_a_misfit(connection, url, at)
    if at is None:
        raise CannotStart(f"there is no ledger at {shown(url)} yet: start `gate serve` once, or say --data-dir")
    if at < HEAD:  # guard: no-command-on-older-tables
        raise CannotStart(
            f"SQL at {shown(url)} has schema {at}, and this gate reads {HEAD}: run `gate db upgrade`; `gate serve` does it too"
        )


def make(url: str) -> bool:
    """Create the folder of a SQLite file if necessary, then migrate.

    Returns:
        True when a migration was due.

    Raises:
        CannotStart: The database cannot be used, or a newer gate has written it.
    """
    if (file := sqlite_file(url)) is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return migrate(url)


def migrate(url: str, newer: Callable[[str], None] = lambda at: None) -> bool:
    """Migrate the schema to HEAD. A schema of a newer gate is left alone, if this one can serve on it.

    Args:
        url: Address of the ledger.
        newer: Called with the revision of a newer schema on which this gate can serve.

    Returns:
        True when a migration was due.

    Raises:
        CannotStart: The database cannot be used or upgraded, or this gate cannot serve on its newer schema.
    """
    with _visit(url, writes=False) as connection:
        at = _revision(connection)
        if at == HEAD:
            return False
        if at is not None and at > HEAD:
            _refuse_a_misfit(connection, url, at)
            newer(at)
            return False
    upgrade = _upgrader()  # before the transaction: the slow import would outlast its idle timeout
    for left in reversed(range(TRIES)):
        try:
            with _visit(url, writes=True) as connection:
                upgrade(connection)
            return True
        except CannotStart as error:
            cause = error.__cause__
            if left and isinstance(cause, DBAPIError) and sqlstate(cause) in MEETS_A_LOCK:
                continue
            if at is None:
                raise
            helps = "let a role that may change the tables run `gate db upgrade`"
            raise CannotStart(f"{error.detail}; schema {at} could not be upgraded to {HEAD}: {helps}") from cause
    raise AssertionError


def _visit(url: str, *, writes: bool) -> AbstractContextManager[Connection]:
    return visit(url, f"SQL at {shown(url)} cannot be used", writes=writes)


def _schema(connection: Connection) -> str | None:
    return None if connection.dialect.name == "sqlite" else "gate"


def _revision(connection: Connection) -> str | None:
    schema = _schema(connection)
    if not sa.inspect(connection).has_table("alembic_version", schema=schema):
        return None
    name = "alembic_version" if schema is None else "gate.alembic_version"
    return connection.exec_driver_sql(f"select version_num from {name}").scalar()


def _refuse_a_misfit(connection: Connection, url: str, at: str) -> None:
    if at > HEAD and (why := next(_misfits(connection), None)):  # guard: no-service-on-tables-that-do-not-fit
        raise CannotStart(
            f"SQL at {shown(url)} has schema {at}, on which this gate ({HEAD}) cannot serve: {why}; run the gate that wrote it, or a newer one"
        )


def _misfits(connection: Connection) -> Iterator[str]:
    """Yield each reason why this gate cannot read or write the tables that are there."""
    asked, schema = sa.inspect(connection), _schema(connection)
    for table in metadata.sorted_tables:
        if not asked.has_table(table.name, schema=schema):
            yield f"the table {table.name} is gone"
            continue
        there = {one["name"]: one for one in asked.get_columns(table.name, schema=schema)}
        for column in table.columns:
            if column.name not in there:
                yield f"the column {table.name}.{column.name} is gone"
            elif column.nullable and not there[column.name]["nullable"]:
                yield f"the column {table.name}.{column.name} takes no null any more"
        for name, one in there.items():
            filled = one["nullable"] or one["default"] is not None or one.get("identity") or one.get("computed")
            if name not in table.columns and not filled:
                yield f"the column {table.name}.{name} has to be filled"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config


def _due(at: str | None) -> tuple[str, ...]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    return tuple(f"{one.revision} {one.doc}" for one in reversed(list(scripts.iterate_revisions("head", at or "base"))))


def _upgrader() -> Callable[[Connection], None]:
    from alembic import command

    config = _config()

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            _take_turns(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    return upgrade


def _take_turns(connection: Connection) -> None:
    """Wait for another server that migrates, then for the transactions of running servers, and keep new ones waiting."""
    connection.exec_driver_sql("select pg_advisory_xact_lock(hashtext('gate schema'))")
    connection.exec_driver_sql("create schema if not exists gate")
    if _revision(connection) is not None:
        # Servers lock the row of a pool before anything else. Taken in the same order, this lock makes no deadlock with them.
        connection.exec_driver_sql("lock table gate.pools in access exclusive mode")
