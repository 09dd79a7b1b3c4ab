"""Statements that are rendered once.

At every execution SQLAlchemy looks a statement up, renders its schema, sorts its parameters and wraps its rows. That costs
several times what SQLite needs for the statement (docs/performance.md). The statements of the most frequent calls therefore
bypass it.

Measured gain (`python -m bench ablation`): +29 % CPU for a pair without it, on SQLite.
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
"""Rows in one SQLite statement. SQLite keeps a prepared statement for each number of rows, 3 MB in all."""
_SAID = "said"
"""Key in a connection's `info` under which an open pipeline keeps its cursors and their texts."""


@contextlib.contextmanager
def together(connection: Connection) -> Iterator[None]:
    """Send all statements of the block to Postgres in one round trip. A cursor has no answer before the block ends.

    On SQLite the block runs statement by statement.

    Raises:
        SQLAlchemyError: The error of the first statement that was refused.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    info = connection.info  # read now, because `connection.info` raises once the connection is lost
    sent: Sent = []
    info[_SAID] = sent
    from gate.ledger.sql.pg_pipeline import journey

    try:
        with journey(cast("Session", connection.connection.dbapi_connection)):
            yield
    except _driver_error(connection.dialect) as error:
        raise _wrapped(connection, _unanswered(sent), error) from error
    finally:
        info.pop(_SAID, None)


def say(connection: Connection, text: str, *values: object) -> DBAPICursor:
    """Execute a text in the driver's own format.

    Args:
        connection: An open connection.
        text: The statement, with `?` on SQLite and `%s` on Postgres as placeholders.
        *values: Values in the order of the placeholders.

    Returns:
        The cursor. Inside `together` it has no answer yet.

    Raises:
        SQLAlchemyError: The statement was refused. Inside `together` the error may be that of an earlier statement.
    """
    cursor = connection.connection.cursor()
    if (sent := connection.info.get(_SAID)) is not None:
        sent.append((cursor, text))
    try:
        cursor.execute(text, values)
        return cursor
    except _driver_error(connection.dialect) as error:  # in a pipeline it may be the error of an earlier statement
        raise _wrapped(connection, _unanswered(sent) if sent else text, error) from error


def _unanswered(sent: Sent) -> str:
    return next((text for cursor, text in sent if cursor.pgresult is None), "")


def _driver_error(dialect: sa.Dialect) -> type[DBAPIModule.Error]:
    """Return the base class of the driver's errors."""
    assert dialect.dbapi is not None
    return dialect.dbapi.Error


class CompiledStatement:
    """A statement of SQLAlchemy Core that is compiled once for each database."""

    def __init__(self, make: Callable[[], sa.sql.ClauseElement], names: Sequence[str]) -> None:
        """Describe a statement. It is compiled at its first use.

        Args:
            make: Builds the statement.
            names: Names of its parameters, in the order in which callers give the values.
        """
        self._make, self._names = make, tuple(names)
        self._texts: dict[str, tuple[str, tuple[int, ...] | None]] = {}

    def rows(self, connection: Connection, *values: object) -> Sequence[Any]:
        """Execute the statement and return its rows as the driver's plain tuples.

        Args:
            connection: An open connection.
            *values: Values in the order of `names`.

        Raises:
            SQLAlchemyError: The statement was refused.
        """
        return self.run(connection, values).fetchall()

    def run(self, connection: Connection, values: Values) -> DBAPICursor:
        """Execute the statement and return its cursor.

        Args:
            connection: An open connection.
            values: Values in the order of `names`.

        Raises:
            SQLAlchemyError: The statement was refused.
        """
        text, places = self._text(connection.dialect)
        return say(connection, text, *(values if places is None else [values[place] for place in places]))

    def _text(self, dialect: sa.Dialect) -> tuple[str, tuple[int, ...] | None]:
        """Return the text with positional placeholders, and the order of the values.

        The order has the index of a value for each placeholder. It is None when it equals the order of `names`.
        """
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
    """Build the error that SQLAlchemy would raise. A lost connection is invalidated, so that it is not used again."""
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection.dbapi_connection, None) or _ends_the_session(error)
    made = DBAPIError.instance(text, None, error, _driver_error(dialect), connection_invalidated=gone, dialect=dialect)
    if gone:
        connection.invalidate(error)
    return made


