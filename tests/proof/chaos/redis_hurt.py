"""Redis is hurt and stays itself: its embedded process dies, its replies are lost, it has no room left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.proof.chaos.faults import BACK_S
from tests.proof.chaos.scene import Scene
from tests.support.wait import until

EVERY = 10
POOL = "still"
CONFIG = "[pools.still]\nlimit = 3\nclaim_seconds = 2\n"
LONG_S = 300.0


async def kill_redis(scene: Scene) -> None:
    """The embedded Redis is killed by kill -9: gate starts another and loads it."""
    (server,) = scene.servers
    for _ in range(scene.options.times):
        await scene.pause()
        pid = _listener(int(server.redis_url.rpartition(":")[2].partition("/")[0]))
        since = scene.happens(loses=True)
        os.kill(pid, signal.SIGKILL)
        await scene.served_again(since, within_s=BACK_S)


def _listener(port: int) -> int:
    """The server whose command line names this port."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"valkey-server" in words[0] and str(port).encode() in b" ".join(words):
            return int(folder.name)
    raise AssertionError(f"nothing listens on port {port}")


async def replies(scene: Scene) -> None:
    """Redis does what it is told, and every tenth reply is lost on the way: the connection breaks in its place."""
    assert scene.pair is not None  # its front is the address that servers have
    front = scene.pair.front
    front.lose_every(EVERY)
    since = time.time()
    await until(lambda: not scene.wanted(), "enough was asked", 3600)
    front.lose_every(0)
    scene.faults += front.lost
    await scene.all_serve_again(time.time(), BACK_S)
    scene.said.append(f"{front.lost} of {front.passed + front.lost} replies lost in {time.time() - since:.0f} s")


async def memory(scene: Scene) -> None:
    """Redis is at its maxmemory (noeviction): new work is answered 503; holders renew and give back."""
    client = scene.client("holder")
    for _ in range(scene.options.times):
        held = [(await client.acquire(POOL, lease_seconds=LONG_S)).told for _ in range(3)]
        waits = (await client.acquire(POOL, lease_seconds=LONG_S)).told
        await scene.pause()
        since = scene.happens()
        await scene.by_hand("CONFIG", "SET", "maxmemory", "1000")
        full = time.time()
        for told in held:
            renewed = await client.act(told, "renew", lease_id=told.lease_id)
            scene.account.expect(renewed.code == 200, f"{told.job_id}: renew {renewed.code} while Redis was full")
        for told in held:
            ended = await client.release(told, told.lease_id, "failed")
            scene.account.expect(ended.code == 200, f"{told.job_id}: release {ended.code} while Redis was full")
        await client.look(waits, 5)
        scene.account.expect(waits.status == "granted", f"{waits.job_id}: {waits.status}, and slots are free")
        await asyncio.sleep(scene.options.away)
        until_then = time.time()
        await scene.by_hand("CONFIG", "SET", "maxmemory", "0")
        await scene.all_serve_again(time.time(), BACK_S)
        meanwhile = [call for call in scene.account.calls if full < call.sent and call.received < until_then]
        acquired = [call for call in meanwhile if call.verb == "acquire" and call.code in (200, 202)]
        refused = [call for call in meanwhile if call.verb == "acquire" and call.code == 503]
        old = [call for call in meanwhile if call.verb != "acquire"]
        sent_away = [call for call in old if call.code == 503]
        scene.account.expect(bool(refused), "no call was answered 503 while Redis was full")
        scene.account.expect(not acquired, f"{len(acquired)} new jobs while Redis was full")
        scene.account.expect(not sent_away, f"{len(sent_away)} calls about old work were answered 503: {sent_away[:1]}")
        scene.said.append(
            f"full for {until_then - since:.0f} s: {len(refused)} acquires answered 503, {len(old)} calls about old work served"
        )
