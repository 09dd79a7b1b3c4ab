"""A pool's row: its settings and who changed them, its lives, what is void, and what a rebuild reads of it."""

from __future__ import annotations

import json

import pytest

from gate.ledger import Pool
from gate.ledger.results import Change
from gate.ledger.sql import pool_rows, tables
from gate.model.errors import PoolUnknown
from tests.support.ledger_book import NOW, Book, lease
from tests.support.script_lane import SETTINGS, settings_of

pytestmark = pytest.mark.anyio


async def pool(book: Book, name: str = "default") -> Pool:
    return next(one for one in await book.reading.pools() if one.name == name)


async def said(book: Book) -> list[tuple[str, str, str, str | None, int]]:
    return [(row["pool"], row["kind"], row["by"], row["why"], row["at"]) for row in await book.rows(tables.events)]


async def test_a_pool_that_is_made_live_is_whole_and_was_never_configured(book: Book) -> None:
    assert await book.ledger.make_pool("live", settings_of(limit=4)) is True
    assert await book.ledger.make_pool("live", settings_of(limit=5)) is False
    made = await pool(book, "live")
    assert len(made.ledger_id) == 16 and made.ledger_id != (await pool(book)).ledger_id
    assert made == Pool("live", 0, 0, 0, False, settings_of(limit=4), "", (), made.ledger_id)
    assert made.in_redis() == SETTINGS | {"limit": 4, "paused": 0}
    rule = {"cancel_refunds": "always"}  # no script reads it, so Redis does not have it
    assert {row["name"]: json.loads(row["configured"]) for row in await book.rows(tables.pools)} == {
        "default": SETTINGS | rule, "other": SETTINGS | rule | {"limit": 1}, "live": {},
    }  # fmt: skip
    assert (await said(book))[-1] == ("live", "limit", "operator", "4", NOW)
    assert await book.ledger.configure({"live": settings_of(limit=4)}) == ["live"], "a file speaks of it for the first time"


async def test_only_a_setting_that_changes_is_history(book: Book) -> None:
    assert await said(book) == [
        ("default", "limit", "configuration", "3", NOW),
        ("other", "limit", "configuration", "1", NOW),
    ]
    assert await book.ledger.configure({"default": settings_of(), "other": settings_of(limit=1)}) == []
    assert await book.ledger.configure({"default": settings_of(queue_max=9), "other": settings_of(limit=2)}) == [
        "default",
        "other",
    ]
    assert (await said(book))[2:] == [
        ("default", "setting", "configuration", "queue_max 9", NOW), ("other", "limit", "configuration", "2", NOW),
    ]  # fmt: skip
    changed = await book.ledger.change_pool("default", {"lease_ms": 9_000, "limit": 3}, "eva", "why")
    assert changed == await pool(book) and changed.settings == settings_of(queue_max=9, lease_ms=9_000)
    await book.ledger.change_pool("default", {"limit": 5}, "eva", "why")
    await book.ledger.change_pool("other", {"limit": 6})
    assert (await said(book))[4:] == [
        ("default", "setting", "eva", "lease_seconds 9", NOW), ("default", "reason", "eva", "why", NOW),
        ("default", "limit", "eva", "5", NOW), ("default", "reason", "eva", "why", NOW), ("other", "limit", "operator", "6", NOW),
    ]  # fmt: skip
    rows = {row["name"]: json.loads(row["configured"])["limit"] for row in await book.rows(tables.pools)}
    assert rows == {"default": 3, "other": 2}, "a restart keeps what was changed live"


async def test_a_setting_that_is_newer_than_the_pool_is_no_change_in_its_history(book: Book) -> None:
    older = json.dumps({name: value for name, value in SETTINGS.items() if name != "queue_max"})
    await book.change(tables.pools.update().where(tables.pools.c.name == "default").values(configured=older))
    assert await book.ledger.configure({"default": settings_of()}) == []
    assert await book.ledger.configure({"default": settings_of(queue_max=9)}) == ["default"]
    assert [why for _, kind, _, why, _ in await said(book) if kind == "setting"] == ["queue_max 9"]


