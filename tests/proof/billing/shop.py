"""The owner's side of the ledger's database: the owner's jobs, the account for refunds, and two functions that behave as a
test wants.
"""

from __future__ import annotations

from typing import Any

import httpx2
import sqlalchemy as sa

from gate.http.legacy_supabase import MANAGER
from tests.support.gate_process import Served
from tests.support.names import fresh
from tests.support.needs import missing
from tests.support.servers import lacking

TABLE = "upscaler_jobs"
JOB_SQL = "select * from shop.price(:table_name, :job_id)"
REFUND_SQL = "select shop.refund(:user, :amount, :description, :job_id)"
HANGS = "perform pg_sleep(600);"
RAISES = "raise exception 'the bank is closed';"

# Nothing in shop.paid is unique: what is paid twice stands there twice.
_SCHEMA = """
create schema shop;
create table shop.jobs (table_name text, id text, "user" text, credits bigint, charged boolean);
create table shop.asked (table_name text, job_id text);
create table shop.paid ("user" text, amount bigint, description text, job_id text);
create sequence shop.calls;
"""
_PRICE = """
create or replace function shop.price(wanted_table text, wanted_id text)
returns table ("user" text, credits bigint, charged boolean) language plpgsql as $$ begin
    insert into shop.asked values (wanted_table, wanted_id);
    {behaviour}
    return query select j."user", j.credits, j.charged from shop.jobs j where j.table_name = wanted_table and j.id = wanted_id;
end $$
"""
_REFUND = """
create or replace function shop.refund(who text, amount bigint, why text, job text)
returns void language plpgsql as $$ begin
    insert into shop.paid values (who, amount, why, job);
    {behaviour}
end $$
"""


def need_postgres() -> None:
    """Skips, where Debian's Postgres is not installed; on a machine that is there to test, that is a failure."""
    if "postgres" in lacking("valkey", "postgres"):
        missing("Debian's Postgres is not installed")


class Shop:
    """`url` is the database's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        self.run(_SCHEMA)
        self.price_is("")
        self.refund_is("")

    def run(self, sql: str) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(sql.replace("%", "%%"))

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql), values)]

    def price_is(self, behaviour: str) -> None:
        self.run(_PRICE.format(behaviour=behaviour))

    def refund_is(self, behaviour: str) -> None:
        """Whatever it does, it has written the payment before."""
        self.run(_REFUND.format(behaviour=behaviour))

    def sells(self, user: str | None = "ana", credits: int | None = 7, charged: bool | None = True) -> str:
        """Insert a job of the owner, and return its id."""
        job_id = fresh()
        with self.engine.connect() as connection:
            values = {"t": TABLE, "id": job_id, "user": user, "credits": credits, "charged": charged}
            connection.execute(sa.text("insert into shop.jobs values (:t, :id, :user, :credits, :charged)"), values)
        return job_id

    def paid(self, job_id: str) -> list[int]:
        return [row[0] for row in self.rows("select amount from shop.paid where job_id = :id", id=job_id)]

    def booked(self, job_id: str) -> list[int]:
        """Refunds of the job in gate's ledger."""
        return [
            row[0] for row in self.rows("select amount from gate.ledger where job_id = :id and kind = 'refund'", id=job_id)
        ]

    def owed(self, job_id: str) -> list[tuple[int, int, str | None]]:
        return self.rows("select amount, attempts, error from gate.owed where job_id = :id", id=job_id)

    def asked(self, job_id: str) -> int:
        return len(self.rows("select 1 from shop.asked where job_id = :id", id=job_id))

    def hangs(self) -> int:
        """Number of the owner's functions that sleep at the moment."""
        return len(self.rows("select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"))

    def waits_for_the_ledger(self) -> bool:
        """A function waits, because another transaction locks that table."""
        return bool(self.rows("select 1 from pg_locks where relation = 'gate.ledger'::regclass and not granted"))

    def hurry(self) -> None:
        """Time passes for what is owed: as if every back-off were over. What is being paid at the moment is left alone."""
        self.run(
            "update gate.owed set due_at = 0 where job_id in (select job_id from gate.owed where due_at > 0 for update skip locked)"
        )


def acquire(served: Served, job_id: str, **body: Any) -> dict[str, Any]:
    """A slot for a job of the owner's."""
    answer = served.acquire(job_id=job_id, tool=TABLE, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def fail(served: Served, job: dict[str, Any]) -> dict[str, Any]:
    answer = served.act(job, "release", outcome="failed")
    assert answer.status_code == 200, answer.text
    return answer.json()


def look(served: Served, job_id: str) -> dict[str, Any]:
    return served.http.get(f"/v1/pools/default/jobs/{job_id}").json()


def old(served: Served, path: str, **body: Any) -> httpx2.Response:
    """A path of the queue manager that gate replaces."""
    return served.post(f"{MANAGER}/{path}", body)
