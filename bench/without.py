"""`python -m bench.without LANE serve …`: gate with one part of its fast lane replaced by the plain way, to see what the part gains."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy.engine import Connection

from gate.cli.main import main
from gate.http import jobs
from gate.http.middleware.fast_path import FastPath
from gate.ledger.commit import unit_of_work
from gate.ledger.commit.checkpoints import Checkpoints
from gate.ledger.commit.group_commit import GroupCommitter, Task
from gate.ledger.commit.inline_commit import InlineCommitter
from gate.ledger.sql import engines, job_rows, pool_rows, statements
from gate.runtime import serve
from gate.slots.pipeline import CommandPipeline


def fast_path() -> None:
    """Every request goes through the framework."""
    FastPath.__call__ = lambda self, scope, receive, send: self._long(scope, receive, send)  # type: ignore[method-assign]


def redis_pipeline() -> None:
    """Each command has a connection of redis-py to itself until its reply is there."""
    free: list[Any] = []

    async def ask(self: CommandPipeline, *words: Any) -> Any:
        connection = free.pop() if free else self._make()
        await connection.connect()
        await connection.send_command(*words)
        reply = await connection.read_response()
        free.append(connection)
        return reply

    CommandPipeline.ask = ask  # type: ignore[method-assign]


def group_commit() -> None:
    """Each request has a commit of its own."""
    commit = GroupCommitter.commit

    def one_by_one(self: GroupCommitter, tasks: list[Task], *more: Any) -> None:
        for task in tasks:
            commit(self, [task], *more)

    GroupCommitter.commit = one_by_one  # type: ignore[method-assign]


def inline_commit() -> None:
    """SQLite is written by the thread alone."""
    InlineCommitter.take = lambda self, tasks: False  # type: ignore[method-assign]


def checkpoints() -> None:
    """SQLite makes its checkpoints by itself, within a commit."""
    Checkpoints.committed = lambda self, requests: None  # type: ignore[method-assign]
    engines.LOG_PAGES = 1_000


def compiled_statements() -> None:
    """SQLAlchemy executes each statement itself. On SQLite only: a pipeline of Postgres needs the driver's cursors."""

    def run(self: statements.CompiledStatement, connection: Connection, values: Any) -> Any:
        return connection.execute(self._made(), dict(zip(self._names, values, strict=True)))

    def made(self: statements.CompiledStatement) -> Any:
        if not hasattr(self, "_statement"):
            self._statement = self._make()
        return self._statement

    statements.CompiledStatement._made = made  # type: ignore[attr-defined]
    statements.CompiledStatement.run = run  # type: ignore[method-assign]


def one_round_trip() -> None:
    """Each statement of a transaction is a round trip to Postgres."""

    @contextlib.contextmanager
    def apart(connection: Connection) -> Iterator[None]:
        yield

    for module in (statements, unit_of_work, job_rows, pool_rows):
        if hasattr(module, "together"):
            module.together = apart


def prepared_statements() -> None:
    """Postgres parses and plans each statement each time."""
    engines.prepare_ahead = lambda session, record: None


def json_response() -> None:
    """Answers are encoded by the framework's own class."""
    jobs.Json = JSONResponse  # type: ignore[assignment,misc]


def rare_collections() -> None:
    """The garbage collector looks as often as Python's defaults say."""
    serve._rest_gc = gc.enable


LANES: dict[str, Callable[[], None]] = {
    lane.__name__: lane
    for lane in (
        fast_path, redis_pipeline, group_commit, inline_commit, checkpoints, compiled_statements, one_round_trip, prepared_statements,
        json_response, rare_collections,
    )
}  # fmt: skip
"""What can be replaced, by name."""
ONLY_ON = {
    "inline_commit": "SQLite",
    "checkpoints": "SQLite",
    "compiled_statements": "SQLite",
    "one_round_trip": "Postgres",
    "prepared_statements": "Postgres",
}
"""The database that a part is for, where it is for one."""

if __name__ == "__main__":
    LANES[sys.argv.pop(1)]()
    main()