async def test_a_pause_and_its_end_are_history_once(book: Book) -> None:
    for paused in (False, True, True, False):
        assert (await book.ledger.change_pool("default", {"paused": paused}, "eva", f"{paused}")).paused is paused
        assert (await pool(book)).in_redis()["paused"] == int(paused)
    assert (await said(book))[2:] == [("default", "paused", "eva", "True", NOW), ("default", "resumed", "eva", "False", NOW)]
    assert (await pool(book, "other")).paused is False


async def test_a_pool_that_is_none_is_said_so(book: Book) -> None:
    with pytest.raises(PoolUnknown, match="'nowhere'"):
        await book.ledger.change_pool("nowhere", {"limit": 1})
    assert [one.name for one in await book.reading.pools()] == ["default", "other"]


async def test_each_life_has_a_higher_epoch_and_remembers_the_redis_before(book: Book) -> None:
    first = await book.ledger.begin_rebuild("default", "one")
    assert (first.result, first.epoch, first.pool.redis) == ("raised", 1, "")
    assert ((await pool(book)).redis, (await pool(book)).former) == ("one", ())
    again = await book.ledger.begin_rebuild("default", "one")
    assert (again.result, again.epoch, again.leases, again.waiters) == ("taken", 1, [], [])
    assert (await book.ledger.begin_rebuild("default", "one", 0)).result == "taken"
    assert (await book.ledger.begin_rebuild("default", "one", 1)).epoch == 2, "that life was refused"
    assert (await pool(book)).former == ()
    assert (await book.ledger.begin_rebuild("default", "two", floor=40)).epoch == 41
    assert (await book.ledger.begin_rebuild("default", "two", 41, floor=3)).epoch == 42
    left = await book.ledger.begin_rebuild("default", "one")
    assert (left.result, left.epoch, left.pool) == ("replaced", 42, await pool(book))
    assert (await book.ledger.begin_rebuild("default", "one", even_a_former=True)).epoch == 43
    assert ((await pool(book)).redis, (await pool(book)).former) == ("one", ("two", "one"))
    assert (await pool(book, "other")).epoch == 0
    for number in range(30):
        await book.ledger.begin_rebuild("default", f"r{number}")
    assert (await pool(book)).former == tuple(f"r{number}" for number in range(28, 28 - pool_rows.FORMER_MAX, -1))


async def test_a_rebuild_reads_live_jobs_in_the_order_of_tickets(book: Book) -> None:
    for number, job_id in enumerate(("z", "y", "x")):
        await book.queued(job_id, ticket=10 - number)
    await book.running("r", 1, ticket=3)
    await book.granted("g", 2, ticket=2)
    await book.running("gone", 3, ticket=4)
    await book.ledger.end("default", "gone", "completed", by="operator")
    await book.queued("o", pool="other")
    snapshot = await book.ledger.begin_rebuild("default", "one")
    assert [job.job_id for job in snapshot.leases] == ["g", "r"]
    assert [job.job_id for job in snapshot.waiters] == ["x", "y", "z"]
    assert snapshot.leases[0] == await book.job("g")


async def test_grace_is_written_only_for_leases_as_they_were_read(book: Book) -> None:
    kept, renewed, claimed = await book.running("a"), await book.running("b", 2), await book.granted("c", 3)
    await book.ledger.extend("default", "b", "lease-2", epoch=0, due=700_000, at=1)
    await book.ledger.extend("default", "c", "lease-3", epoch=0, due=602_000, at=1)
    gone = kept._replace(job_id="nobody")
    other = kept._replace(lease_id="lease-9")
    await book.ledger.grace("default", 1, [(kept, 1_000_000)])
    assert (await book.job("a")).expires_at == 602_000, "of another epoch"
    await book.ledger.grace("default", 0, [(gone, 1), (other, 2), (renewed, 3), (claimed, 4), (kept, 900_000)])
    assert [(await book.job(job_id)).expires_at for job_id in "abc"] == [900_000, 700_000, 602_000]


