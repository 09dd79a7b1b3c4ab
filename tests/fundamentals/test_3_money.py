"""The tutorial, third part: what was charged comes back exactly once, or not at all."""

import pytest

from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("outcome, back", [("completed", []), ("failed", [7]), ("cancelled", [7])])
async def test_the_outcome_decides(house: House, outcome: str, back: list[int]) -> None:
    job = await house.acquire(user="ana", credits=7)
    await house.release(job, outcome)
    await house.release(job, outcome)
    assert await house.refunds(job) == back


async def test_refused_by_the_provider_is_no_end(house: House) -> None:
    """Back to its place, nothing refunded, nothing lost; the pool cools down, until any lease ends."""
    jobs = [await house.acquire(credits=7) for _ in range(3)]
    refused = await house.release(jobs[0], "refused")
    assert (refused.status, refused.position, refused.reason) == ("queued", 1, "cooling_down")
    assert await house.refunds(refused) == []
    await house.release(jobs[1], "completed")
    assert (await house.granted(refused)).status == "granted"


async def test_the_balance_of_a_user(house: House) -> None:
    user = f"{house.pool}-ana"
    kept, lost = [await house.acquire(user=user, credits=7) for _ in range(2)]
    await house.release(kept, "completed")
    await house.release(lost, "failed")
    balance = await house.gate.services.ledger.balance(user)
    assert (balance.charged, balance.refunded) == (14, 7)
