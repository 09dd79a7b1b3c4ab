"""Statements that are rendered once. SQLAlchemy looks each one up, renders its schema, sorts its parameters and wraps its rows anew
at every execution, which costs several times what SQLite needs for it (docs/performance.md). What a pair needs goes this way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

Values = Sequence[Any]


@contextlib.contextmanager
def together(connection: Connection) -> Iterator[None]:
    """What is written inside goes to Postgres in one journey. Raises what SQLAlchemy raises, at the latest in the end."""
    if connection.dialect.name != "postgresql":
        yield
        return
    try:
        with connection.connection.dbapi_connection.pipeline():
            yield
    except connection.dialect.dbapi.Error as error:
        raise _wrapped(connection, "", error) from error


def say(connection: Connection, text: str, *values: Any) -> Any:
    """A text of the driver's own, its values by place; its cursor. Raises what SQLAlchemy raises."""
    cursor = connection.connection.cursor()
    try:
        return cursor.execute(text, values)
    except connection.dialect.dbapi.Error as error:
        raise _wrapped(connection, text, error) from error


class Prepared:
    """`make` gives the Core statement, `names` the order in which the values of its parameters are given."""

    def __init__(self, make: Callable[[], sa.sql.ClauseElement], names: Sequence[str]) -> None:
        self._make, self._names = make, tuple(names)
        self._texts: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def rows(self, connection: Connection, *values: Any) -> list[Any]:
        """Plain tuples, as the driver gives them. Raises what SQLAlchemy raises."""
        return self.run(connection, values).fetchall()

    def run(self, connection: Connection, values: Values) -> Any:
        """The cursor. Raises what SQLAlchemy raises."""
        text, places = self._text(connection.dialect)
        return say(connection, text, *(values if places is None else [values[place] for place in places]))

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


class Value:
    """One value, by a text for each database: `json_group_array` and `json_agg` are nobody's standard. Many rows come as one JSON
    text: step by step a thread gives up and takes back the interpreter for each.
    """

    def __init__(self, sqlite: str, postgresql: str) -> None:
        self._texts = {"sqlite": sqlite, "postgresql": postgresql}

    def of(self, connection: Connection, *values: Any) -> Any:
        """Raises what SQLAlchemy raises."""
        return say(connection, self._texts[connection.dialect.name], *values).fetchone()[0]


class Many:
    """Rows of one table, inserted or (by `key`, their last value) updated, in one statement however many there are: as JSON, which
    both databases take apart. Row by row a thread gives up and takes back the interpreter for each, and Postgres plans for each.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], key: str | None = None) -> None:
        self._table, self._columns, self._key = table, tuple(columns), key
        values = {name: sa.bindparam(name) for name in columns}
        if key is None:
            one: sa.sql.ClauseElement = table.insert().inline().values(values)
        else:
            one = table.update().where(table.c[key] == sa.bindparam("this")).values(values)
        self._one = Prepared(lambda: one, columns if key is None else [*columns, "this"])
        self._texts: dict[str, str] = {}

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """At least one. Raises what SQLAlchemy raises."""
        if len(rows) == 1:
            self._one.run(connection, rows[0])
        else:
            text = self._texts.get(connection.dialect.name) or self._written(connection.dialect)
            say(connection, text, to_json(rows).decode())

    def _written(self, dialect: sa.Dialect) -> str:
        sqlite = dialect.name == "sqlite"
        quoted = dialect.identifier_preparer.quote

        def value(place: int, name: str) -> str:
            if sqlite:
                return f"json_extract(one.value, '$[{place}]')"
            return f"(one.value ->> {place})::{self._table.c[name].type.compile(dialect)}"

        table = quoted(self._table.name) if sqlite else f"gate.{quoted(self._table.name)}"
        source = "json_each(?) as one" if sqlite else "json_array_elements(%s::json) as one"
        values = [value(place, name) for place, name in enumerate(self._columns)]
        if self._key is None:
            names = ", ".join(quoted(name) for name in self._columns)
            text = f"insert into {table} ({names}) select {', '.join(values)} from {source}"
        else:
            sets = ", ".join(f"{quoted(name)} = {one}" for name, one in zip(self._columns, values, strict=True))
            key = value(len(self._columns), self._key)
            text = f"update {table} set {sets} from {source} where {quoted(self._table.name)}.{quoted(self._key)} = {key}"
        self._texts[dialect.name] = text
        return text
