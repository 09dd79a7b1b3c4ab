"""The stores of a test: an empty database, and the Redis server that the run is for."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from gate.ledger.admin import migrate


def other_redis() -> Path | None:
    """The server program that GATE_TEST_REDIS_SERVER names."""
    named = os.environ.get("GATE_TEST_REDIS_SERVER")
    return Path(shutil.which(named) or named) if named else None


@cache
def migrated_database(on_defaults: bool = False) -> str:
    """The address of what the migrations make, to be copied: they take longer than most tests. It lasts as long as this process.

    `on_defaults`: a SQLite file, whatever database the run is on.
    """
    closing = contextlib.ExitStack()
    atexit.register(closing.close)
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
    url = f"sqlite:///{folder / 'gate.db'}" if on_defaults else closing.enter_context(fresh_database(folder))
    migrate.migrate(url)
    return url


@contextlib.contextmanager
def fresh_database(folder: Path, server: str | None = None, like: str | None = None) -> Iterator[str]:
    """The address of an empty database, or of a copy of `like`: a file in `folder`, or one on `server` (GATE_TEST_POSTGRES_URL), gone
    afterwards.
    """
    server = server or os.environ.get("GATE_TEST_POSTGRES_URL")
    if server is None:
        folder.mkdir(exist_ok=True)
        if like:
            shutil.copy(like.removeprefix("sqlite:///"), folder / "gate.db")
        yield f"sqlite:///{folder / 'gate.db'}"
        return
    name = f"t_{secrets.token_hex(8)}"
    admin = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        copied = sa.make_url(like).database if like else "template1"
        if like:  # a pooler keeps its sessions, and a database with a session cannot be copied
            connection.exec_driver_sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{copied}'")
        connection.exec_driver_sql(f"create database {name} template {copied}")
        try:
            yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"drop database {name} with (force)")
    admin.dispose()
