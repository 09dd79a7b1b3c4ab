"""What the panel shows of a pool: one read for each change, whatever the number of viewers; and each problem."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gate.coordination.drift import DriftKind
from gate.coordination.queries import PoolSnapshot
from gate.coordination.store_health import StoreHealth
from gate.http.panel import pool_feed
from gate.http.panel.pool_feed import ALL, SHOWN, PoolFeed, PoolReport, StoreDifference, differing
from gate.model.errors import StoreDown
from gate.model.job import Job
from gate.slots import QueueState
from tests.support.gate_in_process import House
from tests.support.wait import until

pytestmark = pytest.mark.anyio


def job(job_id: str, status: str = "running") -> Job:
    return Job(job_id, "p", status, None, None, None, 0, None, 1, 1, "l", 1000, 0)


def view(holders: str = "", queue: str = "", ended: str = "", **line: Any) -> PoolSnapshot:
    """Each letter a job; those of `ended` SQL has ended, those in upper case it does not know."""
    of = [job(one, "completed" if one in ended else "running") for one in holders if one.islower()]
    waits = [job(one, "completed" if one in ended else "queued") for one in queue if one.islower()]
    counts = {"running": len(holders), "queued": len(queue)} | line
    return PoolSnapshot("p", QueueState("status", limit=3, holders=tuple(holders), queue=tuple(queue), **counts), of, waits)


@pytest.mark.parametrize(
    "seen, held, waits, ended, expected",
    [
        (view("ab", "c"), "ab", "c", "", []),
        (view("ab", "c", ended="a"), "b", "c", "a", [("ended", "a")]),
        (view("aX", "Y"), "a", "", "", [("stranger", "X"), ("stranger", "Y")]),
        (view("a", ""), "ab", "", "", [("restore", "b")]),
        (view("a", "b"), "", "ab", "", [("adopt", "a")]),
        (view("a", ""), "a", "b", "", [("seat", "b")]),
        (view("a", "", running=5), "abcde", "", "", []),
        (view("a", "b", queued=9), "a", "bcdefghi", "", []),
    ],
)  # fmt: skip
def test_what_the_stores_disagree_about(seen: PoolSnapshot, held: str, waits: str, ended: str, expected: list[Any]) -> None:
    found = sorted(differing(seen, set(held), set(waits), set(ended), SHOWN))
    assert found == [StoreDifference(DriftKind(kind), job_id) for kind, job_id in expected]


class _Feeds(dict[House, PoolFeed]):
    """One feed for each gate."""

    def __missing__(self, house: House) -> PoolFeed:
        services = house.gate.services
        return self.setdefault(house, PoolFeed(services.queries, services.ledger, house.gate.waiters, services.health))


FEED = _Feeds()


@contextmanager
def following(house: House, most: int = SHOWN) -> Iterator[tuple[asyncio.Event, Callable[[], PoolReport]]]:
    changed = asyncio.Event()
    with FEED[house].followed(house.pool, changed, most):
        yield changed, lambda: FEED[house].seen(house.pool) or PoolReport()


async def test_one_read_shows_a_change_to_all_viewers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    pool_of = house.gate.services.queries.pool

    async def counted(*words: Any) -> PoolSnapshot:
        nonlocal looks
        looks += 1
        return await pool_of(*words)

    monkeypatch.setattr(house.gate.services.queries, "pool", counted)
    with following(house) as (_, seen), following(house) as (other, _):
        await until(lambda: seen().view is not None, "the pool is looked at")
        other.clear()
        before = looks
        taken = await house.acquire()
        await until(lambda: [one.job_id for one in seen().view.holders] == [taken.job_id], "the grant is seen")
        assert other.is_set() and looks - before <= 2
    assert FEED[house].seen(house.pool) is None, "without a viewer nothing is read"


async def test_a_free_slot_that_is_taken_is_seen_without_a_notice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_feed, "AT_LEAST_EVERY_S", 3600.0)
    with following(house) as (_, seen):
        await until(lambda: seen().view is not None, "the pool is looked at")
        taken = await house.acquire()
        await until(lambda: [one.job_id for one in seen().view.holders] == [taken.job_id], "the grant is seen")
    await house.release(taken)


async def test_a_higher_limit_shows_more(house: House) -> None:
    jobs = [await house.acquire() for _ in range(3 + SHOWN + 1)]
    with following(house) as (_, seen):
        await until(lambda: seen().view is not None, "the first are looked at")
        assert len(seen().view.queue) == SHOWN
        with following(house, ALL):
            await until(lambda: len(seen().view.queue) == SHOWN + 1, "all are looked at")
    for one in jobs[::-1]:
        await house.keeper.cancel(house.pool, one.job_id)


async def test_drift_is_said_once_it_stays(house: House) -> None:
    held = await house.acquire()
    await house.settled()
    with following(house) as (_, seen):
        await until(lambda: seen().view is not None, "the pool is looked at")
        house.people.zrem(house.key("slots"), held.job_id)
        await until(lambda: seen().differs == (StoreDifference(DriftKind.LOST_LEASE, held.job_id),), "the lost slot is said")
        await house.gate.reconciler.sweep(house.pool)
        await house.gate.reconciler.sweep(house.pool)
        await until(lambda: not seen().differs, "it is mended")
    await house.release(held)


async def test_a_store_that_is_away_is_named_and_what_was_seen_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    held = await house.acquire()
    pool_of = house.gate.services.queries.pool

    async def away(*_: Any) -> PoolSnapshot:
        raise StoreDown("redis", "gone")

    with following(house) as (_, seen):
        await until(lambda: seen().view is not None, "the pool is looked at")
        monkeypatch.setattr(house.gate.services.queries, "pool", away)
        await until(lambda: seen().down == "redis", "Redis is said to be away")
        since = seen().down_since
        changed = seen()
        await until(lambda: seen() is not changed, "it is looked again")
        assert seen().down_since == since and [one.job_id for one in seen().view.holders] == [held.job_id]
        monkeypatch.setattr(house.gate.services.queries, "pool", pool_of)
        await until(lambda: seen().down is None, "it is back")
    await house.release(held)


async def test_a_store_that_takes_no_writes_is_shown_at_once_beside_what_is_so_now(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(at_rest: bool) -> None:
        raise StoreDown("sql", "SQL takes no writes: full", refuses=True)

    with following(house) as (_, seen):
        await until(lambda: seen().view is not None, "the pool is looked at")
        monkeypatch.setattr(house.gate.ledger, "prove", full)
        health = StoreHealth(house.gate.semaphore, house.gate.ledger, house.gate.registry)
        monkeypatch.setattr(FEED[house], "_health", health)
        assert not await health.look()
        await until(
            lambda: seen().refusing is not None and seen().refusing.why == "SQL takes no writes: full", "it is shown", 1
        )
        assert seen().down is None, "what is shown below is as of now"
        health.troubles.clear()
        await until(lambda: seen().refusing is None, "it is over", 1)


async def test_a_waiter_beside_a_free_slot_without_a_reason_is_an_alarm(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = view("a", "b")

    async def beside(*_: Any) -> PoolSnapshot:
        return stuck

    monkeypatch.setattr(house.gate.services.queries, "pool", beside)
    with following(house) as (_, seen):
        await until(lambda: seen().granting_since is not None, "the job waits beside a free slot")
        assert not seen().stuck, "a grant is on its way"
        await until(lambda: seen().stuck, "it takes too long")
        stuck = view("a", "b", paused=True)
        await until(lambda: not seen().stuck, "there is a reason")
