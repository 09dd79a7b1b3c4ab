"""`gate serve`: start and stop of a server. Slow imports happen while the embedded Redis starts, to save time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate.model.account import Accounts
from gate.model.errors import CannotStart, StoreDown
from gate.runtime.data_dir import Address, DataDir
from gate.runtime.embedded_redis import EmbeddedRedis
from gate.runtime.graceful_stop import GRACE_S, GracefulStop
from gate.runtime.listener import listen
from gate.runtime.server_processes import ONLY, Process, ServerProcesses
from gate.runtime.settings import PoolDefaults, Settings
from gate.runtime.shared_heaps import share_heaps

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from gate.coordination.shutdown import Shutdown
    from gate.ledger import Pool
    from gate.runtime.wiring import ExternalServices, RunningGate

GC_AFTER = 10_000
"""Objects made and not freed after which the garbage collector looks at the youngest generation. See `_rest_gc`."""
GC_OLDER = 5, 10
"""Collections of a generation after which the next older one is collected too: the middle one, and the oldest."""
KEEP_ALIVE_S = 130
"""Time (s) for which an idle connection stays open.

It has to be longer than the idle time of the proxy in front: nginx keeps 60 s, AWS's load balancer 60 s, Traefik 90 s, Caddy 120 s. Else
the proxy sends a request into a connection that gate closes at that moment. It may not repeat a POST, so its caller gets a 502.
"""
MANY_USERS = 10
"""Users of a pool from which on `gate serve` suggests a cap for each. Fewer are as a rule the owner's own programs."""
POOLS_SHOWN = 100
"""Pools that `gate serve` names when it starts. More hide what else it says."""
SECRET_MIN = 16
"""Length (characters) below which gate warns of a secret. 16 are 12 random bytes in base64, too many to guess by network."""


