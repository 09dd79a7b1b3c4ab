"""Where it happens: the stores, the servers on them, the clients, and the clock of a run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.proof.chaos.account import Account
from tests.proof.chaos.clients import Client, Unanswered
from tests.proof.chaos.pair import Pair
from tests.proof.chaos.servers import Server
from tests.support.servers import Books, Postgres, RedisServer
from tests.support.wait import until

LIMIT = 3
CLAIM_S = 2
CONFIG = f"limit = {LIMIT}\nclaim_seconds = {CLAIM_S}\nlease_seconds = 3\nqueue_max = 100000\ncooldown_seconds = 0.5\n"


@dataclass(frozen=True, slots=True)
class Options:
    """`redis`: embedded, valkey or redis; `sql`: sqlite or postgres. The load goes on until all three are over: `times`
    faults, `seconds`, `calls`. `away`: how long a store or a server is away, where that is the fault.
    """

    fault: str
    times: int
    clients: int
    seconds: float
    seed: int
    redis: str
    sql: str
    servers: int
    calls: int
    away: float


@dataclass
class Scene:
    options: Options
    folder: Path
    account: Account
    dice: random.Random
    http: httpx2.AsyncClient
    redis: RedisServer | None = None
    pair: Pair | None = None
    postgres: Postgres | None = None
    servers: list[Server] = field(default_factory=list)
    every_redis: list[RedisServer] = field(default_factory=list)
    losses: int = 0
    """How often Redis lost what it knew."""
    spare: int = 0
    """Rebuilds beyond one a loss that are no mistake."""
    recoveries: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What else a fault wants in the result."""
    provider_url: str = ""
    """Address of the simulated provider, where there is one."""
    excused: str = ""
    """What a server's log may say because of this fault."""
    alone_in_sql: contextlib.AbstractAsyncContextManager[object] = field(default_factory=contextlib.nullcontext)
    """Lock of a pool's row. A SQLite file is locked as a whole, so there it is one at a time."""
    faults: int = 0
    asked: int = 0
    began: float = field(default_factory=time.time)

    @property
    def redis_url(self) -> str:
        """Of the Redis that counts, not of what stands before it."""
        return self.redis.url if self.redis is not None else self.servers[0].redis_url

    @property
    def books(self) -> Books:
        return Books(self.servers[0].sql_url)

    def client(self, name: str, only: int | None = None) -> Client:
        addresses = [server.address for server in self.servers]
        seed = str(self.options.seed)
        return Client(f"{name}-{seed}", self.http, addresses, self.account, seed, only)

    def happens(self, *, loses: bool = False) -> float:
        """Counts a fault; its time."""
        self.faults += 1
        self.losses += loses
        return time.time()

    async def by_hand(self, *words: str) -> str:
        """redis-cli."""
        assert self.redis is not None
        return await asyncio.to_thread(self.redis.cli, *words)

    async def another_redis(self) -> RedisServer:
        redis = RedisServer(self.options.redis, self.folder / f"redis-{len(self.every_redis)}")
        self.every_redis.append(redis)
        await asyncio.to_thread(redis.start)
        return redis

    def wanted(self) -> bool:
        """Whether the load has to go on, whatever the fault has done so far."""
        given = self.options
        return time.time() - self.began < given.seconds or len(self.account.calls) < given.calls

    async def pause(self) -> None:
        """Between two faults, as long as they are spread over the time given."""
        await asyncio.sleep(self.options.seconds / (self.options.times + 1) * self.dice.uniform(0.5, 1.5))

    async def served_again(self, since: float, server: int | None = None, within_s: float | None = None) -> float:
        """Until an acquire or release sent after `since` is answered 2xx (by `server`, where one is named): how long it took.
        Longer than `within_s` is wrong. A client more asks at once, in case all the others are waiting in line.
        """
        asked = [server] if server is not None else [number for number, one in enumerate(self.servers) if one.answers]
        self.asked += 1
        await asyncio.gather(*(self._ask(self.client(f"p{self.asked}x{number}", number)) for number in asked))
        took = min((call.received for call in self.account.good(server, since)), default=time.time()) - since
        if within_s is not None:
            self.account.expect(took <= within_s, f"fault {self.faults}: service was back only after {took:.1f} s")
        self.recoveries.append(took)
        return took

    async def _ask(self, client: Client) -> None:
        answer = await client.acquire()
        if answer.told.acknowledged:
            await client.cancel(answer.told)

    async def all_serve_again(self, since: float, within_s: float) -> None:
        await asyncio.gather(*(self.served_again(since, number, within_s) for number in range(len(self.servers))))


@contextlib.asynccontextmanager
async def opened(options: Options, folder: Path, config: str, replicated: bool) -> AsyncIterator[Scene]:
    """The stores and the servers stand; whatever happens, they are gone afterwards."""
    folder.chmod(0o755)  # Postgres runs as another user
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=options.clients + 20)
    async with contextlib.AsyncExitStack() as closing:
        http = await closing.enter_async_context(httpx2.AsyncClient(limits=limits, trust_env=False))
        scene = Scene(options, folder, Account(LIMIT), random.Random(f"{options.seed}-{options.fault}"), http)
        redis_url = sql_url = None
        if options.redis != "embedded":
            closing.callback(lambda: [redis.kill() for redis in scene.every_redis])
            scene.redis = await scene.another_redis()
            redis_url = scene.redis.url
        if replicated:
            assert scene.redis is not None
            scene.pair = Pair(scene.redis)
            for proxy in (scene.pair.front, scene.pair.leash):
                await closing.enter_async_context(proxy)
            await scene.pair.follow(await scene.another_redis())
            redis_url = scene.pair.front.url
        if options.sql == "sqlite":
            scene.alone_in_sql = asyncio.Lock()
        if options.sql == "postgres":
            scene.postgres = await asyncio.to_thread(Postgres, folder / "postgres")
            closing.callback(scene.postgres.crash)
            await asyncio.to_thread(scene.postgres.start)
            sql_url = scene.postgres.url
        for number in range(options.servers):
            server = Server(folder / f"server-{number}", CONFIG + config, redis_url, sql_url)
            closing.callback(server.away)
            scene.servers.append(server)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in scene.servers))
        yield scene


async def under_load(scene: Scene, play: Callable[[Scene], Awaitable[None]]) -> None:
    """The clients work while the fault is played and until enough was done; then each ends the job it is at."""
    going = True

    async def work(client: Client) -> None:
        while going:
            await client.one_job()

    scene.began = time.time()
    try:
        async with scene.account.pulse.beating(), asyncio.TaskGroup() as group:
            for number in range(scene.options.clients):
                group.create_task(work(scene.client(f"c{number}")))
            await play(scene)
            while scene.wanted():
                await asyncio.sleep(0.1)
            going = False
    except* Unanswered:
        pass  # it stands in the account as wrong


async def settled(scene: Scene, within_s: float = 45) -> None:
    """Until every silent job has expired, and both stores say so."""
    live = "select count(*) as n from @jobs where ended_at is null"

    async def at_rest() -> bool:
        return not (await asyncio.to_thread(scene.books.rows, live))[0].n

    try:
        await until(at_rest, "no job lives any more", within_s)
    except AssertionError as error:
        left = scene.books.rows("select job_id, status from @jobs where ended_at is null limit 5")
        scene.account.wrong.append(f"{error}: {[tuple(row) for row in left]}")
