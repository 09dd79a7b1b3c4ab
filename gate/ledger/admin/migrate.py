"""Bring the schema up to date.

Alembic is slow to import, so it is imported only when a migration is due.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.sql.engines import visit
from gate.model import store_url
from gate.model.errors import CannotStart

HEAD = "0017"
"""The newest revision in `migrations/versions`; a test holds the two equal.

It is a constant, because Alembic would have to be imported to find it.
"""


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


def migrate(url: str) -> bool:
    """Migrate the schema to HEAD.

    Returns:
        True when a migration was due.

    Raises:
        CannotStart: The database cannot be used, or a newer gate has written it.
    """
    with _visit(url, writes=True) as connection:
        at = _revision(connection)
        if at == HEAD:
            return False
        if at is not None and at > HEAD:
            raise CannotStart(f"SQL at {shown(url)} was written by a newer gate (schema {at}, this one knows {HEAD})")
        _upgrade(connection)
        return True


def _visit(url: str, *, writes: bool) -> AbstractContextManager[Connection]:
    return visit(url, f"SQL at {shown(url)} cannot be used", writes=writes)


def _revision(connection: Connection) -> str | None:
    schema = None if connection.dialect.name == "sqlite" else "gate"
    if not sa.inspect(connection).has_table("alembic_version", schema=schema):
        return None
    name = "alembic_version" if schema is None else "gate.alembic_version"
    return connection.exec_driver_sql(f"select version_num from {name}").scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        # When two servers start together, the second waits here and then finds nothing to do.
        connection.exec_driver_sql("select pg_advisory_xact_lock(hashtext('gate schema'))")
        connection.exec_driver_sql("create schema if not exists gate")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
