"""The Lua scripts of one pool, called without a gate, on real Valkey or fakeredis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gate.ledger import PoolSettings
from gate.slots import AcquireReply, ExtendReply, QueueState, RebuildReply, ScriptReply, Semaphore, keys
from tests.support.clock import Clock

SETTINGS = {
    "limit": 3, "lease_ms": 600_000, "max_hold_ms": 3_600_000, "claim_ms": 60_000, "queue_ms": 600_000,
    "queue_max": 1000, "cooldown_ms": 5_000, "max_active_per_user": 0,
    "queue_max_per_user": 0,
    "refusals_before_passing": 3,
}  # fmt: skip


def settings_of(**changed: Any) -> PoolSettings:
    return PoolSettings(**(SETTINGS | changed))


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

    async def ask_all(self, *what: Any) -> list[Any]:
        return [await self.ask(*words) for words in what[-1]]

    @property
    def primaries(self) -> tuple[Pinned, ...]:
        return (self,)

    def of(self, pool: str) -> Pinned:
        return self

    async def settle(self, pool: str, asked: Any, error: Exception, since: float) -> None:
        raise error


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

    async def drain(self, job: str, lease_id: str, drain_ms: int = 30_000) -> ScriptReply:
        return await self.semaphore.drain(self.pool, self.epoch, job, lease_id, drain_ms)

    async def requeue(
        self, job: str, fence: int, why: str = "refused", restore: Any = None, at_least_ms: int = 0
    ) -> ScriptReply:
        return await self.semaphore.requeue(self.pool, self.epoch, job, fence, why, restore, at_least_ms)

    async def cancel(self, *jobs: str, ticket: int | None = None) -> ScriptReply:
        return await self.semaphore.cancel(self.pool, self.epoch, *jobs, ticket=ticket)

    async def restore(self, job: str, entry: dict[str, Any]) -> ScriptReply:
        return await self.semaphore.restore(self.pool, self.epoch, job, entry)

    async def configure(self, **settings: int) -> ScriptReply:
        return await self.semaphore.configure(self.pool, self.epoch, settings)

    async def undo(self, job: str, ticket: int) -> ScriptReply:
        return await self.semaphore.undo(self.pool, self.epoch, job, ticket)

    async def tick(self, resets: bool = False) -> ScriptReply:
        return await self.semaphore.tick(self.pool, self.epoch, resets=resets)

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
