"""The owner's money: the owner's tables and functions in the ledger's Postgres, and a switch that makes them fail."""

from __future__ import annotations

import json
from typing import Any, Literal

import sqlalchemy as sa

JOB_SQL = "select * from owner_job(:table_name, :job_id)"
REFUND_SQL = "select owner_refund(:user, :amount, :description, :job_id)"
AT_FIRST = 1_000_000
"""Balance of each user before the first job."""
Does = Literal["works", "raises", "sleeps"]

# Refunds have no unique key, so that one paid twice is there twice. The switch comes last in each function: what it did before
# has to be taken back with it.
SCHEMA = """
create table owner_jobs (
  table_name text not null, job_id text not null, user_id text not null, credits bigint not null, charged boolean not null,
  payload jsonb, primary key (table_name, job_id));
create table owner_credits (user_id text primary key, balance bigint not null);
create table owner_refunds (
  job_id text not null, user_id text not null, amount bigint not null, description text, at timestamptz not null default now());
create table owner_switch (
  function text primary key, does text not null default 'works', share float not null default 1, seconds float not null default 0);
insert into owner_switch (function) values ('job'), ('refund');

create function owner_is(wanted text) returns void language plpgsql as $$
declare switch owner_switch;
begin
  select * into switch from owner_switch where function = wanted;
  if switch.does = 'sleeps' then perform pg_sleep(switch.seconds); end if;
  if switch.does = 'raises' and random() < switch.share then
    raise exception using message = 'the owner''s ' || wanted || ' is broken';
  end if;
end $$;

create function owner_job(wanted_table text, wanted_job text)
returns table ("user" text, credits bigint, charged boolean, session text, payload jsonb) language plpgsql as $$
begin
  perform owner_is('job');
  return query select j.user_id, j.credits, j.charged, 'tab of ' || j.user_id, j.payload from owner_jobs j
    where j.table_name = wanted_table and j.job_id = wanted_job;
end $$;

create function owner_refund(to_user text, amount bigint, description text, of_job text) returns void language plpgsql as $$
begin
  insert into owner_refunds (job_id, user_id, amount, description)
    values (of_job, to_user, owner_refund.amount, owner_refund.description);
  update owner_credits set balance = balance + owner_refund.amount where user_id = to_user;
  perform owner_is('refund');
end $$;
"""


class Money:
    def __init__(self, sql_url: str) -> None:
        self._engine = sa.create_engine(
            sa.make_url(sql_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        self._do(SCHEMA)

    def _do(self, statement: str, **values: Any) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.text(statement), values)

    def _rows(self, query: str, **values: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(query), values))

    def charge(
        self, table: str, job_id: str, user: str, credits: int, charged: bool = True, payload: dict[str, Any] | None = None
    ) -> None:
        """Charge a user and write the job's row, as the owner's tool does it before it asks for a slot."""
        taken = credits if charged else 0
        self._do(
            """with job as (insert into owner_jobs values (:table, :job, :user, :credits, :charged, cast(:payload as jsonb)))
            insert into owner_credits values (:user, :first - :taken)
            on conflict (user_id) do update set balance = owner_credits.balance - :taken""",
            table=table, job=job_id, user=user, credits=credits, charged=charged, taken=taken, first=AT_FIRST,
            payload=None if payload is None else json.dumps(payload),
        )  # fmt: skip

    def switch(self, function: Literal["job", "refund"], does: Does, share: float = 1, seconds: float = 0) -> None:
        """How a function is from now on. `share` of the calls raise; `seconds` each takes."""
        self._do(
            "update owner_switch set does = :does, share = :share, seconds = :seconds where function = :function",
            function=function, does=does, share=share, seconds=seconds,
        )  # fmt: skip

    def hurry(self) -> None:
        """Every owed refund is due now, without its back-off."""
        self._do("update gate.owed set due_at = 0")

    def refunds(self, job_id: str | None = None) -> dict[str, list[int]]:
        """What was paid back, by job."""
        paid: dict[str, list[int]] = {}
        query = "select job_id, amount from owner_refunds where job_id = coalesce(:job, job_id) order by at"
        for row in self._rows(query, job=job_id):
            paid.setdefault(row.job_id, []).append(row.amount)
        return paid

    def charges(self) -> dict[str, tuple[str, int]]:
        """User and price of each job, 0 where nothing was charged."""
        query = "select job_id, user_id, case when charged then credits else 0 end as price from owner_jobs"
        return {row.job_id: (row.user_id, row.price) for row in self._rows(query)}

    def balances(self) -> dict[str, int]:
        return {row.user_id: row.balance for row in self._rows("select user_id, balance from owner_credits")}

    def close(self) -> None:
        self._engine.dispose()
