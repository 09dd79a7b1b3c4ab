"""What tests are made with. No test sleeps to wait for something: it waits until it is so, and says for what."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import pytest
import redis
import sqlalchemy as sa

from gate.ledger import PoolSettings
from gate.model.job import Job, Request
from gate.runtime.data_dir import DataDir
from gate.runtime.embedded_redis import EmbeddedRedis
from gate.runtime.wiring import RunningGate
from gate.slots import AcquireReply, ExtendReply, QueueState, RebuildReply, ScriptReply, Semaphore, keys
from tests.warm import warm

ROOT = Path(__file__).parent.parent
GATE = ROOT / "gate"
SETTINGS = {
    "limit": 3, "lease_ms": 600_000, "max_hold_ms": 3_600_000, "claim_ms": 60_000, "queue_ms": 600_000,
    "queue_max": 1000, "cooldown_ms": 5_000, "max_active_per_user": 0,
}  # fmt: skip


def other_redis() -> Path | None:
    """The server program that GATE_TEST_REDIS_SERVER names."""
    named = os.environ.get("GATE_TEST_REDIS_SERVER")
    return Path(shutil.which(named) or named) if named else None


def missing(why: str) -> Any:
    """A developer's machine may lack it; the one that judges may not."""
    if "GATE_TEST_EVERYTHING" in os.environ:
        pytest.fail(why)
    pytest.skip(why)


def settings_of(**changed: int) -> PoolSettings:
    return PoolSettings(**(SETTINGS | changed))


async def until(true: Callable[[], Any], what: str, within_s: float = 10) -> Any:
    """What `true` (a function, async or not) returns, as soon as that is true."""
    give_up = time.monotonic() + within_s
    while True:
        found = true()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < give_up, f"waited {within_s} s in vain until {what}"
        await asyncio.sleep(0.005)


class Clock:
    """Redis's clock as a test turns it, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def turn(self, ms: int) -> None:
        self.now += ms


def Fake() -> Any:
    import fakeredis

    return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(version=(7,)))


@dataclass
class Pinned:
    """A link to one Redis that never changes."""

    client: Any
    identity: str = "this one"

    @property
    def pipe(self) -> Pinned:
        return self

    async def ask(self, *words: Any) -> Any:
        """As `gate.slots.pipe.Pipe` does, on whatever connections `client` has: fakeredis's too."""
        connection = await self.client.connection_pool.get_connection()
        try:
            await connection.send_command(*words)
            return await connection.read_response()
        finally:
            await self.client.connection_pool.release(connection)


class LineOfPool:
    """The scripts of one pool, in short words, under one epoch."""

    def __init__(self, client: Any, pool: str, clock: Clock, fake: bool = False) -> None:
        self.client, self.pool, self.clock, self.fake, self.epoch = client, pool, clock, fake, 1
        self.semaphore = Semaphore(Pinned(client), clock)

    async def load(self, *, epoch: int = 1, leases: Any = (), waiters: Any = (), **settings: int) -> RebuildReply:
        self.epoch = epoch
        whole = SETTINGS | {"paused": 0} | settings
        return await self.semaphore.rebuild(self.pool, epoch, whole, list(leases), list(waiters))

    async def acquire(
        self, job: str, user: str | None = None, tool: str | None = None, lease_ms: int | None = None, **how: Any
    ) -> AcquireReply:
        return await self.semaphore.acquire(self.pool, self.epoch, job, user, tool, lease_ms, **how)

    async def claim(self, job: str, lease_id: str, by_gate: bool = False) -> ExtendReply:
        return await self.semaphore.claim(self.pool, self.epoch, job, lease_id, by_gate)

    async def renew(self, job: str, lease_id: str, lease_ms: int | None = None) -> ExtendReply:
        return await self.semaphore.renew(self.pool, self.epoch, job, lease_id, lease_ms)

    async def hold(self, job: str, lease_id: str) -> ExtendReply:
        return await self.semaphore.hold(self.pool, self.epoch, job, lease_id)

    async def release(self, job: str, lease_id: str) -> ScriptReply:
        return await self.semaphore.release(self.pool, self.epoch, job, lease_id)

    async def requeue(self, job: str, fence: int, why: str = "refused", restore: Any = None) -> ScriptReply:
        return await self.semaphore.requeue(self.pool, self.epoch, job, fence, why, restore)

    async def cancel(self, job: str, ticket: int | None = None) -> ScriptReply:
        return await self.semaphore.cancel(self.pool, self.epoch, job, ticket)

    async def restore(self, job: str, entry: dict[str, Any]) -> ScriptReply:
        return await self.semaphore.restore(self.pool, self.epoch, job, entry)

    async def configure(self, **settings: int) -> ScriptReply:
        return await self.semaphore.configure(self.pool, self.epoch, settings)

    async def undo(self, job: str, ticket: int) -> ScriptReply:
        return await self.semaphore.undo(self.pool, self.epoch, job, ticket)

    async def tick(self) -> ScriptReply:
        return await self.semaphore.tick(self.pool, self.epoch)

    async def status(self, job: str | None = None, most: int = 100) -> QueueState:
        return await self.semaphore.status(self.pool, self.epoch, job, most)

    async def holders(self) -> set[str]:
        return set((await self.status()).holders)

    async def queue(self) -> list[str]:
        return list((await self.status()).queue)

    async def notes(self) -> list[tuple[str, str, int]]:
        return [(note.kind, note.job_id, note.fence) for note in await self.semaphore.notes(self.pool)]

    async def entry(self, job: str) -> dict[str, Any]:
        """The job's JSON in `jobs`, as redis-cli would show it."""
        return json.loads(await self.client.hget(self.key("jobs"), job))

    async def lease_of(self, job: str) -> str:
        return (await self.entry(job))["lease_id"]

    def key(self, role: str) -> str:
        return f"gate:{{{self.pool}}}:{role}"

    async def dump(self) -> dict[str, Any]:
        """Everything that the pool has in Redis, for `nothing was changed`."""
        return {
            "slots": await self.client.zrange(self.key("slots"), 0, -1, withscores=True),
            "queue": await self.client.lrange(self.key("queue"), 0, -1),
            "jobs": await self.client.hgetall(self.key("jobs")),
            "outbox": await self.client.xrange(self.key("outbox")),
            "meta": await self.client.hgetall(self.key("meta")),
            "users": await self.client.zrange(self.key("users"), 0, -1),
        }

    async def sweep_up(self) -> None:
        await self.client.delete(*keys.keys(self.pool))


