"""`gate serve`: start and stop of a server. Slow imports happen while the embedded Redis starts, to save time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gate.model.account import Accounts
from gate.model.errors import CannotStart, StoreDown
from gate.runtime.data_dir import Address, DataDir
from gate.runtime.embedded_redis import EmbeddedRedis
from gate.runtime.listener import listen
from gate.runtime.settings import PoolDefaults, Settings
from gate.runtime.shared_heaps import share_heaps

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from gate.ledger import Pool

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
GRACE_S = 7
"""Time (s) that requests under way have to end when the server stops."""
STOP_S = 9.5
"""Time (s) that the whole stop may take, less than the 10 s after which Docker kills a container."""
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
    data = DataDir(settings.data_dir)
    data.take()
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(listen(settings.host, settings.port))
        embedded = None
        if settings.redis_url is None:
            embedded = EmbeddedRedis(settings.data_dir)
            closing.callback(embedded.stop)
        from gate.ledger.admin import migrate

        if (file := migrate.sqlite_file(settings.sql_url)) is not None:
            data.take_file(file)
        migrate.migrate(settings.sql_url)
        if embedded is not None:
            embedded.wait()
        closing.callback(data.leave)
        _run(settings, data, listener, embedded)
    print("gate has stopped", flush=True)


def _run(settings: Settings, data: DataDir, listener: socket.socket, embedded: EmbeddedRedis | None) -> None:
    import uvloop

    redis_url = settings.redis_url or (embedded.url if embedded else "")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, data, listener, redis_url, embedded.near if embedded else redis_url))
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


async def _serve(settings: Settings, data: DataDir, listener: socket.socket, redis_url: str, near: str) -> None:
    from gate.coordination import ledger_mark
    from gate.http.app import make_app
    from gate.http.panel.pool_feed import PoolFeed
    from gate.ledger import PoolSettings
    from gate.runtime.wiring import ExternalServices, open_gate
    from gate.telemetry import logging

    logging.configure()
    configured = {name: PoolSettings(**pool.in_ms()) for name, pool in settings.pool_defaults().items()}
    made_live = PoolSettings(**settings.defaults().in_ms())
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key else None
    tools = settings.known_tools()
    mark_file = data.path / ledger_mark.FILE
    outside = ExternalServices(tools, settings.job_sql, settings.refund_sql, data.server_id(), mark_file, _accounts(settings))
    async with open_gate(
        near, settings.sql_url, configured, made_live=made_live, admin_key=admin_key, outside=outside
    ) as gate:
        gate.keys.accept_terminal(data.make_terminal_key())
        feed = PoolFeed(gate.services.queries, gate.services.ledger, gate.waiters, gate.services.health)
        secrets, hinting = settings.provider_secrets(), settings.hinting()
        app = make_app(gate.services, gate.keys, feed, tools, secrets, settings.check_counts, hinting)
        server = _server(app, settings.access_log)

        def stop() -> None:
            server.should_exit = True
            gate.waiters.close()
            last_resort = threading.Timer(STOP_S, _force)
            last_resort.daemon = True
            last_resort.start()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.002)
        if server.started:
            _rest_gc()
            host, port = listener.getsockname()[:2]
            http = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            data.tell(Address(os.getpid(), http, redis_url, settings.sql_url))
            _say_where(settings, gate, http, redis_url, await gate.services.ledger.backlog.users_lately())
        await serving


def _server(app: FastAPI, access_log: bool) -> uvicorn.Server:
    """Make the HTTP server of an application."""
    import uvicorn

    from gate.http.app import in_front
    from gate.http.server.offers import DecliningProtocol

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `_serve` handles signals; uvicorn would end the process before the gate is closed

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
    return Server(config)


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


def _force() -> None:
    """End the process although a store hangs, because its thread cannot be ended. Callers know only what is committed."""
    print(f"gate: a store does not answer; stopped by force after {STOP_S:g} s", file=sys.stderr, flush=True)
    os._exit(1)


def _say_where(settings: Settings, gate: Any, http: str, redis_url: str, users_lately: dict[str, int]) -> None:
    from gate import __version__
    from gate.model import store_url

    kind = "embedded " if settings.redis_url is None else ""
    lines = [
        f"gate {__version__} is ready",
        f"  http   {http}   (docs at /docs)",
        f"  redis  {store_url.shown(redis_url)}   ({kind}{gate.redis})",
        f"  sql    {store_url.shown(settings.sql_url)}",
    ]
    configured = settings.pool_defaults()
    for pool in gate.pools[:POOLS_SHOWN]:
        lines += _lines_of_pool(pool, configured.get(pool.name), users_lately.get(pool.name, 0))
    if (more := len(gate.pools) - POOLS_SHOWN) > 0:
        lines.append(f"  pools  {more} more: gate pools")
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
    for tool in settings.known_tools():
        if tool.provider is not None and tool.provider not in settings.provider_secrets():
            yield (
                f"  tool   {tool.table}: there is no [providers.{tool.provider}], so no callback about its tasks is accepted"
            )
        if tool.start_url is None:
            yield f"  tool   {tool.table}: no start_url, so its callers have to start its jobs themselves"
        if (tool.start_url or tool.events_url) and tool.secret is None:
            yield f"  tool   {tool.table}: no secret, so what gate sends it is not signed"


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
