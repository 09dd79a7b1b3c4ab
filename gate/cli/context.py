"""How a command at the terminal reaches the stores: those of the settings, or of the server in the data dir."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from gate.coordination.services import Services
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
    """None when there is no Redis: the server whose embedded one it would be is not running."""
    if settings.redis_url is not None:
        return settings.redis_url
    running = DataDir(settings.data_dir).running()
    return running.redis_url if running else None


def sql_url(settings: Settings, *, make: bool = False) -> str:
    """Raises CannotStart when there is no ledger yet, unless it is to be made."""
    running = DataDir(settings.data_dir).running()
    url = running.sql_url if running is not None and settings.database_url is None else settings.sql_url
    if make:
        migrate.make(url)
    elif not migrate.exists(url):
        raise CannotStart(f"there is no ledger at {migrate.shown(url)} yet: start `gate serve` once, or say --data-dir")
    return url


def look(settings: Settings, call: Callable[[LedgerQueries], Awaitable[T]]) -> T:
    """What `call` reads from SQL alone. Raises CannotStart when there is no ledger yet."""

    async def run() -> T:
        async with sql(settings) as reading:
            return await call(reading)

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def sql(settings: Settings) -> AsyncIterator[LedgerQueries]:
    """Raises CannotStart when there is no ledger yet."""
    database = Database(sql_url(settings))
    try:
        yield LedgerQueries(database)
    finally:
        database.close()


async def recent(reading: LedgerQueries, pool: str, status: str | None, user: str | None, most: int) -> list[Job]:
    """Raises PoolUnknown."""
    await row_of(reading, pool)
    return await reading.recent(pool, status, user, most)


async def row_of(reading: LedgerQueries, name: str) -> Pool:
    """Its row: what is set live. Raises PoolUnknown."""
    for one in await reading.pools():
        if one.name == name:
            return one
    raise PoolUnknown(f"there is no pool {name!r}")


async def changes(reading: LedgerQueries, pool: str, most: int) -> list[Event]:
    """Raises PoolUnknown."""
    await row_of(reading, pool)
    return await reading.timelines.changes(pool, most)


async def lately(reading: LedgerQueries, pool: str, span: str) -> list[Bucket]:
    """Raises PoolUnknown."""
    await row_of(reading, pool)
    return await reading.statistics.lately(pool, span)


def visit(settings: Settings, call: Callable[[Services], Awaitable[T]], outside: ExternalServices | None = None) -> T:
    """What `call` returns, on the stores of a running server; `outside` only where `call` has to know the tools. Raises
    CannotStart when none runs here.
    """
    where = redis_url(settings)
    if where is None:
        raise CannotStart(f"{not_running(settings)}: start it with `gate serve`, or say --data-dir")
    logs.configure(logging.WARNING)  # on stderr: stdout is the answer's

    async def run() -> T:
        async with opened(settings, where, outside) as gate:
            # A visitor hears no news of the servers. Without this a wait would last its whole time.
            waking = asyncio.create_task(WaiterPoll(gate.services.ledger, gate.waiters).keep())
            try:
                return await call(gate.services)
            finally:
                waking.cancel()

    return asyncio.run(run())


def not_running(settings: Settings) -> str:
    return f"no gate runs in {settings.data_dir.absolute()}"


def outside_of(settings: Settings) -> ExternalServices:
    """The tools and the owner's functions of these settings, as the server has them."""
    return ExternalServices(settings.known_tools(), settings.job_sql, settings.refund_sql)


def opened(
    settings: Settings, where: str, outside: ExternalServices | None = None
) -> AbstractAsyncContextManager[RunningGate]:
    """The gate on the Redis at `where`, for a visitor. A pool that it makes has the defaults of these settings."""
    made_live = PoolSettings(**settings.defaults().in_ms())
    return open_gate(where, sql_url(settings), made_live=made_live, outside=outside)