async def test_what_is_void_is_never_recorded_and_never_less_void(book: Book) -> None:
    assert await book.ledger.void("default", 0, "ghost", 5, 7) is True
    assert ((await pool(book)).void_fence, (await pool(book)).void_ticket) == (5, 7)
    assert await book.ledger.void("default", 0, "ghost", 3) is True
    assert await book.ledger.void("default", 1, "ghost", 9, 9) is False, "of another epoch"
    assert ((await pool(book)).void_fence, (await pool(book)).void_ticket) == (5, 7)
    assert (await pool(book, "other")).void_fence == 0
    assert await book.admit("ghost", ticket=7) == Change("stale")
    assert await book.admit("ghost", lease(5), ticket=8) == Change("no_room")
    assert (await book.admit("ghost", lease(6), ticket=8)).result == "admitted"


async def test_only_what_sql_does_not_hold_under_that_fence_is_void(book: Book) -> None:
    await book.running("a", 5)
    waiter = await book.queued("w", ticket=2)
    assert await book.ledger.void("default", 0, "a", 5) is False, "it is recorded"
    assert await book.ledger.void("default", 0, waiter.job_id, 5) is False
    assert (await pool(book)).void_fence == 0
    assert await book.ledger.void("default", 0, "a", 6) is True, "another grant than the recorded one"
    await book.queued("o", pool="other")
    assert await book.ledger.void("default", 0, "o", 8) is True, "it is another pool's"
    assert (await pool(book)).void_fence == 8


async def test_a_deadline_that_redis_lost_ends_its_own_lease_only(book: Book) -> None:
    job = await book.running("a", 2)
    for epoch, job_id, fence, now in ((1, "a", 2, 602_000), (0, "a", 3, 602_000), (0, "a", 2, 601_999), (0, "b", 2, 602_000)):
        assert await book.ledger.expire_overdue("default", epoch, job_id, fence, now) is False
    assert await book.ledger.expire_overdue("other", 0, "a", 2, 602_000) is False
    assert await book.job() == job
    assert await book.ledger.expire_overdue("default", 0, "a", 2, 602_000) is True
    assert ((await book.job()).end_reason, (await book.job()).ended_at) == ("lease_timeout", 602_000)
    assert await book.ledger.expire_overdue("default", 0, "a", 2, 602_000) is False, "once"
    waiter = await book.queued("w")
    assert await book.ledger.expire_overdue("default", 0, "w", waiter.fence, 602_000) is False


async def test_a_place_that_was_lost_is_written_down_of_waiters_only(book: Book) -> None:
    await book.queued("w")
    await book.running("r")
    for name, job_id in (("default", "w"), ("default", "r"), ("other", "w"), ("default", "nobody")):
        await book.ledger.seated(name, job_id)
    assert (await book.history("w"))[1:] == [("seated", "gate", None, "its place in Redis was lost", NOW)]
    assert len(await book.history("r")) == 1


async def test_a_longer_hold_moves_the_hard_limits_of_who_holds_a_slot(book: Book) -> None:
    runs, waits = await book.running("r", 1), await book.queued("w")
    told = runs.hard_expires_at
    await book.ledger.change_pool("default", {"max_hold_ms": 100})
    assert (await book.job("r")).hard_expires_at == told
    await book.ledger.configure({"default": settings_of(max_hold_ms=7_200_000)})
    assert (await book.job("r")).hard_expires_at == told + 3_600_000 and (await book.job("w")) == waits
    await book.ledger.change_pool("default", {"max_hold_ms": 10_800_000})
    assert (await book.job("r")).hard_expires_at == told + 7_200_000
