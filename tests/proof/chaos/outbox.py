"""The outbox is trimmed, deleted or poisoned at the moment in which it holds what SQL has not heard of."""

from __future__ import annotations

import asyncio
import time

from tests.proof.chaos.account import Told
from tests.proof.chaos.by_hand import LONG_S, LOST_S, MENDED_S, TOO_OLD_S, key
from tests.proof.chaos.clients import Client
from tests.proof.chaos.scene import Scene
from tests.support.servers import RedisServer, wait_for
from tests.support.wait import until

HOWS = ("XTRIM", "DEL", "XADD")
AT_ONCE = 6
CONFIG = "".join(f"[pools.still-{number}]\nlimit = 2\nclaim_seconds = 60\n" for number in range(AT_ONCE))
POISON = (
    ("kind", "nonsense"),
    ("kind", "granted", "job", "j", "at", "now", "ticket", "x", "fence", "-"),
    ("\xff\xfe", "\xff"),
    ("kind", "expired", "job", "never-was", "at", "1", "ticket", "1", "fence", "1"),
    ("kind", "granted", "job", "never-was", "at", "1", "ticket", "1", "fence", "1", "lease_id", "x", "due", "1", "hard", "1"),
)
"""Entries that gate never wrote: unreadable, of no text, of jobs that never were."""


async def outbox(scene: Scene) -> None:
    """`--times` rounds, a few at once, each in a pool that stands still: a lease runs out while SQL holds its breath, and the
    expiry and the grant that followed are trimmed away, deleted with the stream, or stand among entries that gate never wrote.
    """
    client = scene.client("patient")
    slowest = 0.0
    for first in range(0, scene.options.times, AT_ONCE):
        await scene.pause()
        rounds = range(first, min(first + AT_ONCE, scene.options.times))
        took = await asyncio.gather(*(_round(scene, client, number) for number in rounds))
        slowest = max(slowest, *took)
    scene.said.append(f"slowest repair: {slowest:.1f} s of {MENDED_S:g} s")


async def _round(scene: Scene, client: Client, number: int) -> float:
    pool, how = f"still-{number % AT_ONCE}", HOWS[number % len(HOWS)]
    assert scene.redis is not None
    holder = (await client.acquire(pool, lease_seconds=LONG_S)).told
    lost = (await client.acquire(pool, lease_seconds=LOST_S)).told
    waiter = (await client.acquire(pool)).told
    async with scene.alone_in_sql:
        await asyncio.sleep(max(lost.lives_until() - time.time() - 0.5, 0))
        scene.happens()
        await asyncio.to_thread(_hurt, scene, scene.redis, pool, how)
    began = time.time()
    try:
        await until(lambda: _told(client, lost, waiter), f"{pool} after {how} is as it was promised", MENDED_S)
    except AssertionError as error:
        scene.account.wrong.append(f"{error}: {lost.job_id} is {lost.status}, {waiter.job_id} is {waiter.status}")
    took = time.time() - began
    for told in (waiter, holder):
        await client.cancel(told)
    return took


def _hurt(scene: Scene, redis: RedisServer, pool: str, how: str) -> None:
    name = key(pool, "outbox")
    with scene.books.held(pool):
        wait_for(lambda: int(redis.cli("XLEN", name)) >= 2, "an expiry and a grant stand in the outbox")
        if how == "XADD":
            for entry in POISON:
                redis.cli("XADD", name, "*", *entry)
        else:
            redis.cli(how, name, *(("MAXLEN", "0") if how == "XTRIM" else ()))
        time.sleep(TOO_OLD_S)  # who has read them already finds them too old when SQL answers, and looks again


async def _told(client: Client, lost: Told, waiter: Told) -> bool:
    await client.look(waiter)
    if waiter.status != "granted":  # until then no caller may be told that the other is over
        return False
    await client.look(lost)
    return lost.status == "expired"
