"""The faults: one function each. Its docstring says what happens; the checks are the account's, and what it names itself."""

from __future__ import annotations

import asyncio
import shutil
import time

from tests.proof.chaos.scene import Scene

BACK_S = 5.0
"""Service is back so long after Redis has lost what it knew."""
OTHERS_WAIT_S = 10.0
"""Longest wait (s) for a server that stands still."""


async def none(scene: Scene) -> None:
    """Nothing at all: only many clients."""


async def kill(scene: Scene) -> None:
    """Every 2 s one of the servers is killed by kill -9 and started again."""
    while scene.wanted() or scene.faults < scene.options.times:
        await asyncio.sleep(2)
        server = scene.dice.choice(scene.servers)
        since = scene.happens()
        server.kill()
        await scene.served_again(since)
        await asyncio.to_thread(server.start)


async def kill_only(scene: Scene) -> None:
    """The only server is killed by kill -9, an embedded Redis with it; it is started again at once."""
    (server,) = scene.servers
    for _ in range(scene.options.times):
        await scene.pause()
        since = scene.happens(loses=scene.redis is None)
        server.kill()
        await asyncio.to_thread(server.start)
        await scene.served_again(since)


async def flush(scene: Scene) -> None:
    """FLUSHALL in the middle of everything."""
    for _ in range(scene.options.times):
        await scene.pause()
        await scene.by_hand("FLUSHALL")
        await scene.all_serve_again(scene.happens(loses=True), BACK_S)


async def empty(scene: Scene) -> None:
    """Redis is killed, and an empty one starts at its address."""
    assert scene.redis is not None
    for _ in range(scene.options.times):
        await scene.pause()
        since = scene.happens(loses=True)
        await asyncio.to_thread(scene.redis.kill)
        await asyncio.to_thread(scene.redis.start)
        await scene.all_serve_again(since, BACK_S)


async def snapshot(scene: Scene) -> None:
    """Redis saves, works on, is killed, and starts with what it saved: an old state under the epoch of today."""
    redis = scene.redis
    assert redis is not None
    old = redis.folder / "old.rdb"
    for _ in range(scene.options.times):
        await scene.by_hand("SAVE")
        shutil.copy(redis.snapshot, old)
        await scene.pause()
        await asyncio.sleep(scene.dice.uniform(0.5, 2))
        since = scene.happens(loses=True)
        await asyncio.to_thread(redis.kill)
        shutil.copy(old, redis.snapshot)
        await asyncio.to_thread(redis.start)
        await scene.all_serve_again(since, BACK_S)
    redis.snapshot.unlink()


async def failover(scene: Scene) -> None:
    """A replica falls behind, the primary is killed, the replica is promoted, and the one address leads to it."""
    pair = scene.pair
    assert pair is not None
    for number in range(scene.options.times):
        await scene.pause()
        pair.leash.hold_back()
        await asyncio.sleep(scene.dice.uniform(0.3, 2))
        since = scene.happens(loses=True)
        scene.redis = await pair.fail_over()
        await scene.all_serve_again(since, BACK_S)
        if number + 1 < scene.options.times:
            await pair.follow(await scene.another_redis())


async def stop(scene: Scene) -> None:
    """A server stands still (SIGSTOP) for longer than its leases, then goes on. The others wait for nothing of its."""
    longest = 0.0
    for _ in range(scene.options.times):
        await scene.pause()
        number = scene.dice.randrange(len(scene.servers))
        since = scene.happens()
        scene.servers[number].freeze()
        await scene.served_again(since)
        await asyncio.sleep(scene.options.away)
        on = time.time()
        scene.servers[number].thaw()
        await scene.served_again(on, number)
        meanwhile = [
            call for call in scene.account.calls if call.server != number and call.received > since and call.sent < on
        ]
        longest = max(longest, *(call.received - call.sent - call.wait_s for call in meanwhile))
    scene.account.expect(longest <= OTHERS_WAIT_S, f"a call to the other server took {longest:.1f} s")
    scene.said.append(f"longest call to the other server: {longest:.2f} s beyond what it asked to wait")


async def storm(scene: Scene) -> None:
    """Two at once: Redis flushed or emptied, and meanwhile a server killed or stood still, or Postgres stopped at once."""

    async def soon() -> None:
        await asyncio.sleep(scene.dice.uniform(0, 0.5))

    async def flushed() -> None:
        await soon()
        await scene.by_hand("FLUSHALL")

    async def emptied() -> None:
        assert scene.redis is not None
        await asyncio.to_thread(scene.redis.kill)
        await soon()
        await asyncio.to_thread(scene.redis.start)

    async def killed() -> None:
        server = scene.dice.choice(scene.servers)
        await soon()
        server.kill()
        await asyncio.to_thread(server.start_until_it_does)

    async def stood_still() -> None:
        server = scene.dice.choice(scene.servers)
        await soon()
        server.freeze()
        await asyncio.sleep(scene.dice.uniform(0.5, 6))
        server.thaw()

    async def without_sql() -> None:
        assert scene.postgres is not None
        await soon()
        await asyncio.to_thread(scene.postgres.crash)
        await soon()
        await asyncio.to_thread(scene.postgres.start)

    for _ in range(scene.options.times):
        await scene.pause()
        scene.happens(loses=True)
        scene.spare += 1  # a server that dies during the load of a pool leaves an unused epoch
        pair = (scene.dice.choice((flushed, emptied)), scene.dice.choice((killed, stood_still, without_sql)))
        await asyncio.gather(*(one() for one in pair))
        over = time.time()
        await asyncio.gather(*(scene.served_again(over, number) for number in range(len(scene.servers))))