def _ends_the_session(error: DBAPIModule.Error) -> bool:
    """Return whether Postgres ended the session, or its server takes no writes any more: then it may be a former primary.

    An error without SQLSTATE counts too: when the session ends without a message, the driver only learns of it at the next
    call.
    """
    state = getattr(error, "sqlstate", "") or ""
    return state.startswith(("08", "25006", "25P03", "57P")) or (state == "" and type(error).__module__.startswith("psycopg"))


class ScalarQuery:
    """A query for one value, with one text for each database, since `json_group_array` and `json_agg` are not portable.

    Many rows come as one JSON text. Fetched row by row, each row would release and take the interpreter lock again.
    """

    def __init__(self, sqlite: str, postgresql: str) -> None:
        """Keep the texts.

        Args:
            sqlite: The query, with `?` as placeholders.
            postgresql: The query, with `%s` as placeholders.
        """
        self._texts = {"sqlite": sqlite, "postgresql": postgresql}

    def ask(self, connection: Connection, *values: object) -> DBAPICursor:
        """Execute the query and return the cursor, whose only row holds the value.

        Args:
            connection: An open connection.
            *values: Values in the order of the placeholders. A list is JSON text on SQLite, which has no arrays.

        Raises:
            SQLAlchemyError: The query was refused.
        """
        name = connection.dialect.name
        if name == "sqlite":
            values = tuple([to_json(value).decode() if isinstance(value, list) else value for value in values])
        return say(connection, self._texts[name], *values)


class BulkWrite:
    """Insert or update many rows of one table in few statements.

    Row by row, each row would release and take the interpreter lock again, and Postgres would plan each one. SQLite takes the
    values by position, with a prepared statement for each number of rows. Postgres takes them as one JSON text.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], key: str | None = None) -> None:
        """Describe the write.

        Args:
            table: The table.
            columns: Columns to write, in the order of the values.
            key: Column by which rows are updated. Its value is the last of each row. None to insert.
        """
        self._table, self._columns, self._key = table, tuple(columns), key
        self._sent_columns = (*columns, *([key] if key else []))
        values: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(name) for name in columns}
        if key is None:
            one: sa.sql.ClauseElement = table.insert().inline().values(values)
        else:
            one = table.update().where(table.c[key] == sa.bindparam("this")).values(values)
        self._one = CompiledStatement(lambda: one, columns if key is None else [*columns, "this"])
        self._texts: dict[int, str] = {}
        self._from_json = ""

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Write the rows.

        Args:
            connection: An open connection.
            rows: Values of each row, at least one row.

        Raises:
            SQLAlchemyError: A statement was refused.
        """
        if len(rows) == 1:
            self._one.run(connection, rows[0])
        elif connection.dialect.name == "sqlite":
            for start in range(0, len(rows), AT_ONCE):
                self._by_place(connection, rows[start : start + AT_ONCE])
        else:
            self._from_json = self._from_json or self._of_postgres(connection.dialect)
            sent = to_json(
                [{name: it for name, it in zip(self._sent_columns, row, strict=True) if it is not None} for row in rows]
            ).decode()
            say(connection, self._from_json, sent, *([len(rows)] if self._key else []))

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
        """Build the statement.

        The JSON names every column. By position, Postgres would search each value from the start of its row's text. The
        statement also gets the number of rows, because the planner assumes a hundred and would then scan the whole table.
        """
        quoted = dialect.identifier_preparer.quote
        typed = ", ".join(f"{quoted(name)} {self._table.c[name].type.compile(dialect)}" for name in self._sent_columns)
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
