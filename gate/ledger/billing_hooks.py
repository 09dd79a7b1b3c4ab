"""The owner's billing: two SQL functions in the ledger's own Postgres. One gives the price of a job, the other pays a refund.

gate did not write these functions, so they may raise an error, hang or be slow. They run on connections and threads of their
own, under a time limit, and never on the connections that admit or end jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql.drawn_ids import announce
from gate.ledger.sql.engines import first_line, postgres, sqlstate
from gate.ledger.sql.tables import owed
from gate.model.errors import CannotStart, JobUnknown, StoreDown
from gate.model.job import now_ms
from gate.model.label import is_label
from gate.model.limits import CREDITS_MAX, PAYLOAD_MAX_BYTES
from gate.model.store_url import primary_of_several

LIMIT_MS = 5_000
"""Time limit of a function (ms)."""
ANSWER_S = 6.0
"""How long a caller waits for a price (s): for the function, and for the callers before it."""
ASKING = 4
"""Prices that are asked for at the same time."""
CANCEL_S = 0.5
"""How long the cancel request to Postgres may take (s). A stop must be quick."""
WAIT_MS, WAIT_MAX_MS = 1_000, 300_000
"""First and longest pause (ms) after a failed refund. The pause doubles with each failure."""
AGAIN = frozenset({"40001", "40P01"})
"""SQLSTATEs of a transaction that Postgres wants to be tried again: a serialization failure, where that is its default, or a deadlock."""
NO_SUCH_JOB = frozenset({"22P02", "22003", "P0002"})
"""SQLSTATEs that mean an unknown job.

Postgres refuses an id of the wrong type, when the owner's ids are uuids or numbers. A function may also report that it found
no row.
"""


@dataclass(frozen=True, slots=True)
class Price:
    """What the owner's row says of a job.

    Attributes:
        user: User of the job; None for a job without one.
        credits: What was charged; None when the row has no price, so that the caller's number counts.
        session: Session of the job; None unless GATE_JOB_SQL returns one.
        payload: Payload of the job; None unless GATE_JOB_SQL returns one.
    """

    user: str | None
    credits: int | None
    session: str | None = None
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A refund that was tried.

    Attributes:
        job_id: The job.
        amount: Credits.
        attempts: Number of attempts, with this one.
        error: Why the owner's function did not pay; None when it did.
    """

    job_id: str
    amount: int
    attempts: int
    error: str | None = None


