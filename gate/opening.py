"""Puts the rooms together: two stores, the recorder between them, the gatekeeper in front. Used by every front door."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog

from gate.gatekeeper import Gatekeeper
from gate.keeper.news import News
from gate.keeper.pools import Pools
from gate.keeper.recorder import Recorder
from gate.keeper.sweep import Sweep
from gate.keeper.tick import Tick
from gate.keeper.wake import Wake
from gate.ledger import Database, Ledger, Pool, PoolSettings, Reading
from gate.slots import Semaphore
from gate.slots.connection import connect, trust
from gate.waiters import Waiters

log = structlog.get_logger("gate.opening")


@dataclass(frozen=True, slots=True)
class Open:
    """What stands once the gate is open. `redis` is what answered, such as `Valkey 9.1.2`."""

    gatekeeper: Gatekeeper
    semaphore: Semaphore
    ledger: Ledger
    known: Pools
    recorder: Recorder
    sweep: Sweep
    waiters: Waiters
    redis: str
    pools: list[Pool]


@contextlib.asynccontextmanager
async def open_gate(redis_url: str, sql_url: str, configured: dict[str, PoolSettings] | None = None) -> AsyncIterator[Open]:
    """The gate on these stores; the schema has to be there.

    With `configured` this is a server: it makes or changes those pools, keeps the tick and listens for news. Without, it is
    a visitor for a call or two. Raises CannotStart, StoreDown.
    """
    serving = configured is not None
    client, listener = connect(redis_url), connect(redis_url, patient=True)
    database = Database(sql_url)
    ledger, reading = Ledger(database), Reading(database)
    semaphore, waiters = Semaphore(client), Waiters()
    news = News(waiters, client, listener)
    pools = Pools(semaphore, ledger, reading)
    recorder = Recorder(semaphore, ledger, pools, news)
    sweep = Sweep(semaphore, ledger, reading, pools, recorder, news)
    gatekeeper = Gatekeeper(semaphore, ledger, reading, pools, recorder, news, waiters)
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(database.close)
        closing.push_async_callback(client.aclose)
        closing.push_async_callback(listener.aclose)
        found = await trust(client, redis_url)
        changed = await ledger.configure(configured) if configured is not None else []
        await pools.load()
        for pool in changed:  # Redis may hold the settings of before
            await pools.rebuild(pool, await pools.epoch(pool))
        closing.push_async_callback(news.settle)
        closing.push_async_callback(recorder.settle)
        if serving:
            tick = Tick(semaphore, pools, recorder)
            kept = [
                *(functools.partial(tick.keep, pool) for pool in pools.names),
                sweep.keep,
                Wake(reading, waiters).keep,
                news.listen,
            ]
            closing.push_async_callback(_stop, {asyncio.create_task(_keep(one)) for one in kept})
        yield Open(gatekeeper, semaphore, ledger, pools, recorder, sweep, waiters, found, await reading.pools())


async def _keep(keeper: Callable[[], Awaitable[None]]) -> None:
    """A keeper that falls over a fault of ours is started again: the others need it."""
    while True:
        try:
            await keeper()
        except Exception:
            log.exception("a keeper fell and is started again")
            await asyncio.sleep(1)


async def _stop(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels until they are gone: redis-py looks at a connection under a timeout of zero, and that swallows a cancellation
    which arrives at the same moment.
    """
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.1)
