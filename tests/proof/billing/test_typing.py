"""The two statements as an owner writes them: functions of uuid, bigint, numeric and text, with casts, and with fields left out."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from gate.ledger import BillingHooks, Database, Ledger
from gate.ledger.admin import migrate
from gate.ledger.billing_hooks import Price
from gate.model.errors import JobUnknown, StoreDown
from gate.model.job import Lease, Request
from tests.proof.billing.shop import TABLE, Shop
from tests.support.script_lane import settings_of

pytestmark = pytest.mark.anyio
ID, ANA = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-00000000000a"
NOBODY = "00000000-0000-4000-8000-000000000002"

PRICES = {
    "by_uuid": (
        "(t text, j uuid) returns table (u uuid, c bigint, p boolean)",
        f"'{ANA}'::uuid, 7::bigint, true where j = '{ID}'",
    ),
    "by_text": ("(t text, j text) returns table (u text, c numeric, p boolean)", f"'{ANA}', 7.00, true where j = '{ID}'"),
    "by_varchar": ("(t varchar, j varchar(40)) returns table (u text, c int, p bool)", f"'{ANA}', 7, true where j = '{ID}'"),
    "a_row": ("(t text, j uuid) returns shop.price", f"'{ANA}'::uuid, 7, true where j = '{ID}'"),
    "a_set": ("(t text, j uuid) returns setof record", f"'{ANA}', 7, true from generate_series(1, 3) where j = '{ID}'"),
}
ASKED = [
    "select * from shop.by_uuid(:table_name, :job_id)",
    "select * from shop.by_uuid(:table_name, :job_id::uuid);",
    "select * from shop.by_uuid(j => :job_id, t := :table_name)",
    "select u::text as user, c::int as credits, p::boolean as charged from shop.by_uuid(:table_name::text, (:job_id)::uuid)",
    "select p as charged, c as credits, u as \"user\" from shop.by_text(:table_name, :job_id)",
    "select * from shop.by_text('50%:job', :job_id::text) -- %s",
    "select * from shop.by_varchar(:table_name, :job_id)",
    "select * from shop.a_row(:table_name, :job_id)",
    "select * from shop.a_set(:table_name, :job_id) as (u text, c int, p boolean)",
    "select u, c, c from shop.by_uuid(cast(:table_name as text), cast(:job_id as uuid))",
    f"select '{ANA}', 7, '50%' like '%0%' where '{ID}' = :job_id and :job_id::uuid is not null",
    f"select '{ANA}', 7, true from (select (array[1, 2, 3])[1:2]) s where :job_id = '{ID}'",
]  # fmt: skip


@pytest.fixture
async def owner(shop: Shop) -> AsyncIterator[Callable[..., BillingHooks]]:
    made: list[BillingHooks] = []

    def make(job_sql: str | None = None, refund_sql: str | None = None) -> BillingHooks:
        made.append(BillingHooks(shop.url, job_sql, refund_sql))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module", autouse=True)
def functions(shop: Shop) -> None:
    migrate.migrate(shop.url)
    shop.run("create table shop.back (who text, amount numeric, why text, job text)")
    shop.run(f"create table shop.wallets (who uuid, credits bigint); insert into shop.wallets values ('{ANA}', 0)")
    shop.run("create type shop.price as (u uuid, c int, p boolean)")
    for name, (head, body) in PRICES.items():
        shop.run(f"create function shop.{name} {head} language sql as $$ select {body} $$")
    for kind in ("bigint", "int", "numeric", "text", "float8"):
        shop.run(
            f"create function shop.pay_{kind}(w uuid, a {kind}, d text, j uuid) returns boolean language sql as"
            " $$ insert into shop.back values (w, a::numeric, d, j) returning true $$"
        )
    shop.run(
        "create function shop.pay_set(a bigint, w text) returns setof bigint language sql as"
        " $$ insert into shop.back values (w, a, '', ''); select * from generate_series(1, 3) $$"
    )


@pytest.mark.parametrize("sql", ASKED)
async def test_the_price_is_asked_as_the_owner_wrote_it(owner: Callable[..., BillingHooks], sql: str) -> None:
    asked = owner(sql)
    assert await asked.price(TABLE, ID) == Price(ANA, 7)
    with pytest.raises(JobUnknown):
        await asked.price(TABLE, NOBODY)


@pytest.mark.parametrize("sql", [ASKED[0], ASKED[1], "select :job_id, 1, :job_id::smallint > 0"])
async def test_an_id_that_the_owner_cannot_have_is_no_job_of_the_owner(owner: Callable[..., BillingHooks], sql: str) -> None:
    """The caller chose it: it must not look like a store that is down, and be asked again for ever."""
    for job_id in ("no-uuid", "9" * 40):
        with pytest.raises(JobUnknown):
            await owner(sql).price(TABLE, job_id)


@pytest.mark.parametrize(
    "row",
    ["'ana', 7.5, '1%' like '%'", "'ana', -1, true", "'ana', 10000000000, true", "'ana', 'NaN'::float8, true", "'ana', 'inf'::float8, true",
     "'ana', '-inf'::numeric, true", "'ana', 'many', true", "'ana', 7, now()", "'', 7, true", "e'a\\nb', 7, true", "'ana', 7"],
)  # fmt: skip
async def test_an_answer_without_user_and_price_admits_no_job(owner: Callable[..., BillingHooks], row: str) -> None:
    with pytest.raises(StoreDown, match="GATE_JOB_SQL"):
        await owner(f"select {row}").price(TABLE, ID)


PAYS = [
    *(f"select shop.pay_{kind}(:user, :amount, :description, :job_id)" for kind in ("bigint", "int", "numeric", "float8")),
    "select shop.pay_text(:user, :amount::text, :description, :job_id)",
    "select * from shop.pay_bigint(:user::uuid, :amount::bigint, :description::text, :job_id::uuid);",
    "select shop.pay_numeric(d => :description, w => :user, j => :job_id, a => :amount)",
    "select shop.pay_set(:amount, :user)",
    "select * from shop.pay_set(w => :user, a => :amount)",
    "insert into shop.back (who, amount) values (:user, :amount)",
    "insert into shop.back (who, amount) select :user, - - :amount",
    "with b as (select :amount * 1 as n) insert into shop.back (who, amount) select :user, n from b",
    "update shop.wallets set credits = credits + :amount where who = :user::uuid",
]


@pytest.mark.parametrize("sql", PAYS)
async def test_a_refund_is_paid_as_the_owner_wrote_it(shop: Shop, owner: Callable[..., BillingHooks], sql: str) -> None:
    shop.run(f"update shop.back set who = ''; update shop.wallets set credits = 0 where who = '{ANA}'; delete from gate.owed")
    job_id = await owes(shop)
    settled = await owner(None, sql).settle_next()
    assert settled is not None and settled.error is None, settled
    paid = "select amount from shop.back where who = :who union all select credits from shop.wallets where credits > 0"
    assert shop.rows(paid, who=ANA) == [(7,)]
    assert (shop.booked(job_id), shop.owed(job_id)) == ([7], [])
    assert await owner(None, sql).settle_next() is None


async def owes(shop: Shop) -> str:
    """A job that has failed."""
    database, job_id = Database(shop.url), str(uuid.uuid4())
    try:
        ledger = Ledger(database)
        await ledger.configure({"default": settings_of()})
        facts = {"epoch": 0, "ticket": 1, "at": 1_000, "lease_ms": 600_000, "lease": Lease("l", 1, 1_000, 601_000, 3_601_000)}
        await ledger.admit("default", Request(job_id, user=ANA, tool=TABLE, credits=7, settles=True), **facts)
        assert (await ledger.end("default", job_id, "failed", by="operator")).result == "ended"
    finally:
        database.close()
    return job_id