class BillingHooks:
    """Calls the owner's functions.

    Attributes:
        prices: GATE_JOB_SQL is set.
        pays: GATE_REFUND_SQL is set.
    """

    def __init__(self, url: str, job_sql: str | None, refund_sql: str | None) -> None:
        """Create the engine and the threads. No connection is opened yet.

        Args:
            url: Address of the ledger, which is on Postgres.
            job_sql: GATE_JOB_SQL; None when it is not set.
            refund_sql: GATE_REFUND_SQL; None when it is not set.
        """
        self.prices, self.pays = job_sql is not None, refund_sql is not None
        self._job_sql = _Statement(job_sql, "table_name", "job_id")
        self._refund_sql = _Statement(refund_sql, "user", "amount", "description", "job_id")
        # The owner's functions count on the isolation that their database has by default.
        self._engine = postgres(url, primary_of_several(url), isolation=None)
        sa.event.listen(self._engine, "begin", _limited)
        self._busy: set[Any] = set()
        sa.event.listen(self._engine, "checkout", lambda connection, *_: self._busy.add(connection))
        for ended in ("checkin", "invalidate"):
            sa.event.listen(self._engine, ended, lambda connection, *_: self._busy.discard(connection))
        self._price_threads = ThreadPoolExecutor(ASKING, thread_name_prefix="gate-owner-price")
        self._payer = ThreadPoolExecutor(1, thread_name_prefix="gate-owner-refund")

    async def price(self, table: str, job_id: str) -> Price:
        """Ask the owner's function for a job.

        Args:
            table: Table of the owner that has the job.
            job_id: The job.

        Raises:
            JobUnknown: The owner has no such job.
            StoreDown: The function fails, answers something else than it should, or does not answer within ANSWER_S.
        """
        by = time.monotonic() + LIMIT_MS / 1000  # guard: price-within-its-limit
        # guard: price-off-the-loop
        asked = asyncio.get_running_loop().run_in_executor(self._price_threads, self._price, table, job_id, by)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asked
        except TimeoutError:
            raise StoreDown("sql", "GATE_JOB_SQL has not answered") from None

    async def settle_next(self) -> Settled | None:
        """Try to pay the refund that is due first.

        Returns:
            The refund, with the error when it was not paid. None when no refund is due.

        Raises:
            StoreDown: SQL does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._payer, self._settle_next)  # guard: refund-off-the-loop

    def close(self) -> None:
        """Cancel running calls and close the connections.

        It does not wait for the calls, since one may have begun just now and a stop must be quick.
        """
        for threads in (self._price_threads, self._payer):
            threads.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._busy):
            with contextlib.suppress(connection.Error):
                connection.cancel_safe(timeout=CANCEL_S)  # guard: cancel-owner-calls-at-stop
        self._engine.dispose()

    def _price(self, table: str, job_id: str, by: float) -> Price:
        """Ask for a price in a thread, until `by` by `time.monotonic()` (s).

        No caller waits for a later answer, and other calls wait for this thread.
        """
        while True:
            try:
                row = self._row(table, job_id, by)
                break
            except SQLAlchemyError as error:
                code = sqlstate(error) if isinstance(error, DBAPIError) else None
                if code in NO_SUCH_JOB:
                    raise JobUnknown(f"the owner has no job {job_id!r} in {table}: {first_line(error)}") from error
                if code not in AGAIN:  # guard: price-again-after-a-conflict
                    raise StoreDown("sql", f"GATE_JOB_SQL failed: {first_line(error)}") from error
        if row is None or all(value is None for value in row):
            raise JobUnknown(f"the owner has no job {job_id!r} in {table}")
        return _price_of(row)

    def _row(self, table: str, job_id: str, by: float) -> Any:
        with self._engine.begin() as connection:
            if (left_ms := round((by - time.monotonic()) * 1000)) <= 0:
                raise StoreDown("sql", "GATE_JOB_SQL has not answered those who asked before")
            connection.exec_driver_sql(f"set local statement_timeout = {left_ms}")
            return self._job_sql.run(connection, table_name=table, job_id=job_id).first()

    def _settle_next(self) -> Settled | None:
        row = None
        try:
            with self._engine.begin() as connection:
                row = connection.execute(_next, {"now": now_ms()}).first()
                return self._pay(connection, row) if row is not None else None
        except SQLAlchemyError as error:
            if row is None:
                raise StoreDown("sql", f"no refund can be settled: {first_line(error)}") from error
            return self._lost(row, error)  # guard: put-off-a-lost-refund

    def _pay(self, connection: Connection, row: Any) -> Settled:
        """Call the owner's function and book the refund, in one transaction."""
        why = f"gate: refund of job {row.job_id}"
        try:
            with connection.begin_nested():
                self._refund_sql.run(
                    connection,  # guard: pay-and-book-together
                    user=row.user,
                    amount=row.amount,
                    description=why,
                    job_id=row.job_id,
                )
                announce(connection)  # guard: announce-a-refund-before-its-id
                batch = UnitOfWork(connection)
                batch.book(row.job_id, row.user, row.pool, "refund", row.amount, now_ms())
                batch.event(row.pool, row.job_id, "refunded", "owner", now_ms(), why=str(row.amount))
                batch.connection.execute(owed.delete().where(owed.c.job_id == row.job_id))
        except SQLAlchemyError as error:
            if connection.invalidated:
                raise
            return _put_off(connection, row, error)
        return Settled(row.job_id, row.amount, row.attempts + 1)

    def _lost(self, row: Any, error: SQLAlchemyError) -> Settled:
        """Put the refund off on another connection, after its own was lost or its commit failed.

        A commit may fail when the owner deferred a constraint to it. Without this record, the same refund would be tried for
        ever, and the refunds behind it never.
        """
        try:
            with self._engine.begin() as connection:
                return _put_off(connection, row, error)
        except SQLAlchemyError as again:
            raise StoreDown("sql", f"no refund can be settled: {first_line(again)}") from error