class House:
    """A gate without HTTP, on real stores, with an operator's redis client beside it."""

    def __init__(self, gate: RunningGate, pool: str, redis_url: str, sql_url: str, people: redis.Redis) -> None:
        self.gate, self.keeper, self.pool = gate, gate.services.jobs, pool
        self.redis_url, self.sql_url, self.people = redis_url, sql_url, people
        self._numbers = itertools.count(1)

    def key(self, role: str) -> str:
        return f"gate:{{{self.pool}}}:{role}"

    async def acquire(self, job_id: str | None = None, wait_s: float = 0, **request: Any) -> Job:
        job_id = job_id or f"{self.pool}-{next(self._numbers)}"
        return await self.gate.services.admission.acquire(self.pool, Request(job_id, **request), wait_s)

    async def release(self, job: Job, outcome: str = "completed", **more: Any) -> Job:
        assert job.lease_id is not None
        return await self.keeper.release(self.pool, job.job_id, job.lease_id, outcome, **more)

    async def look(self, job: Job | str) -> Job:
        return await self.gate.services.queries.wait(self.pool, job if isinstance(job, str) else job.job_id, "", 0)

    async def granted(self, job: Job) -> Job:
        return await self.gate.services.queries.wait(self.pool, job.job_id, "queued", 10)

    async def status(self, job: Job | str) -> str:
        return (await self.look(job)).status

    async def granted_before_its_row(self) -> str:
        """A job that waited in Redis and was granted a slot there, and of which SQL knows nothing; its entry stays in the outbox."""
        epoch = await self.gate.registry.epoch(self.pool)
        holders = [await self.acquire() for _ in range(3)]
        job_id = f"{self.pool}-unknown"
        await self.gate.semaphore.acquire(self.pool, epoch, job_id, None, None, None)
        await self.release(holders[0])
        await self.gate.recorder.run(self.pool)
        return job_id

    async def refunds(self, job: Job | str) -> list[int]:
        job_id = job if isinstance(job, str) else job.job_id
        rows, _ = await self.gate.services.ledger.entries(job_id=job_id, kind="refund")
        return [row.amount for row in rows]

    class Mute:
        """News that reaches nobody."""

        def show(self, pool: str, jobs: Any) -> None:
            return None

    def expire(self, job: Job) -> None:
        """Time passes for one lease: as if its deadline were over by Redis's clock."""
        assert self.people.zadd(self.key("slots"), {job.job_id: 1}, xx=True, ch=True) == 1

    def outbox(self) -> int:
        return int(self.people.xlen(self.key("outbox")))

    async def settled(self) -> None:
        await until(lambda: self.outbox() == 0, "the outbox is in SQL")


