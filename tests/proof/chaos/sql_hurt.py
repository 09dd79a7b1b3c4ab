"""SQL answers and is in the way: another process locks a pool's row, or SQL refuses a row of a batch."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Client
from tests.proof.chaos.faults import BACK_S
from tests.proof.chaos.scene import Scene

POOL = "still"
CONFIG = "[pools.still]\nlimit = 3\nclaim_seconds = 60\n"
LONG_S = 300.0
OTHER_POOL_S = 5.0
"""Longest wait (s) in another pool: one lock timeout for each batch."""


async def row_locked(scene: Scene) -> None:
    """Another process locks the row of the busy pool (`select … for update`). Its callers are answered 503; another pool goes on."""
    client = scene.client("elsewhere")
    slowest, served = 0.0, 0
    for _ in range(scene.options.times):
        await scene.pause()
        since = scene.happens()
        with contextlib.ExitStack() as closing:
            await asyncio.to_thread(closing.enter_context, scene.books.held("default"))
            while time.time() < since + scene.options.away:
                told = (await client.acquire(POOL)).told
                await client.release(told, told.lease_id, "failed")
                served += 1
                await asyncio.sleep(0.2)
            until = time.time()
            await asyncio.to_thread(closing.close)
        await scene.all_serve_again(time.time(), BACK_S)
        meanwhile = [call for call in scene.account.calls if since < call.received < until]
        slowest = max(
            slowest, *(call.received - call.sent for call in meanwhile if call.verb == "release" and call.code == 200)
        )
        refused = [call for call in meanwhile if call.code == 503]
        scene.account.expect(bool(refused), "no call was answered 503 while the row was held")
    scene.account.expect(slowest <= OTHER_POOL_S, f"another pool waited {slowest:.1f} s for the row that was held")
    scene.said.append(f"another pool: {served} jobs meanwhile, the slowest call {slowest:.1f} s")


async def bad_row(scene: Scene) -> None:
    """A trigger refuses some rows: jobs that come, whose caller gets 500 and no slot, and a job that is granted, whose grant
    waits in the outbox while those of all others are written.
    """
    client, sticky = scene.client("others"), scene.client("stuck")
    scene.excused = "refused by a trigger"
    bad = 0
    for number in range(scene.options.times):
        scene.happens()
        held = [(await client.acquire(POOL, lease_seconds=LONG_S)).told for _ in range(3)]
        with scene.books.refuses("insert", "bad-%"):
            replies = await asyncio.gather(*(_bad(scene, f"bad-{number}-{one}") for one in range(20)))
            bad += sum(replies)
            await scene.pause()
        stuck = (await sticky.acquire(POOL)).told
        others = [(await client.acquire(POOL)).told for _ in range(2)]
        with scene.books.refuses("update", "stuck-%"):
            for told in held:
                await client.release(told, told.lease_id, "failed")
            for told in others:
                await _granted(scene, client, told)
            await client.look(stuck)
            scene.account.expect(stuck.status == "queued", f"{stuck.job_id}: {stuck.status}, and SQL refuses it")
            await scene.pause()
        await _granted(scene, client, stuck)
        for told in (*others, stuck):
            await client.cancel(told)
    left = scene.books.rows("select job_id from @jobs where job_id like 'bad-%'")
    scene.account.expect(not left, f"{len(left)} jobs that SQL refused are there")
    scene.account.expect(bad == 20 * scene.options.times, f"{bad} of {20 * scene.options.times} were answered 500")
    scene.said.append(f"{bad} rows refused among the others' batches; a grant that SQL refused was written when it let it")


async def _bad(scene: Scene, job_id: str) -> bool:
    server = scene.dice.choice(scene.servers)
    reply = await scene.http.post(
        f"{server.address}/v1/pools/{POOL}/acquire", json={"job_id": job_id, "credits": 5}, timeout=15
    )
    return reply.status_code == 500


async def _granted(scene: Scene, client: Client, told: Told) -> None:
    await client.look(told, 5)
    scene.account.expect(told.status == "granted", f"{told.job_id}: {told.status}, and a slot is free")
