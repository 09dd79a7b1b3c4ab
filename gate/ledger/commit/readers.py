"""Queries in threads, on connections that only read: those of the ledger itself, and those of a replica of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gate.ledger.sql.engines import READERS, ends_by, store_down
from gate.model.errors import StoreDown
from gate.model.time_limit import limit

T = TypeVar("T")
log = structlog.get_logger("gate.ledger")

ANSWER_S = 6.0
"""How long a caller waits for SQL (s).

It is longer than every lock timeout there, and short enough for an answer within the grace time of a stop.
"""
REPLICA_ANSWER_S = 3.0
"""How long a replica has for an answer (s) before the primary is asked."""
AWAY_S = 10.0
"""How long a replica that has not answered is left alone (s). Else each read would wait for it before the primary is asked."""


class Readers:
    """A few connections of one database, with a thread for each."""

    def __init__(self, engine: Engine, answer_s: float = ANSWER_S, name: str = "gate-sql-read") -> None:
        """Start without a connection; the first queries open them.

        Args:
            engine: An engine that only reads.
            answer_s: How long a caller waits (s).
            name: Beginning of the names of the threads.
        """
        self._engine, self._answer_s = engine, answer_s
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix=name)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a query in a thread.

        A query ends when its caller has left. Otherwise it would keep a reader, on SQLite the log from being emptied, and on
        Postgres old rows from being removed.

        Args:
            work: The query.

        Returns:
            What `work` returned.

        Raises:
            StoreDown: SQL does not answer, or not within the time.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        give_up = time.monotonic() + self._answer_s

        def run() -> None:
            try:
                with self._engine.connect() as connection, ends_by(connection, give_up):
                    found, error = work(connection), None
            except BaseException as failed:
                found, error = None, store_down(failed) or failed
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits
                loop.call_soon_threadsafe(_settle, answer, found, error)

        limit(answer, self._answer_s, partial(let_go, answer, self._answer_s))
        self._threads.submit(run)
        return await answer

    def close(self) -> None:
        """Wait for the queries under way, then close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._engine.dispose()


class Replica:
    """A replica of the ledger, for reports. It may be some moments behind. The primary answers in its place while it is away."""

    def __init__(self, engine: Engine, primary: Readers) -> None:
        """Start without a connection.

        Args:
            engine: An engine of the replica that only reads.
            primary: The readers of the ledger itself.
        """
        self._readers, self._primary = Readers(engine, REPLICA_ANSWER_S, "gate-replica-read"), primary
        self._away_until = 0.0
        self._is_away = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a query on the replica, or on the primary while the replica is away.

        Any error of the replica counts: it may lack a migration that the primary has, or have ended the query to go on.

        Args:
            work: The query.

        Returns:
            What `work` returned.

        Raises:
            StoreDown: The primary does not answer either.
        """
        if time.monotonic() >= self._away_until:
            try:
                found = await self._readers.read(work)
                self._note(None)
                return found
            except (StoreDown, SQLAlchemyError) as error:
                self._note(error)
        return await self._primary.read(work)  # guard: primary-reads-for-a-replica-that-is-away

    def _note(self, error: Exception | None) -> None:
        self._away_until = 0.0 if error is None else time.monotonic() + AWAY_S
        if error is not None and not self._is_away:
            log.warning("replica.away", why=str(error).splitlines()[0], instead="the primary")
        elif error is None and self._is_away:
            log.info("replica.back")
        self._is_away = error is not None

    def close(self) -> None:
        """Close the connections to the replica."""
        self._readers.close()


def _settle(answer: asyncio.Future[Any], found: Any, error: BaseException | None) -> None:
    if answer.done():
        return  # the caller has timed out, or was cancelled
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)


def let_go(answer: asyncio.Future[Any], answer_s: float) -> None:
    """Refuse a caller who has waited for long enough."""
    if not answer.done():
        answer.set_exception(StoreDown("sql", f"SQL has not answered for {answer_s:g} s"))
