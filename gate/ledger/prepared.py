"""Statements that are rendered once. SQLAlchemy looks each one up, renders its schema, sorts its parameters and wraps its rows anew
at every execution, which costs several times what SQLite needs for it (docs/performance.md). What a pair needs goes this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

Values = Sequence[Any]


def say(connection: Connection, text: str) -> None:
    """A text of the driver's own, such as one that begins a transaction. Raises what SQLAlchemy raises."""
    try:
        connection.connection.cursor().execute(text)
    except connection.dialect.dbapi.Error as error:
        raise _wrapped(connection, text, error) from error


class Prepared:
    """`make` gives the Core statement, `names` the order in which the values of its parameters are given."""

    def __init__(self, make: Callable[[], sa.sql.ClauseElement], names: Sequence[str]) -> None:
        self._make, self._names = make, tuple(names)
        self._texts: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def rows(self, connection: Connection, *values: Any) -> list[Any]:
        """Plain tuples, as the driver gives them. Raises what SQLAlchemy raises."""
        cursor = self._run(connection, [values])
        try:
            return cursor.fetchall()
        finally:
            cursor.close()

    def run(self, connection: Connection, many: Sequence[Values]) -> None:
        """Once for each of `many`, at least one. Raises what SQLAlchemy raises."""
        self._run(connection, many).close()

    def _run(self, connection: Connection, many: Sequence[Values]) -> Any:
        text, places = self._text(connection.dialect)
        if places is not None:
            many = [[values[place] for place in places] for values in many]
        cursor = connection.connection.cursor()
        try:
            if len(many) == 1:
                cursor.execute(text, many[0])
            else:
                cursor.executemany(text, many)
        except connection.dialect.dbapi.Error as error:
            raise _wrapped(connection, text, error) from error
        return cursor

    def _text(self, dialect: sa.Dialect) -> tuple[str, tuple[int, ...] | None]:
        """As the driver takes it by place, and which value stands at each place (None: as they are given)."""
        found = self._texts.get(dialect.name)
        if found is None:
            sqlite = dialect.name == "sqlite"
            compiled = self._make().compile(dialect=type(dialect)(paramstyle="qmark" if sqlite else "format"))
            text = str(compiled).replace("gate.", "") if sqlite else str(compiled)  # SQLite has no schema
            places = tuple(self._names.index(name) for name in compiled.positiontup)
            found = self._texts[dialect.name] = text, None if places == tuple(range(len(self._names))) else places
        return found


def _wrapped(connection: Connection, text: str, error: Any) -> BaseException:
    """As the library would have raised it; a connection that is gone is not used again."""
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
    made = DBAPIError.instance(text, None, error, dialect.dbapi.Error, connection_invalidated=gone, dialect=dialect)
    if gone:
        connection.invalidate(error)
    return made
