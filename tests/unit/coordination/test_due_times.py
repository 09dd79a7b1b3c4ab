"""When each pool is due: the earliest time counts, each pool once."""

from __future__ import annotations

import asyncio
import time

import pytest

from gate.coordination.due_times import DueTimes

pytestmark = pytest.mark.anyio


async def test_pools_that_are_due_are_taken_once_in_order() -> None:
    due, now = DueTimes(), time.monotonic()
    for pool, at in (("b", now - 1), ("a", now - 2), ("b", now - 3), ("later", now + 3600)):
        due.by(pool, at)
    assert await due.take() == ["b", "a"]
    due.by("c", now)
    assert await due.take() == ["c"]


async def test_a_later_time_does_not_put_a_pool_off() -> None:
    due, now = DueTimes(), time.monotonic()
    due.by("a", now)
    due.by("a", now + 3600)
    assert await due.take() == ["a"]


async def test_an_earlier_time_ends_the_wait() -> None:
    due = DueTimes()
    due.by("late", time.monotonic() + 3600)
    taking = asyncio.ensure_future(due.take())
    await asyncio.sleep(0)
    due.by("soon", time.monotonic())
    assert await asyncio.wait_for(taking, 5) == ["soon"]


async def test_a_dropped_pool_is_not_due() -> None:
    due, now = DueTimes(), time.monotonic()
    due.by("gone", now)
    due.by("there", now)
    due.drop("gone")
    assert await due.take() == ["there"]
