"""The owner's money: his two functions in the ledger's own Postgres, the price of a job and the payment of a refund.

They are his, so they may raise, hang or be slow. They run on connections and threads of their own, under a limit of time, and
never on those that admit or end jobs.
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
from gate.ledger.sql.engines import DEAD_PEER, first_line
from gate.ledger.sql.tables import owed
from gate.ledger.transitions import jobs
from gate.model.errors import CannotStart, JobUnknown, StoreDown
from gate.model.job import CREDITS_MAX, LABEL_MAX, PAYLOAD_MAX_BYTES, now_ms

LIMIT_MS = 5_000
"""How long a function of the owner's may take."""
ANSWER_S = 6.0
"""How long a caller waits for a price: for the function, and for those who asked before."""
ASKING = 4
"""Prices asked for at a time."""
CANCEL_S = 0.5
"""To tell Postgres that a function is to be ended."""
WAIT_MS, WAIT_MAX_MS = 1_000, 300_000
"""After a refund that failed: doubling."""
NO_SUCH_JOB = frozenset({"22P02", "22003", "P0002"})
"""What Postgres says of an id that is no uuid, or no number, as the owner's are; and a function that found no row."""


@dataclass(frozen=True, slots=True)
class Price:
    """What the owner's row says of a job: whose it is, what was charged, and, where GATE_JOB_SQL answers them, its session and
    payload. `credits` is None while the row has no price: then the caller's counts.
    """

    user: str | None
    credits: int | None
    session: str | None = None
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """`error` is why the owner's function did not pay; `attempts` how often it was asked."""

    job_id: str
    amount: int
    attempts: int
    error: str | None = None


class BillingHooks:
    """`job_sql` and `refund_sql` are GATE_JOB_SQL and GATE_REFUND_SQL."""

    def __init__(self, url: str, job_sql: str | None, refund_sql: str | None) -> None:
        self.prices, self.pays = job_sql is not None, refund_sql is not None
        self._job_sql = _Statement(job_sql, "table_name", "job_id")
        self._refund_sql = _Statement(refund_sql, "user", "amount", "description", "job_id")
        self._engine = sa.create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            connect_args={"prepare_threshold": None, "connect_timeout": 5, "client_encoding": "utf8"} | DEAD_PEER,
            pool_size=ASKING + 1,
            pool_pre_ping=True,
        )
        sa.event.listen(self._engine, "begin", _limited)
        self._busy: set[Any] = set()
        sa.event.listen(self._engine, "checkout", lambda connection, *_: self._busy.add(connection))
        for ended in ("checkin", "invalidate"):
            sa.event.listen(self._engine, ended, lambda connection, *_: self._busy.discard(connection))
        self._asking = ThreadPoolExecutor(ASKING, thread_name_prefix="gate-owner-price")
        self._paying = ThreadPoolExecutor(1, thread_name_prefix="gate-owner-refund")

    async def price(self, table: str, job_id: str) -> Price:
        """Raises JobUnknown when the owner has no such row, StoreDown when his function does not answer as it should."""
        by = time.monotonic() + LIMIT_MS / 1000  # guard: price-within-its-limit
        # guard: price-off-the-loop
        asked = asyncio.get_running_loop().run_in_executor(self._asking, self._price, table, job_id, by)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asked
        except TimeoutError:
            raise StoreDown("sql", "GATE_JOB_SQL has not answered") from None

    async def settle_next(self) -> Settled | None:
        """Pays one refund that is due, or says why it is not paid yet; None when none is due. Raises StoreDown."""
        return await asyncio.get_running_loop().run_in_executor(self._paying, self._settle_next)  # guard: refund-off-the-loop

    def close(self) -> None:
        """What runs is ended, not waited for: a function may have begun at this moment, and a stop is in a hurry."""
        for threads in (self._asking, self._paying):
            threads.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._busy):
            with contextlib.suppress(connection.Error):
                connection.cancel_safe(timeout=CANCEL_S)  # guard: cancel-owner-calls-at-stop
        self._engine.dispose()

    def _price(self, table: str, job_id: str, by: float) -> Price:
        """`by` time.monotonic(): nobody waits for what comes later, and others wait for their turn."""
        try:
            with self._engine.begin() as connection:
                if (left_ms := round((by - time.monotonic()) * 1000)) <= 0:
                    raise StoreDown("sql", "GATE_JOB_SQL has not answered those who asked before")
                connection.exec_driver_sql(f"set local statement_timeout = {left_ms}")
                row = self._job_sql.run(connection, table_name=table, job_id=job_id).first()
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in NO_SUCH_JOB:
                raise JobUnknown(f"the owner has no job {job_id!r} in {table}: {first_line(error)}") from error
            raise StoreDown("sql", f"GATE_JOB_SQL failed: {first_line(error)}") from error
        if row is None or all(value is None for value in row):
            raise JobUnknown(f"the owner has no job {job_id!r} in {table}")
        return _price_of(row)

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
        """The owner's function and the refund's row commit together or not at all."""
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
                batch = UnitOfWork(connection)
                jobs.book(batch, row.job_id, row.user, row.pool, "refund", row.amount, now_ms())
                jobs.event(batch, row.pool, row.job_id, "refunded", "owner", now_ms(), why=str(row.amount))
                batch.connection.execute(owed.delete().where(owed.c.job_id == row.job_id))
        except SQLAlchemyError as error:
            if connection.invalidated:
                raise
            return _put_off(connection, row, error)
        return Settled(row.job_id, row.amount, row.attempts + 1)

    def _lost(self, row: Any, error: SQLAlchemyError) -> Settled:
        """The connection is gone in the middle, or the commit failed over what the owner has deferred to it. Were nothing written
        down, this one would be tried for ever, and those behind it never.
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
    """Raises CannotStart: the owner's functions are in a Postgres, and commit together with gate's rows."""
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
    if (priced and whole is None) or not (user is None or _is_label(user)):
        raise StoreDown("sql", "GATE_JOB_SQL answered something else than a user and whole credits")
    session = named.get("session")
    return Price(user, whole, str(session) if session is not None and _is_label(str(session)) else None, _payload_of(named))


def _is_label(text: str) -> bool:
    return 0 < len(text) <= LABEL_MAX and text.isprintable()


def _payload_of(named: Any) -> dict[str, Any] | None:
    """The column `payload`, an object as json, jsonb or text. Raises StoreDown for what no start call can carry."""
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
    """None for what is no price. Half a credit is none: it would be lost without a word."""
    try:
        number = Decimal(str(credits_ or 0))
        return int(number) if 0 <= number <= CREDITS_MAX and number == number.to_integral_value() else None
    except InvalidOperation:
        return None


class _Statement:
    """What the owner has configured. Nothing but `names` is a parameter: a cast right behind one, a slice, a % are his own. Each
    place has its parameter, so that one may be a uuid here and text there.
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
    .where(owed.c.due_at <= sa.bindparam("now"))
    .order_by(owed.c.due_at, owed.c.job_id)
    .limit(1)
    .with_for_update(skip_locked=True)  # guard: one-server-pays-a-refund
)
