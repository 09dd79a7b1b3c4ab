"""The slots, the queue and the outbox of one pool: a method for each script, under the epoch that the registry of pools knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Protocol, TypeVar

from gate.model.job import Job, Request, RequeueReason
from gate.model.messages import OutboxEntry
from gate.slots import (
    AcquireReply,
    ExtendReply,
    QueueState,
    RedisSnapshot,
    RestoreResult,
    ScriptReply,
    Semaphore,
    entry_codec,
)

R = TypeVar("R", bound=ScriptReply[StrEnum])


class ScriptRunner(Protocol):
    """What runs a script under the current epoch of a pool: the registry of pools."""

    @property
    def newest(self) -> int:
        """ID of the newest event that was read from SQL."""

    async def run(
        self, pool: str, script: Callable[[int], Awaitable[R]], *, grants_or_reaps: bool = True, is_tick: bool = False
    ) -> R:
        """Run a script. See `PoolRegistry.run`."""


class PoolSlots:
    """The slots, the queue and the outbox of one pool, under the current epoch.

    A call that runs a script loads the pool first when Redis has lost it. Every call raises PoolUnknown and StoreDown.
    """

    def __init__(self, runner: ScriptRunner, semaphore: Semaphore, name: str) -> None:
        self._pools, self._semaphore, self._name = runner, semaphore, name

    async def acquire(self, request: Request, or_wait: bool = True) -> AcquireReply:
        """Take a slot, or join the queue. See `Semaphore.acquire`."""
        own = (request.lease_ms, or_wait, request.starts, request.queue_ms, request.presence_ms)
        facts = (request.job_id, request.user, request.tool, *own)
        return await self._run(lambda epoch: self._semaphore.acquire(self._name, epoch, *facts))

    async def claim(self, job_id: str, lease_id: str, by_gate: bool = False) -> ExtendReply:
        """Start a granted job. See `Semaphore.claim`."""
        return await self._run(lambda epoch: self._semaphore.claim(self._name, epoch, job_id, lease_id, by_gate))

    async def renew(self, job_id: str, lease_id: str, lease_ms: int | None = None) -> ExtendReply:
        """Extend a lease by `lease_ms` (ms) from now; None for the job's own length."""
        return await self._run(lambda epoch: self._semaphore.renew(self._name, epoch, job_id, lease_id, lease_ms))

    async def hold(self, job_id: str, lease_id: str) -> ExtendReply:
        """Extend a grant whose start call is under way. See `Semaphore.hold`."""
        return await self._run(lambda epoch: self._semaphore.hold(self._name, epoch, job_id, lease_id))

    async def release(self, job_id: str, lease_id: str) -> None:
        """Free the slot of a lease, if it still holds one."""
        await self._run(lambda epoch: self._semaphore.release(self._name, epoch, job_id, lease_id))

    async def drain(self, job_id: str, lease_id: str, drain_ms: int) -> None:
        """Keep the slot of a lease whose job has ended, while its task still runs. See `Semaphore.drain`."""
        await self._run(lambda epoch: self._semaphore.drain(self._name, epoch, job_id, lease_id, drain_ms))

    async def drained(self, job_id: str, lease_id: str) -> None:
        """Free a slot that drains, because its task is over.

        Args:
            job_id: The job.
            lease_id: The lease that it had.
        """
        await self.release(job_id, lease_id)  # the drain may still be on its way
        await self.release(job_id, f"drain:{lease_id}")

    async def cancel(self, *job_ids: str, ticket: int | None = None) -> None:
        """Remove jobs from their slots or from the queue, if they are there, by one script. See `Semaphore.cancel`."""
        await self._run(lambda epoch: self._semaphore.cancel(self._name, epoch, *job_ids, ticket=ticket))

    async def leave(self, job: Job, drain_ms: int) -> None:
        """Free the place of a job that has ended in SQL, when its end may not have reached Redis.

        Args:
            job: The job.
            drain_ms: How long (ms) its slot stays at most, because its task still runs; 0 when it does not.
        """
        if drain_ms and job.lease_id:
            await self.drain(job.job_id, job.lease_id, drain_ms)  # guard: sweep-starts-a-drain
        await self.cancel(job.job_id)  # guard: ended-job-leaves

    async def undo(self, job_id: str, ticket: int) -> None:
        """Take back the place that a first call under `ticket` took, unless another call relies on it."""
        script = self._semaphore.undo
        await self._pools.run(self._name, lambda epoch: script(self._name, epoch, job_id, ticket), grants_or_reaps=False)

    async def requeue(self, job: Job, fence: int, why: RequeueReason, at_least_ms: int = 0) -> None:
        """Put a job whose grant was given back to its place in the queue. See `Semaphore.requeue`."""
        entry = entry_codec.waiting(job)  # after the change in SQL the lease may have been reaped, and the entry with it
        script = self._semaphore.requeue
        await self._run(
            lambda epoch: script(
                self._name,
                epoch,
                job.job_id,
                fence,
                why,
                entry,  # guard: requeue-restores-a-reaped-job
                at_least_ms,
            )
        )

    async def restore(self, job: Job) -> bool:
        """Put back a lease that SQL has and Redis has lost.

        Returns:
            False when that is not necessary, or no slot is free for it.
        """
        entry = entry_codec.holding(job)
        reply = await self._run(lambda epoch: self._semaphore.restore(self._name, epoch, job.job_id, entry))
        return reply.result is RestoreResult.RESTORED  # guard: sweep-restored-lease

    async def configure(self, settings: dict[str, int]) -> None:
        """Copy settings of the pool from SQL into Redis."""
        await self._run(lambda epoch: self._semaphore.configure(self._name, epoch, settings))

    async def tick(self, resets: bool = False) -> int:
        """Reap leases that have run out, and grant free slots. Returns the current epoch. See `Semaphore.tick`."""
        tick = self._semaphore.tick
        run = self._pools.run
        return (await run(self._name, lambda epoch: tick(self._name, epoch, self._pools.newest, resets), is_tick=True)).epoch

    async def status(
        self, job_id: str | None = None, most: int = 0, shows: bool = False, for_good: bool = False
    ) -> QueueState:
        """Read the pool. See `Semaphore.status`."""
        return await self._run(lambda epoch: self._semaphore.status(self._name, epoch, job_id, most, shows, for_good))

    async def snapshot(self) -> RedisSnapshot:
        """Read everything of the pool at one moment. This reaps and grants nothing."""
        return await self._semaphore.survey(self._name)

    async def outbox(self, after: str | None = None, most: int = 500) -> list[OutboxEntry]:
        """Read the oldest entries of the outbox.

        Args:
            after: ID of the entry behind which to begin; None for the first.
            most: Number of entries at most.
        """
        return await self._semaphore.notes(self._name, after, most)

    async def delete_from_outbox(self, entry_ids: Iterable[str]) -> None:
        """Delete entries of the outbox that SQL has recorded."""
        await self._semaphore.delete_notes(self._name, entry_ids)

    async def _run(self, script: Callable[[int], Awaitable[R]]) -> R:
        return await self._pools.run(self._name, script)