def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        settings: The settings in force.

    Raises:
        CannotStart: The server cannot start. The message has one line.
    """
    gc.disable()  # until the server is ready: imported objects stay anyway, and collections take a tenth of the start
    share_heaps()
    _refuse_open_host(settings)
    _refuse_private_stores(settings)
    data = DataDir(settings.data_dir)
    data.take()
    with contextlib.ExitStack() as closing:
        if settings.workers > 1 and settings.port:
            listen(settings.host, settings.port).close()  # sockets that share a port would share it with another server too
        listener = closing.enter_context(listen(settings.host, settings.port, shared=settings.workers > 1))
        embedded = None
        if settings.redis_url is None:
            embedded = EmbeddedRedis(settings.data_dir)
            closing.callback(embedded.stop)
        from gate.ledger.admin import migrate

        if (file := migrate.sqlite_file(settings.sql_url)) is not None:
            data.take_file(file)
        migrate.migrate(settings.sql_url, _warn_of_a_newer_schema)
        if embedded is not None:
            embedded.wait()
        closing.callback(data.leave)
        from gate.telemetry import logging

        logging.configure()
        redis_url = settings.redis_url or (embedded.url if embedded else "")
        stores = _Stores(redis_url, embedded.near if embedded else redis_url)
        if settings.workers == 1:
            _run(settings, data, listener, stores, ONLY)
        else:
            _run_processes(settings, data, listener, stores)
    print("gate has stopped", flush=True)


@dataclass(frozen=True, slots=True)
class _Stores:
    """Addresses of Redis: for other programs, and for gate itself, which may have a shorter way to it."""

    redis_url: str
    near: str


def _run_processes(settings: Settings, data: DataDir, listener: socket.socket, stores: _Stores) -> None:
    import gate.http.app
    import gate.http.panel.pool_feed
    import gate.runtime.wiring  # noqa: F401  # before the fork, so that the processes share this memory and start quickly

    port = listener.getsockname()[1]
    listeners = [listener, *(listen(settings.host, port, shared=True) for _ in range(settings.workers - 1))]
    data.make_terminal_key()
    ServerProcesses(listeners, lambda own, process: _run(settings, data, own, stores, process)).keep()


def _warn_of_a_newer_schema(at: str) -> None:
    import structlog

    from gate.ledger.admin.migrate import HEAD
    from gate.telemetry import logging

    logging.configure()
    structlog.get_logger("gate.runtime").warning("schema.newer", schema=at, knows=HEAD)


def _run(settings: Settings, data: DataDir, listener: socket.socket, stores: _Stores, process: Process) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, data, listener, stores, process))
        except StoreDown as error:
            raise CannotStart(error.detail) from error


def _accounts(settings: Settings) -> Accounts:
    """Return the accounts at providers.

    Raises:
        CannotStart: The variable of a key is not set.
    """
    accounts = settings.provider_accounts()
    for one in accounts:
        if not one.key:
            named = settings.providers[one.provider].accounts[one.name].key_env
            raise CannotStart(
                f"the variable {named} is not set, which holds the key of account {one.name!r} of {one.provider}"
            )
    return accounts


async def _serve(settings: Settings, data: DataDir, listener: socket.socket, stores: _Stores, process: Process) -> None:
    from gate.ledger import PoolSettings
    from gate.runtime.wiring import open_gate

    configured = {name: PoolSettings(**pool.in_ms()) for name, pool in settings.pool_defaults().items()}
    made_live = PoolSettings(**settings.defaults().in_ms())
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key else None
    async with open_gate(
        stores.near, settings.sql_url, configured, made_live=made_live, admin_key=admin_key,
        outside=_outside(settings, data, process),
    ) as gate:  # fmt: skip
        gate.keys.accept_terminal(data.make_terminal_key())
        gate.waiters.longest_s = settings.wait_max_seconds
        shutdown = gate.services.shutdown
        shutdown.delay_s = settings.shutdown_delay_s
        shutdown.pass_on = process.stop_all
        gate.services.scraper.most_shown = settings.metrics_pools
        server = _server(_application(settings, gate), settings.access_log, shutdown)
        graceful_stop = GracefulStop(shutdown, gate.waiters, server, listener)
        graceful_stop.on_signals()
        process.on_lost_parent(shutdown.hurry)
        stopping = asyncio.create_task(graceful_stop.keep())
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.002)
        if server.started:
            _rest_gc()
            if process.is_to_announce:
                await _announce(settings, data, listener, stores, gate)
            process.ready()
        await serving
        stopping.cancel()


def _outside(settings: Settings, data: DataDir, process: Process) -> ExternalServices:
    """Return the external parties. Each process of a server has a name and a mark file of its own, which a restart keeps."""
    from gate.coordination import ledger_mark
    from gate.runtime.wiring import ExternalServices

    mark_file = data.path / process.own(ledger_mark.FILE)
    return ExternalServices(
        settings.known_tools(), settings.job_sql, settings.refund_sql, process.own(data.server_id()), mark_file,
        settings.database_read_url, _accounts(settings),
    )  # fmt: skip


def _application(settings: Settings, gate: RunningGate) -> FastAPI:
    from gate.http.app import make_app
    from gate.http.panel.pool_feed import PoolFeed

    feed = PoolFeed(gate.services.queries, gate.services.ledger, gate.waiters, gate.services.health)
    tools, secrets = settings.known_tools(), settings.provider_secrets()
    return make_app(gate.services, gate.keys, feed, tools, secrets, settings.check_counts, settings.hinting())


async def _announce(
    settings: Settings, data: DataDir, listener: socket.socket, stores: _Stores, gate: RunningGate
) -> None:  # fmt: skip
    """Tell the commands of the terminal where the server is, and print it."""
    host, port = listener.getsockname()[:2]
    http = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    pid = os.getpid() if settings.workers == 1 else os.getppid()
    data.tell(Address(pid, http, stores.redis_url, settings.sql_url))
    _say_where(settings, gate, http, stores.redis_url, await gate.services.ledger.backlog.users_lately())


def _server(app: FastAPI, access_log: bool, shutdown: Shutdown) -> uvicorn.Server:
    """Make the HTTP server of an application."""
    import uvicorn

    from gate.http.app import in_front
    from gate.http.server.offers import DecliningProtocol
    from gate.http.server.protocol import Connections

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `GracefulStop` handles signals; uvicorn would end the process before the gate is closed

    config = uvicorn.Config(
        in_front(app, access_log),
        http=DecliningProtocol,  # it is based on httptools, because h11 lets smuggled requests through
        ws="none",
        proxy_headers=False,  # a header must never decide whether a caller is on this machine
        lifespan="off",
        log_config=None,  # gate.telemetry.logging configures logs
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = Server(config)
    connections = Connections()
    server.server_state = connections
    shutdown.on_begin.append(connections.close_by_answer)
    return server


def _rest_gc() -> None:
    """Make garbage collections rare.

    Objects that exist now stay, so the collector need not look at them. Objects of a job hardly ever form cycles. With
    default settings the collector stops the event loop every few requests: +10 % CPU for a pair on SQLite, and 1.2 times the p99
    (`python -m bench ablation`).

    A stream that its client leaves, a new pool and a query do form cycles, some hundred objects each. Until the next collection they are
    garbage that takes memory, and what is in use during a collection moves to an older generation. So collections may not be too rare
    either: with 50,000, 10 and 100 the soak of `docs/soaks.md` had 42,000 such objects (7 MB) at one time.
    """
    gc.freeze()
    gc.set_threshold(GC_AFTER, *GC_OLDER)
    gc.enable()


def _say_where(settings: Settings, gate: RunningGate, http: str, redis_url: str, users_lately: dict[str, int]) -> None:
    from gate import __version__
    from gate.model import store_url

    kind = "embedded " if settings.redis_url is None else ""
    lines = [
        f"gate {__version__} is ready",
        f"  http   {http}   (docs at /docs)",
        f"  redis  {store_url.shown(redis_url)}   ({kind}{gate.redis})",
        f"  sql    {store_url.shown(settings.sql_url)}",
        *([f"  reads  {store_url.shown(settings.database_read_url)}   (reports)"] if settings.database_read_url else []),
    ]
    configured = settings.pool_defaults()
    for pool in gate.pools[:POOLS_SHOWN]:
        lines += _lines_of_pool(pool, configured.get(pool.name), users_lately.get(pool.name, 0))
    if (more := len(gate.pools) - POOLS_SHOWN) > 0:
        lines.append(f"  pools  {more} more: gate pools")
    if settings.workers > 1:
        lines.append(f"  serves by {settings.workers} processes")
    lines += _lines_of_replicas(settings)
    if not gate.keys.closed:
        lines.append("  keys   none: every caller on this machine is let in, as an admin")
    lines += _lines_of_secrets(settings)
    lines.append(f"  data   {settings.data_dir.absolute()}")
    print("\n".join(lines), flush=True)


def _lines_of_pool(pool: Pool, configured: PoolDefaults | None, users: int) -> Iterator[str]:
    """Say what is set of a pool, what was changed live, and what to look at."""
    live = pool.settings
    yield (
        f"  pool   {pool.name}: {live.limit} slot{'s' * (live.limit != 1)}, leases of {live.lease_ms / 1000:g} s,"
        f" {live.claim_ms / 1000:g} s to claim, at most {live.queue_max} wait for {live.queue_ms / 1000:g} s"
    )
    for name, value in configured.in_ms().items() if configured is not None else ():
        if (now := getattr(live, name)) != value:
            yield f"         {name} is {now} live, {value} configured: changed live since, and kept"
    if live.lease_ms > live.max_hold_ms:
        yield f"         no lease goes beyond the longest hold, {live.max_hold_ms / 1000:g} s: max_hold_seconds"
    if users >= MANY_USERS and not live.has_user_cap:
        yield (
            f"         {users} users had jobs here lately, and one of them may fill the queue: GATE_MAX_ACTIVE_PER_USER or"
            " GATE_QUEUE_MAX_PER_USER is a cap for each"
        )


def _lines_of_secrets(settings: Settings) -> Iterator[str]:
    """Warn of secrets that can be guessed, and say what a tool lacks."""
    if settings.admin_key is not None and len(settings.admin_key) < SECRET_MIN:
        yield f"  warns  GATE_ADMIN_KEY is shorter than {SECRET_MIN} characters and can be guessed"
    for provider, secrets in settings.provider_secrets().items():
        if any(len(secret.removeprefix("whsec_")) < SECRET_MIN for secret in secrets):
            yield f"  warns  provider {provider}: its secret is shorter than {SECRET_MIN} characters and can be guessed"
    for provider in settings.refused_callbacks():
        yield (
            f"  warns  provider {provider}: no token and no secrets, so its callbacks are refused (401); set one, or callbacks = false"
        )
    for tool in settings.known_tools():
        if tool.provider is not None and tool.provider not in settings.provider_secrets():
            yield (
                f"  tool   {tool.table}: there is no [providers.{tool.provider}], so no callback about its tasks is accepted"
            )
        if tool.start_url is None:
            yield f"  tool   {tool.table}: no start_url, so its callers have to start its jobs themselves"
        if (tool.start_url or tool.events_url) and tool.secret is None:
            yield f"  tool   {tool.table}: no secret, so what gate sends it is not signed"


def _lines_of_replicas(settings: Settings) -> Iterator[str]:
    """Warn where a platform may run a second copy of this server on stores of its own: each copy would have all slots."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and not settings.is_shared:
        yield (
            "  warns  on Kubernetes with a store of its own: a second replica would run as many jobs again. Keep replicas: 1, or set"
            " GATE_REDIS_URL and GATE_DATABASE_URL (Postgres)"
        )


def _refuse_private_stores(settings: Settings) -> None:
    """Raise CannotStart if several processes are to serve on a store that serves one."""
    if settings.workers > 1 and not settings.is_shared:
        raise CannotStart(
            f"workers = {settings.workers} needs stores that processes can share: set GATE_REDIS_URL, and GATE_DATABASE_URL to a"
            " Postgres (the embedded Redis and SQLite serve one process)"
        )


def _refuse_open_host(settings: Settings) -> None:
    """Raise CannotStart if the host is not loopback and no key exists. Without a key gate would accept any caller."""
    host = settings.host
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if loopback or settings.admin_key is not None:
        return
    from gate.ledger.admin import api_keys, migrate

    if not migrate.exists(settings.sql_url) or not api_keys.list_all(settings.sql_url):
        raise CannotStart(f"host {host} is open to others and no key exists: `gate keys create NAME --role admin` makes one")
