"""On Postgres a row may be committed after a row with a higher id. A follower of the ledger reads it all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gate.diagnostics import doctor
from gate.ledger import BillingHooks, Database, Ledger, LedgerQueries
from gate.ledger.admin import migrate
from gate.ledger.commit import feed
from gate.model.job import Request
from gate.model.tool import Tools
from tests.proof.billing.shop import REFUND_SQL, Shop
from tests.support.names import fresh
from tests.support.open_transaction import open_transaction
from tests.support.script_lane import settings_of
from tests.support.wait import until

pytestmark = pytest.mark.anyio


class Followed:
    """A ledger on Postgres, a second server, and a follower that pages as a client does."""

    def __init__(self, url: str) -> None:
        self.here, self.there = Database(url), Database(url)
        self._reading, self.read = LedgerQueries(self.here), list[str]()
        self._after = 0

    async def admit(self, credits: int = 5) -> str:
        job_id = fresh()
        await Ledger(self.here).admit(
            "default", Request(job_id, credits=credits), epoch=0, ticket=1, at=1_000, lease_ms=600_000, lease=None
        )
        return job_id

    async def catch_up(self) -> list[str]:
        rows, _ = await self._reading.entries(after=self._after)
        self._after = rows[-1].id if rows else self._after
        self.read += [f"{row.kind} of {row.job_id}" for row in rows]
        return self.read


@pytest.fixture
async def followed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Followed]:
    monkeypatch.setattr(feed, "OPEN_S", 0.1)
    migrate.migrate(shop.url)
    made = Followed(shop.url)
    await Ledger(made.here).configure({"default": settings_of()})
    await made.catch_up()
    made.read.clear()
    yield made
    made.here.close()
    made.there.close()


async def test_row_that_is_committed_after_a_newer_one_is_not_missed(followed: Followed) -> None:
    late = await followed.admit(credits=0)
    async with open_transaction(followed.there, lambda batch: batch.book(late, "ana", "default", "charge", 5, 1_000)):
        new = await followed.admit()
        await followed.catch_up()
    assert await followed.catch_up() == [f"charge of {late}", f"charge of {new}"]


async def test_refund_that_is_committed_after_a_newer_row_is_not_missed(followed: Followed, shop: Shop) -> None:
    late, new = await followed.admit(), await followed.admit(credits=0)
    shop.run(f"insert into gate.owed values ('{late}', 'ana', 'default', 5, 0, 0, 0)")
    hooks = BillingHooks(shop.url, None, REFUND_SQL)
    with shop.engine.connect().execution_options(isolation_level="READ COMMITTED") as held:
        held.exec_driver_sql("lock table gate.events in exclusive mode")
        paying = asyncio.create_task(hooks.settle_next())
        waits = "select 1 from pg_locks where relation = 'gate.events'::regclass and not granted"
        await until(lambda: shop.rows(waits), "the refund has its id")
        shop.run(f"insert into gate.ledger (at, job_id, pool, kind, amount) values (0, '{new}', 'default', 'charge', 5)")
        await followed.catch_up()
        held.rollback()
    await paying
    assert await followed.catch_up() == [f"charge of {late}", f"refund of {late}", f"charge of {new}"]
    hooks.close()


async def test_doctor_reports_a_transaction_that_stays_open(
    followed: Followed, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OPEN_S", 0.0)

    async def findings() -> list[doctor.Diagnosis]:
        return [one for one in await doctor.look_over(None, shop.url, Tools()) if one.what == "held_back"]

    late = await followed.admit(credits=0)
    assert await findings() == []
    async with open_transaction(followed.there, lambda batch: batch.book(late, "ana", "default", "charge", 5, 1_000)):
        (found,) = await findings()
    assert (found.about, found.mended) == ("ledger", False)
    assert "GET /v1/ledger" in found.says and "pg_terminate_backend" in found.helps
