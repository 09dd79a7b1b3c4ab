"""Success, failure, cancel and expiry of one job, all in the same few milliseconds: one of them is what happened."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.proof.chaos import lanes
from tests.proof.chaos.account import ENDED, Told, moment
from tests.proof.chaos.clients import Answer, Client
from tests.proof.chaos.scene import Scene

POOLS = lanes.named("ends", 12)
LEASE_S = 1.0
CONFIG = lanes.config(POOLS, lease_seconds=LEASE_S)
BEFORE_S, AFTER_S = 0.03, 0.01
"""So long before or after the deadline the first of the three calls is sent; to be answered takes half as long."""
TOGETHER_S = 0.004
"""The three of a job are sent within it."""
ENOUGH = 1000
"""Of so many races each of the four wins some."""


async def ends(scene: Scene) -> None:
    """`times` jobs: at its deadline each is released as completed and as failed, and cancelled, at any of the servers."""

    async def lane(client: Client, pool: str) -> None:
        await asyncio.sleep(client.dice.uniform(0, LEASE_S))  # else all deadlines of the run come at once
        while scene.faults < scene.options.times:
            told = (await client.acquire(pool, lease_seconds=LEASE_S)).told
            start = told.lives_until() + client.dice.uniform(-BEFORE_S, AFTER_S)
            if time.time() < start:
                scene.happens()
                await _race(client, told, start)
                won[told.outcome] += 1
            else:  # it was answered too late, or told to wait for an expiry that is not on record yet
                await client.cancel(told)

    won: Counter[str | None] = Counter()
    async with asyncio.TaskGroup() as group:
        for number in range(lanes.LIMIT):
            for pool in POOLS:
                group.create_task(lane(scene.client(f"{pool}x{number}"), pool))
    lanes.expect_room(scene.account, POOLS)
    scene.said.append("won by " + ", ".join(f"{outcome}: {won[outcome]:,}" for outcome in ENDED))
    lost = [outcome for outcome in ENDED if not won[outcome]]
    scene.account.expect(not lost or scene.options.times < ENOUGH, f"no race was won by {' or '.join(lost)}")


async def _race(client: Client, told: Told, start: float) -> None:
    account, dice, lease_id, deadline = client.account, client.dice, told.lease_id, told.lives_until()
    calls = {
        "completed": lambda: client.release(told, lease_id, "completed"),
        "failed": lambda: client.release(told, lease_id, "failed"),
        "cancelled": lambda: client.cancel(told),
    }
    wanted = dice.sample(sorted(calls), len(calls))
    answers = await asyncio.gather(*(lanes.at(start + dice.uniform(0, TOGETHER_S), calls[outcome]) for outcome in wanted))
    for outcome, answer in zip(wanted, answers, strict=True):
        account.expect(_clear(answer, outcome), f"{told.job_id}: {outcome} was answered {answer.code} {answer.body}")
        lanes.expect_refund(account, answer)
    last = await client.look(told)
    lanes.expect_refund(account, last)
    job = last.body
    if told.outcome == "expired":
        early = deadline - moment(job["ended_at"])
        account.expect(early <= 0, f"{told.job_id}: expired {early:.3f} s before its deadline")
        account.expect(job["late_outcome"] in ("completed", "failed"), f"{told.job_id}: no late outcome was kept")
    else:
        # A success after a cancel or a failure is kept too; the end stands.
        kept = (None, "completed") if told.outcome in ("failed", "cancelled") else (None,)
        account.expect(job["late_outcome"] in kept, f"{told.job_id}: {told.outcome}, and late: {job['late_outcome']}")


def _clear(answer: Answer, wanted: str) -> bool:
    """200 says that it is what was wanted; 409 and 410, what it is instead."""
    status, code = (answer.job or {}).get("status"), answer.body.get("code")
    match answer.code:
        case 200:
            return status == wanted
        case 409:
            return code == "already_ended" and status in ENDED and status != wanted
        case 410:
            return code == "lease_lost" and status == "expired" and wanted != "cancelled"
    return False
