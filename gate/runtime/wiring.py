"""Puts the rooms together: two stores, the recorder between them, the gatekeeper in front. Used by every front door."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from gate.coordination.jobs import JobCoordinator
from gate.coordination.metered import MeteredPoolRegistry, MeteredSemaphore
from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pools import PoolCoordinator
from gate.coordination.pricing import JobPricing
from gate.coordination.queries import JobQueries
from gate.coordination.scrape import Scraper
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.coordination.waiters import Waiters
from gate.http.auth.key_cache import KeyCache
from gate.ledger import BillingHooks, Database, Deliveries, Ledger, LedgerQueries, Pool, PoolSettings
from gate.ledger.billing_hooks import refuse_sqlite
from gate.model.tool import Tools
from gate.slots import Semaphore
from gate.slots.connection import RedisConnection, trust
from gate.workers.reconciler import Reconciler
from gate.workers.refund_payer import RefundPayer
from gate.workers.ticker import Ticker
from gate.workers.waiter_poll import WaiterPoll

log = structlog.get_logger("gate.opening")


@dataclass(frozen=True, slots=True)
class RunningGate:
    """What stands once the gate is open. `redis` is what answered, such as `Valkey 9.1.2`."""

    gatekeeper: JobCoordinator
    semaphore: Semaphore
    ledger: Ledger
    known: PoolRegistry
    recorder: OutboxRecorder
    sweep: Reconciler
    waiters: Waiters
    keyring: KeyCache
    redis: str
    pools: list[Pool]


@dataclass(frozen=True, slots=True)
class ExternalServices:
    """Whom gate calls: tools, and the owner's functions. `server_id` is this server's for as long as it lives and when it
    comes back, and no other's.
    """

    tools: Tools = field(default_factory=Tools)
    job_sql: str | None = None
    refund_sql: str | None = None
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def owner(self, sql_url: str) -> BillingHooks | None:
        """Raises CannotStart."""
        if self.job_sql is None and self.refund_sql is None:
            return None
        refuse_sqlite(sql_url)  # guard: owner-functions-need-postgres
        return BillingHooks(sql_url, self.job_sql, self.refund_sql)


@contextlib.asynccontextmanager
async def open_gate(
    redis_url: str,
    sql_url: str,
    configured: dict[str, PoolSettings] | None = None,
    made_live: PoolSettings | None = None,
    admin_key: str | None = None,
    outside: ExternalServices | None = None,
) -> AsyncIterator[RunningGate]:
    """The gate on these stores; the schema has to be there.

    With `configured` this is a server: it makes or changes those pools, keeps the tick and listens for news; `made_live` are
    the settings of a pool that somebody makes while it runs. Without, it is a visitor for a call or two. `outside` are those
    whom gate calls. Raises CannotStart, StoreDown.
    """
    outside = outside or ExternalServices()
    serving = configured is not None
    link = RedisConnection(redis_url)
    database = Database(sql_url)
    ledger, reading = Ledger(database), LedgerQueries(database)
    semaphore, waiters = MeteredSemaphore(link), Waiters()
    news = Notifier(waiters, link)
    pools = MeteredPoolRegistry(semaphore, ledger, reading)
    recorder = OutboxRecorder(ledger, pools, news)
    sweep = Reconciler(ledger, reading, pools, recorder, news)
    figures = Scraper(semaphore, pools, database)
    view = JobQueries(semaphore, reading, pools, recorder, waiters, figures)
    owner = outside.owner(sql_url)
    poolkeeper = PoolCoordinator(ledger, pools, recorder, news, view, made_live)
    pricing = JobPricing(outside.tools, reading, owner)
    unread = UnreadCallbackDesk(pools, news, reading.unread)
    gatekeeper = JobCoordinator(ledger, pools, recorder, news, view, pricing, poolkeeper, unread)
    keyring = KeyCache(reading, admin_key)
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(database.close)
        if owner is not None:
            closing.callback(owner.close)
        closing.push_async_callback(link.aclose)
        found = await trust(link, redis_url)
        link.pin(await link.meet())
        changed = await ledger.configure(configured) if configured is not None else []
        await pools.load()
        for row in await reading.pools() if serving else []:
            await pools.epoch(row.name)
            if row.name in changed:  # Redis may hold the settings of before
                await pools.pool(row.name).configure(row.in_redis())
        closing.push_async_callback(news.settle)
        closing.push_async_callback(recorder.settle)
        if serving:
            await keyring.read()
            await figures.tally.begin()
            tick = Ticker(pools, recorder)
            tasks = {
                asyncio.create_task(_keep(one))
                for one in (sweep.keep, WaiterPoll(reading, waiters).keep, news.listen, keyring.keep)
            }

            def keep_ticking(pool: str) -> None:
                tasks.add(asyncio.create_task(_keep(functools.partial(tick.keep, pool))))

            for pool in pools.names:
                keep_ticking(pool)
            pools.on_known = keep_ticking
            closing.push_async_callback(_stop, tasks)
            if owner is not None and owner.pays:
                settle = RefundPayer(owner)
                news.on_change.append(settle.kick)
                tasks.add(asyncio.create_task(_keep(settle.keep)))
            if any(outside.tools):
                from gate.workers.delivery import DeliveryWorker
                from gate.workers.webhook_client import WebhookClient

                deliver = DeliveryWorker(
                    Deliveries(database, outside.server_id), outside.tools, gatekeeper, caller := WebhookClient()
                )
                closing.push_async_callback(caller.aclose)
                news.on_change.append(deliver.kick)
                delivering = asyncio.create_task(_keep(deliver.keep))
                closing.push_async_callback(deliver.settle)
                closing.push_async_callback(_stop, {delivering})
        yield RunningGate(
            gatekeeper, semaphore, ledger, pools, recorder, sweep, waiters, keyring, found, await reading.pools()
        )


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
