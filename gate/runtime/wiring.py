"""The wiring of a gate: the two stores, the services on them, and the workers of a server. Every entry point uses it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gate.coordination.admission import Admission
from gate.coordination.capacity import CapacityCoordinator
from gate.coordination.early_end import EarlyEnd
from gate.coordination.hint_receiver import HintReceiver
from gate.coordination.jobs import JobCoordinator
from gate.coordination.ledger_mark import MarkFile
from gate.coordination.notifier import Notifier
from gate.coordination.outbox_recorder import OutboxRecorder
from gate.coordination.pool_owners import PoolOwners
from gate.coordination.pool_registry import PoolRegistry
from gate.coordination.pools import PoolCoordinator
from gate.coordination.pricing import JobPricing
from gate.coordination.queries import JobQueries
from gate.coordination.scrape import Scraper
from gate.coordination.services import Services
from gate.coordination.shutdown import Shutdown
from gate.coordination.store_health import StoreHealth
from gate.coordination.unread_callbacks import UnreadCallbackDesk
from gate.coordination.waiters import Waiters
from gate.http.auth.key_cache import KeyCache
from gate.ledger import (
    BillingHooks,
    Capacity,
    Database,
    Deliveries,
    Ledger,
    LedgerQueries,
    Pool,
    PoolSettings,
    Questions,
    Servers,
)
from gate.ledger.admin import backup
from gate.ledger.admin.migrate import sqlite_file
from gate.ledger.billing_hooks import refuse_sqlite
from gate.model.account import Accounts
from gate.model.errors import StoreDown
from gate.model.tool import Tools
from gate.slots import Semaphore
from gate.slots.connection import RedisConnection
from gate.slots.opening import reach
from gate.workers.idle_look import IdleLook
from gate.workers.orphan_tasks import warn_of_orphans
from gate.workers.reconciler import Reconciler
from gate.workers.refund_payer import RefundPayer
from gate.workers.server_beat import ServerBeat
from gate.workers.store_watch import StoreWatch
from gate.workers.supervisor import Supervisor
from gate.workers.ticker import Ticker
from gate.workers.waiter_poll import WaiterPoll

log = structlog.get_logger("gate.pools")

LOADS_AT_ONCE = 100
"""Pools that a start loads at once. They share commits and round trips; all of a thousand would outwait a caller of SQL."""
MARKS_AT_ONCE = 1_000
"""Pools whose ledger a start compares by one round trip and one query."""


@dataclass(frozen=True, slots=True)
class ExternalServices:
    """The external parties that gate calls.

    Attributes:
        tools: The tools, by table.
        accounts: The accounts at providers, by which gate asks about tasks.
        job_sql: The owner's query for a job's price; None when there is none.
        refund_sql: The owner's function that pays a refund; None when there is none.
        server_id: Name of this server, which a restart keeps. No other running server has it.
        replica_url: Address of a replica of the ledger that runs the queries of reports; None for none.
        mark_file: Path of the file that keeps the newest event of SQL; None to keep none.
    """

    tools: Tools = field(default_factory=Tools)
    job_sql: str | None = None
    refund_sql: str | None = None
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))
    mark_file: Path | None = None
    replica_url: str | None = None
    accounts: Accounts = field(default_factory=Accounts)

    def billing_hooks(self, sql_url: str) -> BillingHooks | None:
        """Connect to the owner's functions; None when there are none.

        Raises:
            CannotStart: The ledger is on SQLite, which has no functions, or the functions cannot be used.
        """
        if self.job_sql is None and self.refund_sql is None:
            return None
        refuse_sqlite(sql_url)  # guard: owner-functions-need-postgres
        return BillingHooks(sql_url, self.job_sql, self.refund_sql)


class Stores:
    """The two stores, and the objects that read and write them."""

    def __init__(self, link: RedisConnection, sql_url: str, replica_url: str | None) -> None:
        self.redis = link
        self.semaphore = Semaphore(self.redis)
        self.database = Database(sql_url, self.semaphore.expected_ms, replica_url)
        self.ledger, self.rows, self.capacity = Ledger(self.database), LedgerQueries(self.database), Capacity(self.database)


@dataclass(frozen=True, slots=True)
class RunningGate:
    """A gate that is open.

    Attributes:
        services: Its services.
        keys: The API keys.
        registry: The pools, as this server has loaded them.
        owners: Which of them are this server's own.
        recorder: The recorder of the outbox.
        reconciler: Compares the two stores.
        waiters: Calls that wait for a job.
        semaphore: The semaphores in Redis.
        ledger: The writing side of SQL.
        redis: Product and version of Redis, such as `Valkey 9.1.2`.
        pools: The pools at the start.
    """

    services: Services
    keys: KeyCache
    registry: PoolRegistry
    owners: PoolOwners
    recorder: OutboxRecorder
    reconciler: Reconciler
    waiters: Waiters
    semaphore: Semaphore
    ledger: Ledger
    redis: str
    pools: list[Pool]


class _Parts:
    """The objects that are made from the stores. To make them starts no task and calls no store."""

    def __init__(self, stores: Stores, outside: ExternalServices, hooks: BillingHooks | None, defaults: PoolSettings | None):
        ledger, rows = stores.ledger, stores.rows
        self.waiters = Waiters()
        self.notifier = Notifier(self.waiters, stores.redis)
        self.registry = PoolRegistry(stores.semaphore, ledger, rows, outside.accounts)
        self.recorder = OutboxRecorder(ledger, self.registry, self.notifier)
        self.owners = PoolOwners(outside.server_id)
        self.registry.owns = self.owners.owns
        self.reconciler = Reconciler(ledger, rows, self.registry, self.recorder, self.notifier, outside.accounts)
        common = (ledger, self.registry, self.recorder, self.notifier)
        self.capacity = CapacityCoordinator(stores.capacity, self.registry, outside.accounts)
        queries = JobQueries(stores.semaphore, rows, self.registry, self.recorder, self.waiters, self.capacity)
        health = StoreHealth(stores.semaphore, ledger, self.registry)
        pricing = JobPricing(outside.tools, rows, hooks)
        self.services = Services(
            admission=Admission(*common, queries, rows, pricing, outside.accounts),
            jobs=JobCoordinator(*common, queries, outside.accounts, self.capacity, outside.tools),
            pools=PoolCoordinator(*common, queries, rows, defaults),
            queries=queries,
            ledger=rows,
            early_end=EarlyEnd(ledger, self.registry, self.notifier, pricing),
            hints=HintReceiver(ledger, rows),
            unread=UnreadCallbackDesk(self.registry, self.notifier, rows.unread),
            scraper=Scraper(stores.semaphore, self.registry, stores.database, health),
            health=health,
            shutdown=Shutdown(),
        )

    def running(self, stores: Stores, keys: KeyCache, redis: str, pools: list[Pool]) -> RunningGate:
        """Return the open gate that these parts are of."""
        return RunningGate(
            services=self.services,
            keys=keys,
            registry=self.registry,
            owners=self.owners,
            recorder=self.recorder,
            reconciler=self.reconciler,
            waiters=self.waiters,
            semaphore=stores.semaphore,
            ledger=stores.ledger,
            redis=redis,
            pools=pools,
        )


@contextlib.asynccontextmanager
async def open_gate(
    redis_url: str,
    sql_url: str,
    configured: dict[str, PoolSettings] | None = None,
    made_live: PoolSettings | None = None,
    admin_key: str | None = None,
    outside: ExternalServices | None = None,
) -> AsyncIterator[RunningGate]:
    """Open a gate on these stores for the length of a block. The database must have the current schema.

    Args:
        redis_url: Address of Redis.
        sql_url: Address of the database.
        configured: Settings of pools by name. With them the gate is a server: it creates or changes these pools, and runs the
            workers. None for a process that makes a few calls, such as a command.
        made_live: Default settings of a pool that is created later; None when none is created.
        admin_key: A key with the role admin that is not in SQL; None for none.
        outside: The external parties that gate calls; None for none.

    Yields:
        The gate.

    Raises:
        CannotStart: A store cannot be used, or the owner's functions cannot.
        StoreDown: A store does not answer.
    """
    outside = outside or ExternalServices()
    hooks = outside.billing_hooks(sql_url)
    async with contextlib.AsyncExitStack() as closing:
        if hooks is not None:
            closing.callback(hooks.close)
        found = await reach(redis_url)
        closing.push_async_callback(found.link.aclose)
        stores = Stores(found.link, sql_url, outside.replica_url)
        closing.callback(stores.database.close)
        parts = _Parts(stores, outside, hooks, made_live)
        keys = KeyCache(stores.rows, admin_key)
        await stores.redis.adopt()
        if outside.mark_file is not None:
            parts.registry.age.keep_in(MarkFile(outside.mark_file))
        await _hold_a_copy(sql_url, parts.registry)
        await _load(stores, parts.registry, configured, outside.accounts)
        closing.push_async_callback(parts.registry.age.stop)
        closing.push_async_callback(parts.notifier.settle)
        closing.push_async_callback(parts.recorder.settle)
        if configured is not None:
            await warn_of_orphans(stores.rows, outside.accounts)
            await keys.read()
            await parts.services.scraper.tally.begin()
            is_alone = sqlite_file(sql_url) is not None
            beat = ServerBeat(Servers(stores.database, is_alone), parts.owners, outside.server_id, is_alone)
            await beat.begin()
            closing.push_async_callback(beat.end)
            _start_workers(stores, parts, keys, hooks, closing, beat)
            if any(outside.tools):
                _start_deliveries(stores, parts, outside, closing)
            if outside.accounts:
                _start_asking(stores, parts, outside, closing)
        yield parts.running(stores, keys, found.product, await stores.rows.pools())


async def _hold_a_copy(sql_url: str, registry: PoolRegistry) -> None:
    """Pause the pools of a restored backup before they are loaded. Redis cannot show its age when it is empty."""
    if backup.is_copy(sql_url):
        await registry.age.pause_restored()
        backup.use(sql_url)


async def _load(
    stores: Stores, registry: PoolRegistry, configured: dict[str, PoolSettings] | None, accounts: Accounts
) -> None:
    """Read the pools from SQL. A server also loads those into Redis that have jobs or whose configuration has changed.

    The others are loaded when a call needs them, or in the background (`IdleLook`). So the start takes as long as what has happened.
    """
    await registry.load()
    if configured is None:
        return
    # Before the first commit: the newest event would be newer than what was lost.
    await registry.age.compare_with_file()
    for first in range(0, len(registry.names), MARKS_AT_ONCE):
        await registry.look_at_ledger(registry.names[first : first + MARKS_AT_ONCE])
    changed = set(await stores.ledger.configure(configured, accounts))
    await registry.load_changes()
    rows = await stores.rows.named({*changed, *await stores.rows.busy()})
    alone = len(stores.redis.primaries) == 1
    wanted = [rows[name] for name in sorted(rows)]
    for first in range(0, len(wanted), LOADS_AT_ONCE):
        await asyncio.gather(*(_load_one(registry, row, changed, alone) for row in wanted[first : first + LOADS_AT_ONCE]))


async def _load_one(registry: PoolRegistry, row: Pool, changed: Collection[str], alone: bool) -> None:
    """Load a pool. In a cluster, one whose primary is away keeps no other pool from being served."""
    try:
        await registry.epoch(row.name)
    except StoreDown as error:
        if alone or await registry.reaches(row.name):
            raise
        log.warning("pool.not_loaded", pool=row.name, why=error.detail)  # the first call that its primary answers loads it
        return
    if row.name in changed:  # if Redis had the pool already, it still has the former settings
        await registry.pool(row.name).configure(row.in_redis())


def _start_workers(
    stores: Stores,
    parts: _Parts,
    keys: KeyCache,
    hooks: BillingHooks | None,
    closing: contextlib.AsyncExitStack,
    beat: ServerBeat,
) -> None:
    supervisor, health = Supervisor(), parts.services.health
    looks = IdleLook(parts.registry, stores.rows, parts.owners, parts.reconciler.suspects)
    parts.owners.on_change += [parts.registry.take_over, looks.look_at_all]
    closing.push_async_callback(health.settle)
    supervisor.start("store_watch", StoreWatch(health).keep)
    supervisor.start("ticker", Ticker(parts.registry, parts.recorder, health).keep)
    supervisor.start("idle_look", looks.keep)
    supervisor.start("server_beat", beat.keep)
    supervisor.start("reconciler", functools.partial(parts.reconciler.keep, health))
    supervisor.start("waiter_poll", WaiterPoll(stores.rows, parts.waiters).keep)
    supervisor.start("notifier", parts.notifier.listen)
    supervisor.start("key_cache", keys.keep)
    closing.push_async_callback(supervisor.stop)
    if hooks is not None and hooks.pays:
        payer = RefundPayer(hooks)
        parts.notifier.on_change.append(payer.kick)
        supervisor.start("refund_payer", payer.keep)


def _start_deliveries(stores: Stores, parts: _Parts, outside: ExternalServices, closing: contextlib.AsyncExitStack) -> None:
    """Start the calls to tools. They stop before the other workers, so that calls under way can still be recorded."""
    from gate.workers.delivery import DeliveryWorker
    from gate.workers.webhook_client import WebhookClient

    client, supervisor = WebhookClient(), Supervisor()
    deliveries = Deliveries(stores.database, outside.server_id)
    worker = DeliveryWorker(deliveries, outside.tools, parts.services.jobs, client)
    closing.push_async_callback(client.aclose)
    parts.notifier.on_change.append(worker.kick)
    supervisor.start("delivery", worker.keep)
    closing.push_async_callback(worker.settle)
    closing.push_async_callback(supervisor.stop)


def _start_asking(stores: Stores, parts: _Parts, outside: ExternalServices, closing: contextlib.AsyncExitStack) -> None:
    """Start the questions to providers. They stop before the other workers, so that answers can still be recorded."""
    from gate.providers import PAGES
    from gate.workers.asking import AskingWorker
    from gate.workers.capacity import CapacityWorker
    from gate.workers.provider_client import ProviderClient

    client, supervisor = ProviderClient(), Supervisor()
    questions = Questions(stores.database, outside.server_id)
    worker = AskingWorker(questions, outside.accounts, PAGES, parts.services.jobs, parts.registry, client)
    worker.on_refused_key, worker.on_accepted_key = parts.capacity.counted, parts.capacity.opened
    looks = CapacityWorker(parts.capacity, PAGES, client)
    closing.push_async_callback(client.aclose)
    parts.notifier.on_change.append(worker.kick)
    supervisor.start("asking", worker.keep)
    supervisor.start("capacity", looks.keep)
    closing.push_async_callback(worker.settle)
    closing.push_async_callback(looks.settle)
    closing.push_async_callback(supervisor.stop)
