"""Statements that are rendered once. SQLAlchemy looks each one up, renders its schema, sorts its parameters and wraps its rows anew
at every execution, which costs several times what SQLite needs for it (docs/performance.md). What a pair needs goes this way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.engine import Connection
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import DBAPICursor, DBAPIModule
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

if TYPE_CHECKING:
    import psycopg

    Session = psycopg.Connection[tuple[Any, ...]]
    Sent = list[tuple[psycopg.Cursor[tuple[Any, ...]], str]]

Values = Sequence[object]
AT_ONCE = 32
"""Rows in one statement of SQLite, which keeps one for each number of rows: 3 MB in all."""
_SAID = "said"
"""In a connection's info, while what is said goes together: the cursors and their texts."""


@contextlib.contextmanager
def together(connection: Connection) -> Iterator[None]:
    """What is said inside goes to Postgres in one journey, and is answered at its end: a cursor has nothing before. Raises what
    SQLAlchemy raises, of the first that was refused.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    info = connection.info  # asked of a connection that is lost by then, it would raise
    said: Sent = []
    info[_SAID] = said
    from gate.ledger.sql.pg_pipeline import journey

    try:
        with journey(cast("Session", connection.connection.dbapi_connection)):
            yield
    except _driver_error(connection.dialect) as error:
        raise _wrapped(connection, _unanswered(said), error) from error
    finally:
        info.pop(_SAID, None)


def say(connection: Connection, text: str, *values: object) -> DBAPICursor:
    """A text of the driver's own, its values by place; its cursor. Raises what SQLAlchemy raises."""
    cursor = connection.connection.cursor()
    if (said := connection.info.get(_SAID)) is not None:
        said.append((cursor, text))
    try:
        cursor.execute(text, values)
        return cursor
    except _driver_error(connection.dialect) as error:  # on a journey it may be of what was said before
        raise _wrapped(connection, _unanswered(said) if said else text, error) from error


def _unanswered(said: Sent) -> str:
    return next((text for cursor, text in said if cursor.pgresult is None), "")


def _driver_error(dialect: sa.Dialect) -> type[DBAPIModule.Error]:
    """The base class of what the driver raises."""
    assert dialect.dbapi is not None
    return dialect.dbapi.Error


class CompiledStatement:
    """`make` gives the Core statement, `names` the order in which the values of its parameters are given."""

    def __init__(self, make: Callable[[], sa.sql.ClauseElement], names: Sequence[str]) -> None:
        self._make, self._names = make, tuple(names)
        self._texts: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def rows(self, connection: Connection, *values: object) -> Sequence[Any]:
        """Plain tuples, as the driver gives them. Raises what SQLAlchemy raises."""
        return self.run(connection, values).fetchall()

    def run(self, connection: Connection, values: Values) -> DBAPICursor:
        """The cursor. Raises what SQLAlchemy raises."""
        text, places = self._text(connection.dialect)
        return say(connection, text, *(values if places is None else [values[place] for place in places]))

    def _text(self, dialect: sa.Dialect) -> tuple[str, tuple[int, ...] | None]:
        """As the driver takes it by place, and which value stands at each place (None: as they are given)."""
        found = self._texts.get(dialect.name)
        if found is None:
            sqlite = dialect.name == "sqlite"
            by_place = cast("type[DefaultDialect]", type(dialect))(paramstyle="qmark" if sqlite else "format")
            compiled = self._make().compile(dialect=by_place)
            assert isinstance(compiled, SQLCompiler) and compiled.positiontup is not None
            text = str(compiled).replace("gate.", "") if sqlite else str(compiled)  # SQLite has no schema
            places = tuple(self._names.index(name) for name in compiled.positiontup)
            found = self._texts[dialect.name] = text, None if places == tuple(range(len(self._names))) else places
        return found


def _wrapped(connection: Connection, text: str, error: DBAPIModule.Error) -> BaseException:
    """As the library would have raised it; a connection that is gone is not used again."""
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection.dbapi_connection, None) or _says_goodbye(error)
    made = DBAPIError.instance(text, None, error, _driver_error(dialect), connection_invalidated=gone, dialect=dialect)
    if gone:
        connection.invalidate(error)
    return made


