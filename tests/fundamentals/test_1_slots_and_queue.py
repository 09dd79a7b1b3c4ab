"""The tutorial, first part: who runs, who waits, who is next.

Each test is a page. `house` is a gate with three slots on a real Valkey and a real SQLite file; what happens here over Python
happens over HTTP in the same words.
"""

import pytest

from tests.support.gate_in_process import House

pytestmark = pytest.mark.anyio


async def test_three_run_the_fourth_waits(house: House) -> None:
    jobs = [await house.acquire(user=name) for name in ("ana", "bruno", "carla", "davi")]
    assert [job.status for job in jobs] == ["running", "running", "running", "queued"]
    assert jobs[3].position == 1


async def test_one_ends_and_the_next_is_granted_by_itself(house: House) -> None:
    ana, _, _, davi = [await house.acquire() for _ in range(4)]
    await house.release(ana, "completed")
    davi = await house.granted(davi)  # one call that waits, without polling
    assert davi.status == "granted"


async def test_a_grant_is_claimed_and_then_runs(house: House) -> None:
    ana, _, _, davi = [await house.acquire() for _ in range(4)]
    await house.release(ana, "completed")
    davi = await house.granted(davi)
    assert davi.lease is not None
    davi = await house.keeper.claim(house.pool, davi.job_id, davi.lease.lease_id)
    assert davi.status == "running"


async def test_the_queue_keeps_its_order_when_a_waiter_leaves(house: House) -> None:
    [await house.acquire() for _ in range(3)]
    waiters = [await house.acquire() for _ in range(4)]
    await house.keeper.cancel(house.pool, waiters[1].job_id)
    places = [(await house.look(job)).position for job in waiters]
    assert places == [1, None, 2, 3]


async def test_asking_twice_is_asking_once(house: House) -> None:
    first = await house.acquire("cat", credits=5)
    assert await house.acquire("cat", credits=5) == first


async def test_people_see_it_with_redis_cli(house: House) -> None:
    running = [await house.acquire() for _ in range(3)]
    waiting = [await house.acquire() for _ in range(2)]
    assert set(house.people.zrange(house.key("slots"), 0, -1)) == {job.job_id for job in running}
    assert house.people.lrange(house.key("queue"), 0, -1) == [job.job_id for job in waiting]
