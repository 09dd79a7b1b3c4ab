"""A batch of requests in one commit, on a connection that is kept: what the writer's thread does, and the loop where it may."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.engines import answering, sqlstate
from gate.model.errors import StoreDown
from gate.telemetry import counters

LOCK_NOT_AVAILABLE = "55P03"


@dataclass(slots=True)
class Task:
    """`key` is pool and job_id. `takes_long`: its work reads or writes very much. `waits_for` is the row that somebody holds: the key of a
    job, or the pool and None.
    """

    key: tuple[str, str]
    work: Callable[[UnitOfWork], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    proves: bool = False
    takes_long: bool = False
    handed_in: float = field(default_factory=time.monotonic)
    result: Any = None
    error: BaseException | None = None
    waits_for: tuple[str, str | None] | None = None
    refusal: StoreDown | None = None

    def set_aside(self, row: tuple[str, str | None], refusal: StoreDown) -> None:
        self.waits_for, self.refusal = row, refusal


class Unreached(Exception):
    """Not even a transaction could be begun; `refusal` is the StoreDown that says why."""

    def __init__(self, refusal: StoreDown) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class Locked(Exception):
    """Somebody holds a row; `refusal` is the StoreDown that says whose."""

    def __init__(self, refusal: StoreDown) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    @property
    def whole_pool(self) -> bool:
        return self.refusal.held == "pool"


class GroupCommitter:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def commit(self, tasks: list[Task], lock_ms: int) -> None:
        """Puts them in order; each has its `result` then. Raises Unreached, Locked, StoreDown, and whatever a request did wrong; nothing is committed
        then, as far as anybody knows.
        """
        tasks.sort(key=lambda task: task.key)
        reached = False
        try:
            with answering(), self._transaction() as connection:
                batch = UnitOfWork(connection, (task.key for task in tasks))
                batch.open(lock_ms)
                reached = True
                for task in tasks:
                    task.result = task.work(batch)
                batch.finish()
        except StoreDown as error:
            cause = error.__cause__ if isinstance(error.__cause__, DBAPIError) else None
            code = sqlstate(cause) if cause is not None else None
            if not (reached or code):
                raise Unreached(error) from error
            if cause is not None and code == LOCK_NOT_AVAILABLE:
                held = "pool" if "gate.pools" in (cause.statement or "") else "job"
                raise Locked(StoreDown("sql", f"somebody holds the row of this {held} in SQL", held)) from error
            raise
        counters.commits.add(len(tasks))
        for task in tasks:
            task.waits_for = task.error = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """On a connection that is kept from batch to batch, until something goes wrong on it. The batch begins and commits."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            yield self._connection
            if self._connection.in_transaction():
                self._connection.commit()  # what the library took for one, when a batch asked it something
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def answer(tasks: list[Task]) -> None:
    for task in tasks:
        if task.future.done():
            continue
        if task.error is None:
            task.future.set_result(task.result)
        else:
            task.future.set_exception(task.error)
