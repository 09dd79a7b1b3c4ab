"""A ledger on a database of its own, its clock in the test's hand, and all that stands in its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from gate.ledger import Change, Database, Ledger, LedgerQueries, RecordReply
from gate.ledger import ledger as ledger_module
from gate.ledger.commit import database, unit_of_work
from gate.ledger.reports import backlog
from gate.ledger.sql import account_rows, pool_rows
from gate.ledger.transitions import capacity, deliveries, hints, inbox, jobs, questions, unread_callbacks
from gate.model.job import Job, Lease, Request
from gate.model.messages import EntryKind, OutboxEntry
from tests.support.script_lane import settings_of

NOW = 50_000_000
"""What gate's own clock says, unless a test turns it; Redis's times are smaller."""


def lease(fence: int = 1) -> Lease:
    return Lease(f"lease-{fence}", fence, 2_000, 602_000, 3_602_000)


class Book:
    """Three slots in `default`, one in `other`, both under epoch 0."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self.ledger, self.reading = database, Ledger(database), LedgerQueries(database)
        self._monkeypatch = monkeypatch
        self._notes = 0
        self.clock(NOW)

    async def open(self) -> None:
        await self.ledger.configure({"default": settings_of(), "other": settings_of(limit=1)})

    def clock(self, ms: int) -> None:
        modules = (
            jobs,
            deliveries,
            inbox,
            backlog,
            pool_rows,
            capacity,
            questions,
            unread_callbacks,
            ledger_module,
            unit_of_work,
            database,
        )
        for module in modules:
            self._monkeypatch.setattr(module, "now_ms", lambda: ms)
        for module in (deliveries, questions, hints, capacity, account_rows):
            self._monkeypatch.setattr(module, "clock_ms", lambda connection: ms)

    async def admit(
        self,
        job_id: str = "a",
        grant: Lease | None = None,
        *,
        pool: str = "default",
        ticket: int = 1,
        given_up: int = 0,
        **more: Any,
    ) -> Change:
        request = Request(job_id, **({"user": "ana", "credits": 5} | more))
        facts = {"epoch": 0, "ticket": ticket, "at": 1_000, "lease_ms": 600_000, "given_up": given_up}
        return await self.ledger.admit(pool, request, lease=grant, **facts)

    async def running(self, job_id: str = "a", fence: int = 1, **more: Any) -> Job:
        return self.there(await self.admit(job_id, lease(fence), **more))

    async def queued(self, job_id: str = "a", **more: Any) -> Job:
        return self.there(await self.admit(job_id, **more))

    async def granted(self, job_id: str = "a", fence: int = 1, **more: Any) -> Job:
        await self.queued(job_id, **more)
        await self.record(self.note(job_id, fence, lease(fence)))
        return await self.job(job_id)

    async def expired(self, job_id: str = "a", fence: int = 1, **more: Any) -> Job:
        await self.running(job_id, fence, **more)
        await self.record(self.note(job_id, fence, at=700_000))
        return await self.job(job_id)

    def there(self, admitted: Change) -> Job:
        assert admitted.result == "admitted" and admitted.job is not None
        return admitted.job

    def note(self, job_id: str, fence: int, grant: Lease | None = None, at: int = 3_000, kind: str = "") -> OutboxEntry:
        self._notes += 1
        return OutboxEntry(
            f"{self._notes}-0", EntryKind(kind or ("granted" if grant else "expired")), job_id, fence, at, grant
        )

    async def record(self, *notes: OutboxEntry) -> RecordReply:
        return await self.ledger.record("default", 0, notes)

    async def job(self, job_id: str = "a") -> Job:
        found = await self.reading.job(job_id)
        assert found is not None
        return found

    async def history(self, job_id: str = "a") -> list[tuple[str, str, int | None, str | None, int]]:
        return [(one.kind, one.by, one.fence, one.why, one.at) for one in await self.reading.history(job_id)]

    async def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        query = sa.select(table).order_by(*table.primary_key)
        return await self.database.read(lambda c: [dict(row._mapping) for row in c.execute(query)])

    async def change(self, statement: Any) -> None:
        await self.database.write("", "", lambda batch: batch.connection.execute(statement) and None)


@pytest.fixture
async def book(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Book]:
    database = Database(sql_url)
    opened = Book(database, monkeypatch)
    await opened.open()
    yield opened
    database.close()
