"""The owner's money: his two functions in the ledger's own Postgres, the price of a job and the payment of a refund.

They are his, so they may raise, hang or be slow. They run on connections and threads of their own, under a limit of time, and
never on those that admit or end jobs.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from gate.errors import CannotStart, JobUnknown, StoreDown
from gate.jobs import CREDITS_MAX, LABEL_MAX, now_ms
from gate.ledger import changes
from gate.ledger.database import DEAD_PEER, first_line
from gate.ledger.tables import owed

LIMIT_MS = 5_000
"""How long a function of the owner's may take."""
ANSWER_S = 6.0
"""How long a caller waits for a price: for the function, and for those who asked before."""
ASKING = 4
"""Prices asked for at a time."""
WAIT_MS, WAIT_MAX_MS = 1_000, 300_000
"""After a refund that failed: doubling."""


@dataclass(frozen=True, slots=True)
class Price:
    """Whose job it is, and what was charged for it."""

    user: str | None
    credits: int


@dataclass(frozen=True, slots=True)
class Settled:
    """`error` is why the owner's function did not pay; `attempts` how often it was asked."""

    job_id: str
    amount: int
    attempts: int
    error: str | None = None


class Owner:
    """`job_sql` and `refund_sql` are GATE_JOB_SQL and GATE_REFUND_SQL."""

    def __init__(self, url: str, job_sql: str | None, refund_sql: str | None) -> None:
        self.prices, self.pays = job_sql is not None, refund_sql is not None
        self._job_sql, self._refund_sql = sa.text(job_sql or ""), sa.text(refund_sql or "")
        self._engine = sa.create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            connect_args={"prepare_threshold": None, "connect_timeout": 5, "client_encoding": "utf8"} | DEAD_PEER,
            pool_size=ASKING + 1,
            pool_pre_ping=True,
        )
        sa.event.listen(self._engine, "begin", _limited)
        self._asking = ThreadPoolExecutor(ASKING, thread_name_prefix="gate-owner-price")
        self._paying = ThreadPoolExecutor(1, thread_name_prefix="gate-owner-refund")

    async def price(self, table: str, job_id: str) -> Price:
        """Raises JobUnknown when the owner has no such row, StoreDown when his function does not answer as it should."""
        asked = asyncio.get_running_loop().run_in_executor(self._asking, self._price, table, job_id)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asked
        except TimeoutError:
            raise StoreDown("sql", "GATE_JOB_SQL has not answered") from None

    async def settle_next(self) -> Settled | None:
        """Pays one refund that is due, or says why it is not paid yet; None when none is due. Raises StoreDown."""
        return await asyncio.get_running_loop().run_in_executor(self._paying, self._settle_next)

    def close(self) -> None:
        """What runs is not waited for: the limit of time ends it."""
        for threads in (self._asking, self._paying):
            threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _price(self, table: str, job_id: str) -> Price:
        try:
            with self._engine.begin() as connection:
                row = connection.execute(self._job_sql, {"table_name": table, "job_id": job_id}).first()
        except SQLAlchemyError as error:
            raise StoreDown("sql", f"GATE_JOB_SQL failed: {first_line(error)}") from error
        if row is None or all(value is None for value in row):
            raise JobUnknown(f"the owner has no job {job_id!r} in {table}")
        return _price_of(row)

    def _settle_next(self) -> Settled | None:
        try:
            with self._engine.begin() as connection:
                row = connection.execute(_next, {"now": now_ms()}).first()
                return self._pay(connection, row) if row is not None else None
        except SQLAlchemyError as error:
            raise StoreDown("sql", f"no refund can be settled: {first_line(error)}") from error

    def _pay(self, connection: Connection, row: Any) -> Settled:
        """The owner's function and the refund's row commit together or not at all."""
        asked = {
            "user": row.user, "amount": row.amount, "job_id": row.job_id, "description": f"gate: refund of job {row.job_id}",
        }  # fmt: skip
        try:
            with connection.begin_nested():
                connection.execute(self._refund_sql, asked)
                changes.book(connection, row.job_id, row.user, row.pool, "refund", row.amount, now_ms())
                changes.event(connection, row.pool, row.job_id, "refunded", "owner", now_ms(), why=str(row.amount))
                connection.execute(owed.delete().where(owed.c.job_id == row.job_id))
        except SQLAlchemyError as error:
            if connection.invalidated:
                raise
            wait_ms = min(WAIT_MS * 2 ** min(row.attempts, 20), WAIT_MAX_MS)
            why = {"attempts": row.attempts + 1, "due_at": now_ms() + wait_ms, "error": first_line(error)}
            connection.execute(owed.update().where(owed.c.job_id == row.job_id).values(**why))
            return Settled(row.job_id, row.amount, row.attempts + 1, first_line(error))
        return Settled(row.job_id, row.amount, row.attempts + 1)


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
    credits_ = 0 if charged is None or charged is False else credits_ if charged is True else charged
    try:
        credits_ = int(credits_ or 0)
    except (TypeError, ValueError):
        credits_ = -1
    user = None if user is None else str(user)
    if not 0 <= credits_ <= CREDITS_MAX or (user is not None and not (0 < len(user) <= LABEL_MAX and user.isprintable())):
        raise StoreDown("sql", "GATE_JOB_SQL answered something else than a user and credits")
    return Price(user, credits_)


def _limited(connection: Connection) -> None:
    connection.exec_driver_sql(
        f"set local statement_timeout = {LIMIT_MS}; set local lock_timeout = {LIMIT_MS};"
        f" set local idle_in_transaction_session_timeout = {LIMIT_MS}"
    )


_next = (
    sa.select(owed)
    .where(owed.c.due_at <= sa.bindparam("now"))
    .order_by(owed.c.due_at, owed.c.job_id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