def _put_off(connection: Connection, row: Any, error: SQLAlchemyError) -> Settled:
    wait_ms = WAIT_MS
    wait_ms *= 2 ** min(row.attempts, 20)  # guard: refund-backs-off
    wait_ms = min(wait_ms, WAIT_MAX_MS)
    why = {"attempts": row.attempts + 1, "due_at": now_ms() + wait_ms, "error": first_line(error)}
    stays = connection.execute(owed.update().where(owed.c.job_id == row.job_id).values(**why)).rowcount
    return Settled(row.job_id, row.amount, row.attempts + 1, first_line(error) if stays else None)


def refuse_sqlite(url: str) -> None:
    """Refuse a ledger that is not on Postgres.

    The owner's functions are in Postgres, and commit together with gate's rows.

    Args:
        url: Address of the ledger.

    Raises:
        CannotStart: It is not on Postgres.
    """
    if make_url(url).get_backend_name() != "postgresql":
        raise CannotStart(
            "GATE_JOB_SQL and GATE_REFUND_SQL name functions in the ledger's own Postgres: GATE_DATABASE_URL is none"
        )


def _price_of(row: Any) -> Price:
    names = ("user", "credits", "charged")
    if len(row) < 3:
        raise StoreDown("sql", "GATE_JOB_SQL has to answer user, credits, charged")
    named = row._mapping
    user, credits_, charged = (named[name] for name in names) if all(name in named for name in names) else row[:3]
    user = None if user is None else str(user)
    priced = not (credits_ is None and isinstance(charged, bool | None))
    whole = _whole(credits_ if charged is True else charged or 0) if priced else None
    if (priced and whole is None) or not (user is None or is_label(user)):
        raise StoreDown("sql", "GATE_JOB_SQL answered something else than a user and whole credits")
    session = named.get("session")
    return Price(user, whole, str(session) if session is not None and is_label(str(session)) else None, _payload_of(named))


def _payload_of(named: Any) -> dict[str, Any] | None:
    """Return the column `payload`, which is json, jsonb or text. Raise StoreDown when no start call can carry it."""
    found = named.get("payload")
    try:
        found = json.loads(found) if isinstance(found, str) and found.strip() else found
        size = len(json.dumps(found, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreDown("sql", f"GATE_JOB_SQL answered a payload that is not JSON: {error}") from error
    if not found:
        return None
    if not isinstance(found, dict) or size > PAYLOAD_MAX_BYTES:
        raise StoreDown("sql", f"GATE_JOB_SQL has to answer a payload that is an object of at most {PAYLOAD_MAX_BYTES} bytes")
    return found


def _whole(credits_: Any) -> int | None:
    """Return whole credits; None when the value is no price.

    Half a credit is no price, since rounding would lose it without notice.
    """
    try:
        number = Decimal(str(credits_ or 0))
        return int(number) if 0 <= number <= CREDITS_MAX and number == number.to_integral_value() else None
    except InvalidOperation:
        return None


class _Statement:
    """A statement that the owner configured.

    Only `names` are parameters. Casts, slices and `%` belong to the owner and stay as they are. Each occurrence has a
    parameter of its own, so that one may be a uuid and another text.
    """

    def __init__(self, sql: str | None, *names: str) -> None:
        named = re.compile(rf"(?<![:\w]):({'|'.join(names)})\b")
        self._names = named.findall(sql or "")
        self._sql = named.sub("%s", (sql or "").replace("%", "%%"))

    def run(self, connection: Connection, **values: object) -> CursorResult[Any]:
        return connection.exec_driver_sql(self._sql, tuple(values[name] for name in self._names))


def _limited(connection: Connection) -> None:
    connection.exec_driver_sql(
        "; ".join(
            (
                f"set local statement_timeout = {LIMIT_MS}",  # guard: refund-has-a-timeout
                f"set local lock_timeout = {LIMIT_MS}",
                f"set local idle_in_transaction_session_timeout = {LIMIT_MS}",
            )
        )
    )


_next = (
    sa.select(owed)
    .where(
        sa.or_(
            owed.c.due_at <= sa.bindparam("now"),
            owed.c.due_at > sa.bindparam("now") + WAIT_MAX_MS,  # guard: refund-is-due-after-the-clock-went-back
        )
    )
    .order_by(owed.c.due_at, owed.c.job_id)
    .limit(1)
    .with_for_update(skip_locked=True)  # guard: one-server-pays-a-refund
)
