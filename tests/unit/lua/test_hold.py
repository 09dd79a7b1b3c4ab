"""A grant whose start call is under way is held: neither claimed nor lost."""

from __future__ import annotations

import pytest

from tests.support.script_lane import LineOfPool

pytestmark = pytest.mark.anyio


async def granted(line: LineOfPool) -> str:
    await line.acquire("a", None, "t", by_gate=True)
    lease_id: str = (await line.entry("a"))["lease_id"]
    return lease_id


async def test_its_claim_time_begins_anew_and_nothing_is_claimed(line: LineOfPool) -> None:
    lease_id = await granted(line)
    line.clock.turn(59_999)
    held = await line.hold("a", lease_id)
    assert (held.result, held.due) == ("held", line.clock.now + 60_000)
    line.clock.turn(59_999)
    await line.tick()
    assert await line.holders() == {"a"} and not (await line.entry("a"))["claimed"]
    line.clock.turn(1)
    await line.tick()
    assert await line.holders() == set()


async def test_it_never_goes_beyond_the_hard_limit(line: LineOfPool) -> None:
    await line.load(epoch=2, max_hold_ms=90_000)
    lease_id = await granted(line)
    began = line.clock.now
    line.clock.turn(50_000)
    assert (await line.hold("a", lease_id)).due == began + 90_000
    line.clock.turn(39_000)
    assert (await line.hold("a", lease_id)).due == began + 90_000


async def test_a_lease_that_is_over_or_another_one_is_not_held(line: LineOfPool) -> None:
    lease_id = await granted(line)
    assert (await line.hold("a", "another")).result == "lost"
    line.clock.turn(60_000)
    assert (await line.hold("a", lease_id)).result == "lost"
    assert await line.holders() == set()


async def test_a_running_lease_stays_as_it_is(line: LineOfPool) -> None:
    lease_id = await granted(line)
    due = (await line.claim("a", lease_id, by_gate=True)).due
    line.clock.turn(1_000)
    assert (await line.hold("a", lease_id)).due == due
