"""The next waiter is cancelled at the moment of its grant: the slot goes to the one after it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from typing import Any

from tests.proof.chaos import lanes
from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Client
from tests.proof.chaos.scene import Scene

POOLS = lanes.named("cancels", 10)
CONFIG = lanes.config(POOLS, lease_seconds=600, claim_seconds=60)
AROUND_S = 0.005
"""So far before or after the release the cancel is sent."""
SOON_S = 0.02
GRANTED_S = 10.0
"""Time (s) by which the next waiter has its slot; later it counts as lost."""


async def cancels(scene: Scene) -> None:
    """`times` waiters, three of a pool at once: released is who holds the slot, cancelled who is first in line."""
    rounds = iter(range(math.ceil(scene.options.times / lanes.LIMIT)))

    async def lane(pool: str) -> None:
        client = scene.client(pool)
        holders = [(await client.acquire(pool)).told for _ in range(lanes.LIMIT)]
        for _ in rounds:
            holders = await _round(scene, client, pool, holders)
            if len(holders) < lanes.LIMIT:
                break  # a slot is lost; it stands in the account
        await asyncio.gather(*(client.release(told, told.lease_id, "completed") for told in holders))

    async with asyncio.TaskGroup() as group:
        for pool in POOLS:
            group.create_task(lane(pool))
    lanes.expect_room(scene.account, POOLS)
    query = "select job_id, kind from @events where job_id is not null order by id"
    _look_back(scene, await asyncio.to_thread(scene.books.rows, query))


async def _round(scene: Scene, client: Client, pool: str, holders: list[Told]) -> list[Told]:
    """Three are released, those first in line cancelled. Who holds the slots then."""
    account = scene.account
    asked = await asyncio.gather(*(client.acquire(pool) for _ in range(2 * lanes.LIMIT)))
    line = sorted(asked, key=lambda answer: answer.body["position"] or 0)
    places = [answer.body["position"] for answer in line]
    account.expect(places == list(range(1, len(line) + 1)), f"{pool}: told the places {places}")
    heads, nexts = ([answer.told for answer in part] for part in (line[: lanes.LIMIT], line[lanes.LIMIT :]))
    start = time.time() + SOON_S
    calls = [lanes.at(start, lambda told=told: client.release(told, told.lease_id, "completed")) for told in holders]
    for told in heads:
        scene.happens()
        then = start + client.dice.uniform(-AROUND_S, AROUND_S)
        calls.append(lanes.at(then, lambda told=told: client.cancel(told)))
    for answer in await asyncio.gather(*calls):
        account.expect(answer.code == 200, f"{answer.told.job_id}: {answer.code} {answer.body}")
        lanes.expect_refund(account, answer)
    await asyncio.gather(*(_start(client, told) for told in nexts))
    return [told for told in nexts if told.status == "running"]


async def _start(client: Client, told: Told) -> None:
    answer = await client.look(told, GRANTED_S)
    client.account.expect(told.status == "granted", f"{told.job_id}: {told.status} {GRANTED_S:g} s after its turn came")
    if told.status == "granted":
        await client.act(told, "claim", lease_id=answer.body["lease"]["lease_id"])
    else:
        await client.cancel(told)


def _look_back(scene: Scene, events: list[Any]) -> None:
    """By the events: jobs cancelled as waiters, jobs cancelled after their grant, and no grant after either."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for row in events:
        kinds[row.job_id].append(row.kind)
    waited = granted = 0
    for told in scene.account.jobs.values():
        if told.pool not in POOLS or told.outcome != "cancelled":
            continue
        before, after = _around(kinds[told.job_id], "cancelled")
        taken = {"granted", "running"}
        scene.account.expect(not taken & set(after), f"{told.job_id}: {after} after it was cancelled")
        scene.account.expect("running" not in before, f"{told.job_id}: it ran, and no caller had claimed it")
        granted += "granted" in before
        waited += "granted" not in before
    scene.said.append(f"cancelled as a waiter: {waited:,}, as granted: {granted:,}")


def _around(kinds: list[str], kind: str) -> tuple[list[str], list[str]]:
    where = kinds.index(kind) if kind in kinds else len(kinds)
    return kinds[:where], kinds[where + 1 :]
