"""Statements that are rendered once. SQLAlchemy looks each one up, renders its schema, sorts its parameters and wraps its rows anew
at every execution, which costs several times what SQLite needs for it (docs/performance.md). What a pair needs goes this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

Values = dict[str, Any]


class Prepared:
    """`make` gives the Core statement; each of its parameters has a name."""

    def __init__(self, make: Callable[[], sa.sql.ClauseElement]) -> None:
        self._make = make
        self._texts: dict[str, tuple[str, Sequence[str] | None]] = {}

    def rows(self, connection: Connection, **values: Any) -> list[Any]:
        """Plain tuples, as the driver gives them."""
        cursor = self._run(connection, values)
        try:
            return cursor.fetchall()
        finally:
            cursor.close()

    def run(self, connection: Connection, many: Sequence[Values]) -> None:
        """Once for each of `many`, at least one. Raises what SQLAlchemy raises."""
        self._run(connection, many[0] if len(many) == 1 else many).close()

    def _run(self, connection: Connection, values: Values | Sequence[Values]) -> Any:
        text, names = self._text(connection.dialect)
        many = not isinstance(values, dict)
        parameters: Any = values
        if names is not None:
            parameters = [[one[name] for name in names] for one in values] if many else [values[name] for name in names]
        cursor = connection.connection.cursor()
        try:
            (cursor.executemany if many else cursor.execute)(text, parameters)
        except connection.dialect.dbapi.Error as error:
            raise _wrapped(connection, text, parameters, error) from error
        return cursor

    def _text(self, dialect: sa.Dialect) -> tuple[str, Sequence[str] | None]:
        """As the driver takes it, and the names of its parameters where it takes them by place."""
        found = self._texts.get(dialect.name)
        if found is None:
            compiled = self._make().compile(dialect=dialect)
            text = str(compiled).replace("gate.", "") if dialect.name == "sqlite" else str(compiled)  # no schema there
            found = self._texts[dialect.name] = text, compiled.positiontup
        return found


def _wrapped(connection: Connection, text: str, parameters: Any, error: Any) -> BaseException:
    """As the library would have raised it; a connection that is gone is not used again."""
    driver = connection.connection.dbapi_connection
    gone = connection.dialect.is_disconnect(error, driver, None)
    made = DBAPIError.instance(
        text, parameters, error, connection.dialect.dbapi.Error, connection_invalidated=gone, dialect=connection.dialect
    )
    if gone:
        connection.invalidate(error)
    return made
