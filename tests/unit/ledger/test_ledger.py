"""Compare-and-set, refunds, and what the schema itself refuses."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from gate.ledger import Database, Ledger, LedgerQueries
from gate.ledger.commit import database as database_module
from gate.ledger.commit import unit_of_work as batch
from gate.ledger.commit import writer
from gate.ledger.commit.unit_of_work import UnitOfWork
from gate.ledger.sql import engines, tables
from gate.ledger.sql.engines import READERS
from gate.ledger.sql.statements import AT_ONCE
from gate.model.errors import StoreDown
from gate.model.job import Lease, Request
from gate.model.messages import EntryKind, OutboxEntry
from tests.support.script_lane import settings_of
from tests.support.servers import Books
from tests.support.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(sql_url: str) -> str:
    return sql_url


@pytest.fixture
async def database(url: str):
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    made = Ledger(database)
    await made.configure({"default": settings_of()})
    return made


def lease(fence: int = 1) -> Lease:
    return Lease(f"lease-{fence}", fence, 1_000, 601_000, 3_601_000)


async def admit(ledger: Ledger, job_id: str = "a", grant: Lease | None = None, **request):
    asked = Request(job_id, **({"credits": 5, "user": "ana"} | request))
    facts = {"epoch": 0, "ticket": 1, "at": 1_000, "lease_ms": 600_000}
    return await ledger.admit("default", asked, lease=grant, **facts)


async def money(database: Database) -> list[tuple[str, str, int]]:
    rows, _ = await LedgerQueries(database).entries()
    return [(row.job_id, row.kind, row.amount) for row in rows]


async def test_a_job_is_written_as_decided_with_its_charge(ledger: Ledger, database: Database) -> None:
    admitted = await admit(ledger, grant=lease())
    assert admitted.result == "admitted" and admitted.job is not None
    assert (admitted.job.status, admitted.job.lease) == ("running", lease())
    assert await money(database) == [("a", "charge", 5)]


async def test_no_credits_no_rows(ledger: Ledger, database: Database) -> None:
    await admit(ledger, credits=0)
    await admit(ledger, "b", credits=None)
    await ledger.end("default", "a", "failed", by="operator")
    assert await money(database) == []


@pytest.mark.parametrize("outcome, refunded", [("completed", 0), ("failed", 5), ("cancelled", 5)])
async def test_an_outcome_and_its_refund_are_one(ledger: Ledger, database: Database, outcome: str, refunded: int) -> None:
    await admit(ledger, grant=lease())
    ended = await ledger.end("default", "a", outcome, by="holder", lease_id="lease-1", error="e", output={"x": 1})
    assert (ended.result, ended.job and ended.job.status) == ("ended", outcome)
    assert [row for row in await money(database) if row[1] == "refund"] == [("a", "refund", 5)] * bool(refunded)
    again = await ledger.end("default", "a", outcome, by="holder", lease_id="lease-1")
    assert (again.result, again.job) == ("repeat", ended.job)


async def test_a_single_credit_goes_back_too(ledger: Ledger, database: Database) -> None:
    await admit(ledger, grant=lease(), credits=1)
    await ledger.end("default", "a", "failed", by="holder", lease_id="lease-1")
    assert await money(database) == [("a", "charge", 1), ("a", "refund", 1)]


async def test_an_outcome_never_changes_again(ledger: Ledger, database: Database) -> None:
    await admit(ledger, grant=lease())
    await ledger.end("default", "a", "completed", by="holder", lease_id="lease-1")
    for outcome, by, lease_id in (
        ("failed", "holder", "lease-1"),
        ("cancelled", "operator", None),
        ("completed", "operator", None),
    ):
        assert (await ledger.end("default", "a", outcome, by=by, lease_id=lease_id)).result == "already"
    assert await money(database) == [("a", "charge", 5)]


async def test_only_the_lease_it_has_ends_a_job(ledger: Ledger) -> None:
    await admit(ledger, grant=lease())
    assert (await ledger.end("default", "a", "failed", by="holder", lease_id="lease-9")).result == "lost"
    await ledger.configure({"other": settings_of()})
    assert (await ledger.end("other", "a", "failed", by="operator")).result == "unknown", "it is not of that pool"
    assert (await ledger.end("default", "b", "failed", by="operator")).result == "unknown"


async def test_a_lease_ends_nothing_while_its_job_waits_again(ledger: Ledger) -> None:
    await admit(ledger, grant=lease())
    await ledger.refuse("default", "a", "lease-1", "holder")
    ended = await ledger.end("default", "a", "failed", by="holder", lease_id="lease-1")
    assert ended.result == "lost" and ended.job is not None and ended.job.refund is None


async def test_sql_has_its_own_limit(ledger: Ledger) -> None:
    for fence in (1, 2, 3):
        assert (await admit(ledger, f"j{fence}", lease(fence))).result == "admitted"
    assert (await admit(ledger, "j4", lease(4))).result == "no_room"
    await ledger.end("default", "j1", "completed", by="holder", lease_id="lease-1")
    assert (await admit(ledger, "j4", lease(4))).result == "admitted"


async def test_an_answer_of_another_epoch_changes_nothing(ledger: Ledger, database: Database) -> None:
    await ledger.begin_rebuild("default", "redis", 0)
    assert (await admit(ledger, grant=lease())).result == "stale"
    assert await money(database) == []


async def test_a_repeat_may_name_less_than_the_first_call_and_nothing_else(ledger: Ledger) -> None:
    await admit(ledger, tool="upscaler")
    assert (await admit(ledger, tool=None, user=None, credits=None)).result == "admitted"
    for other in ({"user": "bruno"}, {"credits": 6}, {"tool": "pose"}, {"session": "new"}, {"payload": {"scale": 2}}):
        assert (await admit(ledger, **({"tool": "upscaler"} | other))).result == "reused"
    for added in ({"session": "new"}, {"payload": {"scale": 2}}):
        assert (await admit(ledger, is_lenient=True, **added)).result == "admitted"
    assert (await admit(ledger, is_lenient=True, user="bruno")).result == "reused"


async def test_of_an_ended_job_what_it_no_longer_has_is_not_compared(ledger: Ledger, database: Database) -> None:
    """`gate prune` has forgotten the payload. The repeat of a call is told how its job ended, so that it pays no user back."""
    await admit(ledger, payload={"scale": 2})
    await ledger.end("default", "a", "completed", by="operator")
    await database.write("default", "a", lambda batch: batch.put(batch.job("default", "a"), payload=None))
    assert (await admit(ledger, payload={"scale": 2})).result == "ended"
    assert (await admit(ledger, payload={"scale": 2}, user="bruno")).result == "reused"


async def test_what_was_answered_too_long_ago_is_not_recorded(ledger: Ledger, database: Database) -> None:
    """The process stood still for longer than the lease, so another job may hold the slot by now."""
    facts = {"epoch": 0, "ticket": 1, "at": 1_000, "lease_ms": 600_000, "good_until": time.monotonic() - 0.001}
    assert (await ledger.admit("default", Request("a", credits=5), lease=lease(), **facts)).result == "stale"
    assert await money(database) == []


async def test_one_rebuild_a_loss(ledger: Ledger) -> None:
    first, second = await asyncio.gather(*(ledger.begin_rebuild("default", "redis", 0) for _ in range(2)))
    assert {(first.epoch, first.result), (second.epoch, second.result)} == {(1, "raised"), (1, "taken")}


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger set amount = 1",
        "delete from ledger",
        "update jobs set status = 'completed', end_reason = null",
        "update jobs set credits = -1",
        "update jobs set late_outcome = 'completed' where status <> 'expired'",
        "insert into ledger(at, job_id, pool, kind, amount) values (1, 'a', 'default', 'refund', 5)",
        "insert into ledger(at, job_id, pool, kind, amount) values (1, 'nobody', 'default', 'charge', 5)",
        "insert into ledger(at, job_id, pool, kind, amount) values (1, 'b', 'default', 'refund', 0)",
        "insert into ledger(at, job_id, pool, kind, amount) values (1, 'b', 'default', 'gift', 5)",
        "update jobs set status = 'running' where job_id = 'b'",
        "update jobs set status = 'failed' where job_id = 'b'",
        "update jobs set status = 'expired', ended_at = 1, ended_by = 'gate' where job_id = 'b'",
        'update pools set "limit" = -1',
    ],
)
async def test_the_schema_itself_refuses(ledger: Ledger, url: str, statement: str) -> None:
    await admit(ledger, grant=lease())
    await ledger.end("default", "a", "failed", by="holder", lease_id="lease-1")
    await admit(ledger, "b")
    engine = engines.engine(url, writes=True)
    with (
        pytest.raises((sa.exc.IntegrityError, sa.exc.InternalError, sa.exc.ProgrammingError)) as refused,
        engine.begin() as connection,
    ):
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("set search_path to gate")
        connection.exec_driver_sql(statement)
    words = str(refused.value)
    assert not isinstance(refused.value, sa.exc.ProgrammingError) or "insert-only" in words or "never changes again" in words
    engine.dispose()


async def test_a_bad_request_fails_alone_in_its_batch(ledger: Ledger, database: Database) -> None:
    """Twenty share one commit; the one that breaks it answers for itself."""

    def broken(batch: UnitOfWork) -> None:
        batch.connection.execute(tables.ledger.insert().values(at=1))

    calls = [admit(ledger, f"j{number}") for number in range(20)]
    answers = await asyncio.gather(*calls[:10], database.write("default", "j5x", broken), *calls[10:], return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(error) for error in failed] == [sa.exc.IntegrityError]
    assert len(await money(database)) == 20


async def test_a_row_that_another_server_writes_meanwhile_is_found_when_it_is_looked_again(
    ledger: Ledger, database: Database
) -> None:
    """The same job_id in two pools, whose locks do not exclude each other."""
    broken = iter([True, True, False])

    def work(batch: UnitOfWork) -> str:
        if next(broken):
            batch.connection.execute(tables.ledger.insert().values(at=1))
        return "found"

    assert await database.write("default", "j", work, takes_long=True) == "found"


async def test_however_many_rows_there_are_few_statements_are_kept(ledger: Ledger, database: Database) -> None:
    for count in (300, 77, 5):
        await asyncio.gather(*(admit(ledger, f"n{count}-{number}") for number in range(count)))
    count = sa.select(sa.func.count()).select_from(tables.ledger)
    assert await database.read(lambda connection: connection.execute(count).scalar()) == 300 + 77 + 5
    assert len(batch._insert(tables.jobs)._texts) <= AT_ONCE


async def test_a_row_that_sql_refuses_is_not_announced(ledger: Ledger, database: Database) -> None:
    for job_id in ("bad-1", "good"):
        await admit(ledger, job_id)
    notes = [OutboxEntry(f"{n}-0", EntryKind.GRANTED, job, n, 1_000, lease(n)) for n, job in enumerate(("bad-1", "good"), 1)]
    with Books(database.url).refuses("update", "bad-%"):
        recorded = await ledger.record("default", 0, notes)
    assert [job.job_id for job in recorded.changed] == ["good"]
    assert recorded.done == ["2-0"]


async def test_many_requests_share_one_commit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, commit = [], batch.commit
    monkeypatch.setattr(batch, "commit", lambda connection: (commits.append(1), commit(connection)))
    await asyncio.gather(*(admit(ledger, f"j{number}") for number in range(100)))
    assert 1 <= len(commits) <= 10


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_a_locked_store_fails_all_waiting_callers_at_once(
    ledger: Ledger, database: Database, url: str, monkeypatch
) -> None:
    """Another process locks the file: ten requests wait together for one timeout, not one after the other."""
    sa.event.listen(database._write_engine, "connect", lambda dbapi, _: dbapi.execute("pragma busy_timeout = 300"))
    database._writer._committer.leave()
    database._write_engine.dispose()
    holder = sa.create_engine(url, isolation_level="AUTOCOMMIT").connect()
    holder.exec_driver_sql("begin immediate")
    first = asyncio.create_task(admit(ledger, "first"))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(first, *(admit(ledger, f"j{n}") for n in range(10)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreDown}
    assert asyncio.get_running_loop().time() - began < 11 * 0.3
    assert database.writable is False
    holder.exec_driver_sql("rollback")
    holder.close()
    await ledger.reach("default")
    assert database.writable is True


async def test_a_store_that_is_away_is_said_so(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'no' / 'folder' / 'gate.db'}")
    with pytest.raises(StoreDown):
        await LedgerQueries(database).ping()
    with pytest.raises(StoreDown):
        await Ledger(database).configure({})
    database.close()


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_a_pool_whose_row_is_held_does_not_make_its_requests_wait_in_turn(
    ledger: Ledger, database: Database, monkeypatch
) -> None:
    monkeypatch.setattr(writer, "SET_ASIDE_S", 2)
    await ledger.configure({"other": settings_of()})
    holder = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:")).connect()
    holder.exec_driver_sql("select 1 from gate.pools where name = 'default' for update")
    began = asyncio.get_running_loop().time()
    elsewhere = ledger.admit("other", Request("o"), epoch=0, ticket=1, at=1_000, lease_ms=600_000, lease=None)
    *answers, other = await asyncio.gather(*(admit(ledger, f"j{n}") for n in range(10)), elsewhere, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreDown}
    assert other.result == "admitted"
    assert asyncio.get_running_loop().time() - began < 10 * writer.FIRST_LOCK_TIMEOUT_MS / 1000
    holder.close()


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_a_caller_is_served_when_the_row_lock_ends_in_time(ledger: Ledger, database: Database) -> None:
    holder = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:")).connect()
    holder.exec_driver_sql("select 1 from gate.pools where name = 'default' for update")
    waits = asyncio.create_task(admit(ledger, "a", lease()))
    await until(lambda: database.held("default"), "the writer has found the row held")
    holder.close()
    assert (await waits).result == "admitted"
    assert not database.held("default")


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_a_job_whose_row_is_held_keeps_no_other_of_its_pool_waiting(
    ledger: Ledger, database: Database, monkeypatch
) -> None:
    monkeypatch.setattr(writer, "SET_ASIDE_S", 2)
    for name in "abc":
        await admit(ledger, name, lease(fence=ord(name)))
    holder = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:")).connect()
    holder.exec_driver_sql("select 1 from gate.jobs where job_id = 'b' for update")
    ends = {name: asyncio.create_task(ledger.end("default", name, "failed", by="operator")) for name in "abc"}
    for name in "ac":
        assert (await ends[name]).result == "ended"
        assert not ends["b"].done()
    with pytest.raises(StoreDown, match="row of this job"):
        await ends["b"]
    holder.close()
    assert (await ledger.end("default", "b", "failed", by="operator")).result == "ended"


async def test_a_caller_is_let_go_when_sql_hangs(ledger: Ledger, database: Database, monkeypatch) -> None:
    """Nothing is granted or reaped meanwhile, and no request is half done."""
    monkeypatch.setattr(database_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(database_module, "HANGS_S", 0.1)
    goes_on = threading.Event()
    hanging = asyncio.create_task(database.write("default", "", lambda batch: goes_on.wait(5), takes_long=True))
    await asyncio.sleep(0)
    with pytest.raises(StoreDown):
        await admit(ledger, "a", lease())
    with pytest.raises(StoreDown):
        await hanging
    assert database.hangs
    with pytest.raises(StoreDown):
        await ledger.reach("default")
    goes_on.set()
    await until(lambda: not database.hangs, "SQL goes on")
    await ledger.reach("default")
    assert (await admit(ledger, "a", lease())).result == "admitted"
    assert await money(database) == [("a", "charge", 5)]


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_a_server_that_stands_still_delays_others_briefly(ledger: Ledger, database: Database) -> None:
    """It locked the pool's row and was stopped: the database ends its transaction, and the others go on."""
    stopped = engines.engine(database.url, writes=True)
    connection = stopped.connect()
    connection.execute(sa.select(tables.pools).with_for_update())

    async def others_go_on() -> object:
        await asyncio.gather(admit(ledger, "a"), return_exceptions=True)
        return await LedgerQueries(database).job("a")

    await until(others_go_on, "the database has ended the transaction that stood still", within_s=15)
    connection.invalidate()
    stopped.dispose()


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_sqlite_is_durable_and_readable_beside(database: Database, ledger: Ledger) -> None:
    def pragmas(connection: sa.Connection) -> tuple[str, int]:
        return tuple(connection.exec_driver_sql(f"pragma {name}").scalar() for name in ("journal_mode", "synchronous"))

    assert await database.read(pragmas) == ("wal", 2)
    assert await database.write("", "", lambda batch: pragmas(batch.connection)) == ("wal", 2)