def _says_goodbye(error: DBAPIModule.Error) -> bool:
    """Postgres ends the session, or did without a word: the driver knows it only at the next call."""
    state = getattr(error, "sqlstate", "") or ""
    return state.startswith(("08", "25P03", "57P")) or (state == "" and type(error).__module__.startswith("psycopg"))


class ScalarQuery:
    """One value, by a text for each database: `json_group_array` and `json_agg` are nobody's standard. Many rows come as one JSON
    text: step by step a thread gives up and takes back the interpreter for each.
    """

    def __init__(self, sqlite: str, postgresql: str) -> None:
        self._texts = {"sqlite": sqlite, "postgresql": postgresql}

    def ask(self, connection: Connection, *values: object) -> DBAPICursor:
        """The cursor, whose only row has it. Raises what SQLAlchemy raises."""
        return say(connection, self._texts[connection.dialect.name], *values)


class BulkWrite:
    """Rows of one table, inserted or (by `key`, their last value) updated, in few statements however many there are: row by row a
    thread gives up and takes back the interpreter for each, and Postgres plans for each. SQLite takes them by place, and keeps
    the statement for each number of them; Postgres as JSON, which it takes apart.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], key: str | None = None) -> None:
        self._table, self._columns, self._key = table, tuple(columns), key
        self._told = (*columns, *([key] if key else []))
        values: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(name) for name in columns}
        if key is None:
            one: sa.sql.ClauseElement = table.insert().inline().values(values)
        else:
            one = table.update().where(table.c[key] == sa.bindparam("this")).values(values)
        self._one = CompiledStatement(lambda: one, columns if key is None else [*columns, "this"])
        self._texts: dict[int, str] = {}
        self._from_json = ""

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """At least one. Raises what SQLAlchemy raises."""
        if len(rows) == 1:
            self._one.run(connection, rows[0])
        elif connection.dialect.name == "sqlite":
            for start in range(0, len(rows), AT_ONCE):
                self._by_place(connection, rows[start : start + AT_ONCE])
        else:
            self._from_json = self._from_json or self._of_postgres(connection.dialect)
            told = to_json(
                [{name: it for name, it in zip(self._told, row, strict=True) if it is not None} for row in rows]
            ).decode()
            say(connection, self._from_json, told, *([len(rows)] if self._key else []))

    def _by_place(self, connection: Connection, rows: Sequence[Values]) -> None:
        text = self._texts.get(len(rows))
        if text is None:
            text = self._texts[len(rows)] = self._of_sqlite(connection.dialect, len(rows), len(rows[0]))
        say(connection, text, *chain.from_iterable(rows))

    def _of_sqlite(self, dialect: sa.Dialect, rows: int, width: int) -> str:
        values = ", ".join([f"({', '.join('?' * width)})"] * rows)
        if self._key is None:
            return self._insert(dialect, self._table.name, f"values {values}")
        return self._update(
            dialect, self._table.name, f"(values {values}) as one", lambda place, name: f"one.column{place + 1}"
        )

    def _of_postgres(self, dialect: sa.Dialect) -> str:
        """The names are told with the values: by place each value of a row would be looked for from the beginning of its text. And how many
        rows there are is told as well: the planner believes in a hundred, and for so many it reads the whole table.
        """
        quoted = dialect.identifier_preparer.quote
        typed = ", ".join(f"{quoted(name)} {self._table.c[name].type.compile(dialect)}" for name in self._told)
        table, rows = f"gate.{self._table.name}", f"json_to_recordset(%s::json) as one({typed})"
        if self._key is None:
            return self._insert(dialect, table, f"select * from {rows}")
        some = f"(select * from {rows} limit %s) as one"
        return self._update(dialect, table, some, lambda place, name: f"one.{quoted(name)}")

    def _insert(self, dialect: sa.Dialect, table: str, rows: str) -> str:
        return f"insert into {table} ({', '.join(map(dialect.identifier_preparer.quote, self._columns))}) {rows}"

    def _update(self, dialect: sa.Dialect, table: str, source: str, value: Callable[[int, str], str]) -> str:
        quoted, key = dialect.identifier_preparer.quote, self._key or ""
        sets = ", ".join(f"{quoted(name)} = {value(place, name)}" for place, name in enumerate(self._columns))
        this = value(len(self._columns), key)
        return f"update {table} set {sets} from {source} where {self._table.name}.{quoted(key)} = {this}"