@contextlib.contextmanager
def fresh_database(folder: Path, server: str | None = None, like: str | None = None) -> Iterator[str]:
    """The address of an empty database, or of a copy of `like`: a file in `folder`, or one on `server` (GATE_TEST_POSTGRES_URL), gone
    afterwards.
    """
    server = server or os.environ.get("GATE_TEST_POSTGRES_URL")
    if server is None:
        folder.mkdir(exist_ok=True)
        if like:
            shutil.copy(like.removeprefix("sqlite:///"), folder / "gate.db")
        yield f"sqlite:///{folder / 'gate.db'}"
        return
    name = f"t_{secrets.token_hex(8)}"
    admin = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        copied = sa.make_url(like).database if like else "template1"
        if like:  # a pooler before this Postgres keeps its sessions, and nobody may be in a database that is copied
            connection.exec_driver_sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{copied}'")
        connection.exec_driver_sql(f"create database {name} template {copied}")
        try:
            yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"drop database {name} with (force)")
    admin.dispose()


def run_gate(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`gate WORDS`, as at a terminal."""
    return warm().run(list(words), cwd, gate_environment(**environment), 60)


def gate_environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
    return inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"} | more


class Served:
    """A `gate serve` process and an HTTP client for it."""

    def __init__(self, folder: Path, *flags: str, config: str = "", on_defaults: bool = False, **environment: str) -> None:
        """`on_defaults`: embedded Valkey and SQLite, whatever stores the run is on."""
        self.folder = folder
        self._flags = flags
        self._environment = environment
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, self._closing.close)  # the stores outlive a restart
        stores = "" if on_defaults else self._stores_of_the_run()
        (folder / "gate.toml").write_text(stores + config)
        self.process: subprocess.Popen[str]
        self.said: list[str] = []

    def _stores_of_the_run(self) -> str:
        """The lines of gate.toml that name them, if they are not the defaults."""
        lines = ""
        if (program := other_redis()) is not None:
            redis_server = EmbeddedRedis(self.folder, program)
            redis_server.wait()
            self._closing.callback(redis_server.stop)
            lines += f'redis_url = "{redis_server.url}"\n'
        if "GATE_TEST_POSTGRES_URL" in os.environ:
            lines += f'database_url = "{self._closing.enter_context(fresh_database(self.folder))}"\n'
        return lines

    def start(self) -> None:
        self.errors = (self.folder / "errors.log").open("a")
        self.process = self._launched(["serve", "--port", "0", *self._flags], gate_environment(**self._environment))
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if "ready" not in first:
            raise AssertionError((self.folder / "errors.log").read_text())
        self.said = [first]
        while not (line := self.process.stdout.readline()).startswith("  data"):
            self.said.append(line)
        running = DataDir(self.folder / ".gate").running()
        assert running is not None
        self.url, self.redis_url, self.sql_url = running.http, running.redis_url, running.sql_url
        self.http = httpx2.Client(base_url=self.url, timeout=70)

    def _launched(self, words: list[str], environment: dict[str, str]) -> Any:
        return subprocess.Popen(
            [sys.executable, "-m", "gate", *words], cwd=self.folder, env=environment, stdout=subprocess.PIPE,
            stderr=self.errors, text=True,
        )  # fmt: skip

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        self._close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self._close()

    def _close(self) -> None:
        self.http.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()

    def post(self, path: str, body: Any = None) -> httpx2.Response:
        return self.http.post(path, json=body if body is not None else {})

    def sql(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        """As somebody with a database client: `@` stands before a table of gate's."""
        url = sa.make_url(self.sql_url)
        sqlite = url.get_backend_name() == "sqlite"
        engine = sa.create_engine(url.set(drivername="sqlite+pysqlite" if sqlite else "postgresql+psycopg"))
        with engine.begin() as connection:
            found = connection.execute(sa.text(text.replace("@", "" if sqlite else "gate.")), values)
            rows = [tuple(row) for row in found] if found.returns_rows else []
        engine.dispose()
        return rows

    def acquire(self, pool: str = "default", **body: Any) -> httpx2.Response:
        return self.post(f"/v1/pools/{pool}/acquire", body)

    def act(self, job: dict[str, Any], verb: str, **body: Any) -> httpx2.Response:
        """A verb on a job by its own lease."""
        if job["lease"] and verb != "cancel":
            body = {"lease_id": job["lease"]["lease_id"]} | body
        return self.post(f"/v1/pools/{job['pool']}/jobs/{job['job_id']}/{verb}", body)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.stop()


def fresh(prefix: str = "j") -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


def shell_blocks(markdown: str) -> list[str]:
    """The ```shell blocks of a page, in order."""
    return re.findall(r"```shell\n(.*?)```", markdown, flags=re.DOTALL)
