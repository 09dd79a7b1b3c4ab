"""Access of commands to the stores: those of the settings, or those of the server in the data dir."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from gate.coordination.ledger_mark import FILE, MarkFile
from gate.coordination.services import Services
from gate.diagnostics.outages import Outage, of_redis, of_server
from gate.ledger import Database, Event, LedgerQueries, Pool, PoolSettings
from gate.ledger.admin import migrate
from gate.ledger.reports.statistics import Bucket
from gate.model.errors import CannotStart, PoolUnknown
from gate.model.job import Job
from gate.runtime.data_dir import DataDir
from gate.runtime.settings import Settings
from gate.runtime.wiring import ExternalServices, RunningGate, open_gate
from gate.telemetry import logging as logs
from gate.workers.waiter_poll import WaiterPoll

T = TypeVar("T")


def redis_url(settings: Settings) -> str | None:
    """Find the Redis of the settings, or the embedded one of the server that runs in the data dir.

    Returns:
        Its URL; None when the settings name no Redis and no server runs.
    """
    if settings.redis_url is not None:
        return settings.redis_url
    running = DataDir(settings.data_dir).running()
    return running.redis_url if running else None


def sql_url(settings: Settings, *, make: bool = False) -> str:
    """Find the ledger of the server that runs in the data dir, or of the settings.

    Args:
        settings: Settings that name the data dir and the database.
        make: True to make the ledger when there is none.

    Returns:
        Its URL.

    Raises:
        CannotStart: There is no ledger yet, and `make` is False; or the database cannot be used, or not by this version.
    """
    url = sql_url_of(settings)
    if make:
        migrate.make(url)
    else:
        migrate.require(url)
    return url


def sql_url_of(settings: Settings) -> str:
    """Return the URL of the ledger of the server that runs in the data dir, or of the settings. Nothing is asked."""
    running = DataDir(settings.data_dir).running()
    return running.sql_url if running is not None and settings.database_url is None else settings.sql_url


def outages(settings: Settings, redis_url: str | None) -> list[Outage]:
    """Ask the server and Redis what is wrong with them.

    Args:
        settings: Settings that name the data dir.
        redis_url: URL of Redis; None when there is none.
    """
    of_store = of_redis(redis_url) if redis_url is not None else None
    found = [of_store] if of_store is not None else []
    server = of_server(DataDir(settings.data_dir), settings.redis_url is None)
    if server is not None and server.what not in {one.what for one in found}:  # else both would say the same
        found.append(server)
    return found


def look(settings: Settings, call: Callable[[LedgerQueries], Awaitable[T]]) -> T:
    """Run `call` on SQL alone, and return what it returns.

    Raises:
        CannotStart: There is no ledger yet.
    """

    async def run() -> T:
        async with sql(settings) as reading:
            return await call(reading)

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def sql(settings: Settings) -> AsyncIterator[LedgerQueries]:
    """Open the ledger for reading, and close it after the block.

    Raises:
        CannotStart: There is no ledger yet.
    """
    database = Database(sql_url(settings), replica_url=settings.database_read_url)
    try:
        yield LedgerQueries(database)
    finally:
        database.close()


async def recent(reading: LedgerQueries, pool: str, status: str | None, user: str | None, most: int) -> list[Job]:
    """Read the newest jobs of a pool.

    Args:
        reading: The ledger.
        pool: Name of the pool.
        status: Only jobs of this status; None for all.
        user: Only jobs of this user; None for all.
        most: Most jobs to return.

    Raises:
        PoolUnknown: There is no such pool.
    """
    await known(reading, pool)
    return await reading.recent(pool, status, user, most)


async def row_of(reading: LedgerQueries, name: str) -> Pool:
    """Read the row of a pool, which has the settings that are in force.

    Raises:
        PoolUnknown: There is no such pool.
    """
    for one in await reading.pools():
        if one.name == name:
            return one
    raise PoolUnknown(f"there is no pool {name!r}")


async def known(reading: LedgerQueries, name: str) -> None:
    """Check that there is a pool of this name, or was one that was deleted: its history stays.

    Raises:
        PoolUnknown: There never was one.
    """
    if not await reading.has_had(name):
        raise PoolUnknown(f"there is no pool {name!r}")


async def changes(reading: LedgerQueries, pool: str, most: int) -> list[Event]:
    """Read the newest `most` changes of a pool, newest first.

    Raises:
        PoolUnknown: There is no such pool.
    """
    await known(reading, pool)
    return await reading.timelines.changes(pool, most)


async def lately(reading: LedgerQueries, pool: str, span: str) -> list[Bucket]:
    """Read the statistics of a pool over the last `span`: `hour`, `day` or `week`.

    Raises:
        PoolUnknown: There is no such pool.
    """
    await known(reading, pool)
    return await reading.statistics.lately(pool, span)


def visit(settings: Settings, call: Callable[[Services], Awaitable[T]], outside: ExternalServices | None = None) -> T:
    """Run `call` on the stores of a running server, and return what it returns.

    Args:
        settings: Settings that name the stores.
        call: The work. It is given the services of gate.
        outside: The tools and the owner's functions; None if `call` does not need them.

    Raises:
        CannotStart: No server runs here.
    """
    where = redis_url(settings)
    if where is None:
        raise CannotStart(f"{not_running(settings)}: start it with `gate serve`, or say --data-dir")
    logs.configure(logging.WARNING)  # on stderr, because stdout is for the answer

    async def run() -> T:
        async with opened(settings, where, outside) as gate:
            # This process gets no notifications from the servers. Without the poll a wait would last until its timeout.
            poll = asyncio.create_task(WaiterPoll(gate.services.ledger, gate.waiters).keep())
            try:
                return await call(gate.services)
            finally:
                poll.cancel()

    return asyncio.run(run())


def not_running(settings: Settings) -> str:
    """Return the message that no server runs in the data dir."""
    return f"no gate runs in {settings.data_dir.absolute()}"


def outside_of(settings: Settings) -> ExternalServices:
    """Return the tools and the owner's functions of these settings, as the server has them."""
    accounts = settings.provider_accounts()
    return ExternalServices(settings.known_tools(), settings.job_sql, settings.refund_sql, accounts=accounts)


def may_write(settings: Settings) -> None:
    """Note in the data dir that a command may write to SQL, so that no backup counts as equal to what the server left."""
    MarkFile(settings.data_dir / FILE).forget_stop()  # guard: command-may-write-after-the-stop


def opened(
    settings: Settings, where: str, outside: ExternalServices | None = None
) -> AbstractAsyncContextManager[RunningGate]:
    """Open gate on the stores for one command. A pool that the command makes has the defaults of these settings.

    Args:
        settings: Settings that name the ledger and the defaults of new pools.
        where: URL of Redis.
        outside: The tools and the owner's functions; None if the command does not need them.
    """
    made_live = PoolSettings(**settings.defaults().in_ms())
    may_write(settings)
    outside = outside or ExternalServices(accounts=settings.provider_accounts())  # an end has to know what drains
    return open_gate(where, sql_url(settings), made_live=made_live, outside=outside)
