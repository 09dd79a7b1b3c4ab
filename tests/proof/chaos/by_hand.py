"""An operator edits Redis by hand. Each edit is repaired within 25 s, and named in a server's log."""

from __future__ import annotations

import asyncio
import re
import time

from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Client
from tests.proof.chaos.scene import Scene
from tests.support.servers import RedisServer, wait_for
from tests.support.wait import until

MENDED_S = 25.0
POOL = "still"
CONFIG = "[pools.still]\nlimit = 3\nclaim_seconds = 60\n"
LONG_S = 300.0
LOST_S = 3.0
TOO_OLD_S = 0.5


def key(pool: str, role: str) -> str:
    return f"gate:{{{pool}}}:{role}"


async def operator(scene: Scene) -> None:
    """ZREM, LREM, HDEL, XTRIM and DEL of the outbox in redis-cli: in a pool that stands still, where each edit must be mended
    and named, and in the one under load.
    """
    scene.account.edited = True
    client = scene.client("patient")
    slowest = 0.0
    for number in range(scene.options.times):
        await scene.pause()
        scene.happens()
        slowest = max(slowest, await _round(scene, client, ("XTRIM", "DEL")[number % 2]))
    scene.said.append(f"slowest repair: {slowest:.1f} s of {MENDED_S:g} s")


async def _round(scene: Scene, client: Client, how: str) -> float:
    assert scene.redis is not None
    one, other = [(await client.acquire(POOL, lease_seconds=LONG_S)).told for _ in range(2)]
    lost = (await client.acquire(POOL, lease_seconds=LOST_S)).told
    waiters = [(await client.acquire(POOL)).told for _ in range(5)]
    assert [told.status for told in (one, other, lost)] == ["running"] * 3, (one, other, lost)
    await asyncio.sleep(lost.lives_until() - time.time() - 0.5)
    await asyncio.to_thread(_empty_outbox, scene, scene.redis, how)
    began = time.time()
    unrecorded = await asyncio.to_thread(_unrecorded, scene, lost, waiters[0])
    await scene.by_hand("ZREM", key(POOL, "slots"), one.job_id)
    await scene.by_hand("HDEL", key(POOL, "jobs"), other.job_id)
    await scene.by_hand("LREM", key(POOL, "queue"), "0", waiters[2].job_id)
    await scene.by_hand("HDEL", key(POOL, "jobs"), waiters[3].job_id)
    pulled = await _under_load(scene)
    took = await _mended(scene, began, pulled)
    pulled = [job_id for job_id in pulled if "cancelled" not in scene.account.jobs[job_id].asked]  # then it needs no repair
    touched = [one.job_id, other.job_id, waiters[2].job_id, waiters[3].job_id, *unrecorded, *pulled]
    unnamed = [job_id for job_id in touched if not _named(scene, job_id)]
    scene.account.expect(not unnamed, f"{how}: no server's log names the repair of {', '.join(unnamed)}")
    await _clear(client, [one, other], [lost, *waiters])
    return took


def _empty_outbox(scene: Scene, redis: RedisServer, how: str) -> None:
    """SQL is slow at the moment in which a lease runs out: the expiry, and the grant to the next, are lost. (Who has read
    them already finds them too old when SQL answers, and looks again.)
    """
    outbox = key(POOL, "outbox")
    with scene.books.held(POOL):
        wait_for(lambda: int(redis.cli("XLEN", outbox)) >= 2, "an expiry and a grant stand in the outbox")
        redis.cli(how, outbox, *(("MAXLEN", "0") if how == "XTRIM" else ()))
        time.sleep(TOO_OLD_S)


def _unrecorded(scene: Scene, lost: Told, next_one: Told) -> list[str]:
    """Those of the two that SQL does not know. Only the sweep can find that."""
    before = {lost.job_id: "running", next_one.job_id: "queued"}
    rows = {row.job_id: row.status for row in scene.books.rows("select job_id, status from @jobs where pool = :p", p=POOL)}
    found = [job_id for job_id, status in before.items() if rows[job_id] == status]
    scene.account.expect(bool(found), "the outbox was emptied too late to lose anything")
    return found


async def _under_load(scene: Scene) -> list[str]:
    """The same where everything moves. Only the sweep can bring back a job that was pulled out of the queue."""
    slots = (await scene.by_hand("ZRANGE", key("default", "slots"), "0", "-1")).split()
    queue = (await scene.by_hand("LRANGE", key("default", "queue"), "0", "-1")).split()
    for edit, job_id in zip(("slots", "jobs"), slots, strict=False):
        await scene.by_hand("ZREM" if edit == "slots" else "HDEL", key("default", edit), job_id)
    for _ in range(5):
        await scene.by_hand("DEL", key("default", "outbox"))
    if not queue:
        return []
    pulled = queue[-1]
    taken = await scene.by_hand("LREM", key("default", "queue"), "0", pulled)
    return [pulled] if taken == "1" else []


async def _mended(scene: Scene, began: float, pulled: list[str]) -> float:
    """How long it took until Redis shows what SQL says."""

    async def as_sql_says() -> bool:
        query = "select job_id, status, pool from @jobs where ended_at is null order by ticket"
        slots = set((await scene.by_hand("ZRANGE", key(POOL, "slots"), "0", "-1")).split())
        queue = (await scene.by_hand("LRANGE", key(POOL, "queue"), "0", "-1")).split()
        known = set((await scene.by_hand("HKEYS", key(POOL, "jobs"))).split())
        moving = await scene.by_hand("HKEYS", key("default", "jobs"))
        live = await asyncio.to_thread(scene.books.rows, query)
        still = [row for row in live if row.pool == POOL]
        gone = {row.job_id for row in live} & set(pulled) - set(moving.split())
        return (
            not gone
            and slots == {row.job_id for row in still if row.status != "queued"}
            and queue == [row.job_id for row in still if row.status == "queued"]
            and known == {row.job_id for row in still}
        )

    try:
        await until(as_sql_says, "Redis shows what SQL says", MENDED_S - (time.time() - began))
    except AssertionError as error:
        scene.account.wrong.append(f"fault {scene.faults}: {error}")
    return time.time() - began


def _named(scene: Scene, job_id: str) -> bool:
    word = re.compile(rf"\b{re.escape(job_id)}\b")
    return any("reconciler.repaired" in line and word.search(line) for server in scene.servers for line in server.log())


async def _clear(client: Client, holders: list[Told], others: list[Told]) -> None:
    for told in holders:
        answer = await client.release(told, told.lease_id, "completed")
        client.account.expect(answer.code == 200, f"{told.job_id}: release {answer.code} after the repair")
    lost, *waiters = others
    await client.look(lost)
    client.account.expect(lost.outcome == "expired", f"{lost.job_id}: {lost.status}, and its lease is long over")
    for told in reversed(waiters):
        await client.cancel(told)