async def test_pages_of_the_ledger_follow_each_other(ledger: Ledger, database: Database) -> None:
    for number in range(7):
        await admit(ledger, f"j{number}", user=f"u{number % 2}")
    reading, seen, after = LedgerQueries(database), [], 0
    while after is not None:
        rows, after = await reading.entries(after=after, most=3)
        seen += [row.job_id for row in rows]
    assert seen == [f"j{number}" for number in range(7)]
    rows, after = await reading.entries(user="u1", most=3)
    assert ([row.job_id for row in rows], after) == (["j1", "j3", "j5"], None)
    balance = await reading.balance("u0")
    assert (balance.charged, balance.refunded) == (20, 0)


async def test_a_configured_value_counts_only_when_it_differs_from_the_last_one(ledger: Ledger, database: Database) -> None:
    def live(batch: UnitOfWork) -> None:
        batch.connection.execute(tables.pools.update().values(limit=7))

    await database.write("default", "", live)
    assert await ledger.configure({"default": settings_of()}) == []
    assert (await LedgerQueries(database).pools())[0].settings.limit == 7, "the live value stays"
    assert await ledger.configure({"default": settings_of(limit=2, queue_max=5)}) == ["default"]
    settings = (await LedgerQueries(database).pools())[0].settings
    assert (settings.limit, settings.queue_max) == (2, 5)


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" in os.environ, reason="of SQLite only")
async def test_read_whose_caller_has_left_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All readers would be taken by it, and the log would grow."""
    monkeypatch.setattr(database_module, "ANSWER_S", 0.05)
    count = "with recursive n(i) as (select 1 union all select i + 1 from n limit 10000000) select max(i) from n"
    long = [database.read(lambda connection: connection.exec_driver_sql(count).scalar()) for _ in range(READERS)]
    assert {type(one) for one in await asyncio.gather(*long, return_exceptions=True)} == {StoreDown}
    monkeypatch.setattr(database_module, "ANSWER_S", 1.0)
    assert await database.read(lambda connection: connection.exec_driver_sql("select 1").scalar()) == 1


@pytest.mark.skipif("GATE_TEST_POSTGRES_URL" not in os.environ, reason="of Postgres only")
async def test_read_whose_caller_has_left_ends_in_postgres_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All readers would be taken by it, and its snapshot would keep old rows from being removed."""
    monkeypatch.setattr(database_module, "ANSWER_S", 0.3)
    long = [
        database.read(lambda connection: connection.exec_driver_sql("select pg_sleep(60)").scalar()) for _ in range(READERS)
    ]
    assert {type(one) for one in await asyncio.gather(*long, return_exceptions=True)} == {StoreDown}
    monkeypatch.setattr(database_module, "ANSWER_S", 5.0)
    sleeps = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%%'"

    async def none_is_left() -> bool:
        return await database.read(lambda connection: connection.exec_driver_sql(sleeps).scalar()) == 0

    await until(none_is_left, "Postgres has ended the reads")
