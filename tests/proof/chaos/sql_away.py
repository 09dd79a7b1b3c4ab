"""SQL goes away under load, in four ways. Holders that keep calling must have their slots when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Client
from tests.proof.chaos.scene import Scene
from tests.support.servers import locked_file

POOL = "still"
CONFIG = "[pools.still]\nlimit = 3\nclaim_seconds = 2\n"
LONG_S = 300.0
SHORT_S = 4.0
NEWCOMERS = 8
WRITES = ("acquire", "claim", "renew", "release", "cancel")
Absence = Callable[[Scene], contextlib.AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def crashed(scene: Scene) -> AsyncIterator[None]:
    assert scene.postgres is not None
    await asyncio.to_thread(scene.postgres.crash)
    yield
    await asyncio.to_thread(scene.postgres.start)


@contextlib.asynccontextmanager
async def frozen(scene: Scene) -> AsyncIterator[None]:
    assert scene.postgres is not None
    scene.postgres.freeze()
    yield
    scene.postgres.thaw()


@contextlib.asynccontextmanager
async def read_only(scene: Scene) -> AsyncIterator[None]:
    assert scene.postgres is not None
    await asyncio.to_thread(scene.postgres.takes, False)
    yield
    await asyncio.to_thread(scene.postgres.takes, True)


@contextlib.asynccontextmanager
async def locked(scene: Scene) -> AsyncIterator[None]:
    with contextlib.ExitStack() as closing:
        await asyncio.to_thread(closing.enter_context, locked_file(scene.servers[0].sql_url))
        yield


async def sql_away(scene: Scene) -> None:
    """Postgres is stopped at once (`-m immediate`) and started later; a SQLite file is held by `begin exclusive`."""
    await _away(scene, locked if scene.postgres is None else crashed)


async def sql_hangs(scene: Scene) -> None:
    """All processes of Postgres stand still (SIGSTOP), with every connection open, and go on later."""
    await _away(scene, frozen)


async def sql_refuses(scene: Scene) -> None:
    """Postgres answers, lets itself be read, and takes nothing."""
    await _away(scene, read_only)


async def _away(scene: Scene, absence: Absence) -> None:
    client = scene.client("holder")
    for _ in range(scene.options.times):
        over = asyncio.Event()
        told = [await _hold(client, LONG_S), await _hold(client, SHORT_S), await _hold(client, SHORT_S)]
        async with asyncio.TaskGroup() as group:
            for one in told[1:]:
                group.create_task(_keep(client, one, over))
            await scene.pause()
            for number in range(NEWCOMERS):  # some calls are on their way into SQL at this moment
                group.create_task(scene.client(f"n{scene.faults}x{number}").one_job())
            await asyncio.sleep(scene.dice.uniform(0, 0.03))
            async with absence(scene):
                since = scene.happens()
                await asyncio.sleep(scene.options.away)
                until = time.time()
            back = time.time()
            await scene.served_again(back)
            _look_back(scene, since, until)
            await asyncio.sleep(1)
            over.set()
        await _give_back(client, told[0])


async def _hold(client: Client, lease_s: float) -> Told:
    answer = await client.acquire(POOL, lease_seconds=lease_s)
    assert answer.told.status == "running", answer
    return answer.told


async def _keep(client: Client, told: Told, over: asyncio.Event) -> None:
    """A holder that is alive: it renews each second, and asks again when it is sent away."""
    while not over.is_set():
        answer = await client.act(told, "renew", lease_id=told.lease_id)
        client.account.expect(answer.code == 200, f"{told.job_id}: renew {answer.code}, and its holder was alive")
        await asyncio.sleep(1)
    await _give_back(client, told)


async def _give_back(client: Client, told: Told) -> None:
    answer = await client.release(told, told.lease_id, "completed")
    client.account.expect(answer.code == 200, f"{told.job_id}: release {answer.code}, and its holder was alive")


def _look_back(scene: Scene, since: float, until: float) -> None:
    meanwhile = [call for call in scene.account.calls if since < call.sent and call.received < until]
    refused = [call for call in meanwhile if call.code == 503]
    taken = [call for call in meanwhile if call.verb in WRITES and 200 <= call.code < 300]
    scene.account.expect(bool(refused), "no call was answered 503 while SQL was away")
    scene.account.expect(not taken, f"{len(taken)} calls were answered 2xx while SQL was away: {taken[:1]}")
    slowest = max((call.received - call.sent - call.wait_s for call in refused), default=0)
    scene.said.append(f"away for {until - since:.0f} s: {len(refused)} calls answered 503, the slowest after {slowest:.1f} s")
