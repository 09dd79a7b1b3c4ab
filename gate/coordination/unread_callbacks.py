"""Callbacks that could not be read: kept where they come in, and applied to a job by an operator who can read them."""

from __future__ import annotations

import contextlib
from typing import assert_never

import structlog

from gate.coordination.notifier import Notifier
from gate.coordination.pool_registry import PoolRegistry
from gate.ledger import ApplyResult, UnreadCallbacks
from gate.ledger.queries import Unread
from gate.model.errors import AlreadyEnded, CallbackApplied, CallbackUnknown, JobUnknown, NotRunning, StoreDown
from gate.model.job import POOL_NAME, Job
from gate.providers import salvage
from gate.providers.parsing import clean
from gate.telemetry import counters

log = structlog.get_logger("gate.unread")


class UnreadCallbackDesk:
    """`callbacks` reads what is kept."""

    def __init__(self, pools: PoolRegistry, news: Notifier, callbacks: UnreadCallbacks) -> None:
        self._pools, self._news, self.callbacks = pools, news, callbacks

    async def keep(self, pool: str, provider: str, raw: bytes, why: str) -> None:
        """Count, log and keep a callback whose secret was right. Of an unknown pool it is counted and logged only.

        Raises:
            StoreDown: SQL does not take it. A provider that hears 503 calls again, so nothing is lost by saying so.
        """
        text = clean(raw.decode("utf-8", "replace"))
        task_id = salvage.task_id(text)
        counters.unread_callbacks[provider] += 1
        log.warning("callback.unread", provider=provider, pool=clean(pool), task_id=task_id, why=why)
        if POOL_NAME.fullmatch(pool):
            await self.callbacks.keep(pool, provider, raw, text, task_id, why)

    async def apply(self, callback_id: int, job_id: str, outcome: str, reason: str, by: str = "operator") -> Job:
        """End a job of the callback's pool as the provider would have ended it, with its refund, and free its slot.

        Args:
            outcome: `completed` (the body becomes the output), `failed` or `cancelled` (the reason becomes the error).
            reason: Why the operator takes the callback for this; it is kept in the history.
            by: The name of the operator's key.

        Returns:
            The job. One that had expired keeps its status and its refund; the outcome is its late outcome.

        Raises:
            CallbackUnknown: There is no such callback.
            CallbackApplied: It was applied before.
            JobUnknown: Its pool has no such job.
            NotRunning: The job waits and holds no slot.
            AlreadyEnded: The job has ended, and nothing can be added to that.
            StoreDown: A store does not answer; nothing was changed.
        """
        one = await self.callbacks.one(callback_id)
        if one is None:
            raise CallbackUnknown(f"there is no unread callback {callback_id}")
        output = salvage.output(one.body) if outcome == "completed" else None
        applied = await self.callbacks.apply(one, job_id, outcome, reason, by, output)
        job = applied.job
        match applied.result:
            case ApplyResult.GONE:
                raise CallbackUnknown(f"there is no unread callback {callback_id} any more")
            case ApplyResult.SPENT:
                raise CallbackApplied(f"callback {callback_id} was applied or dismissed before; each is applied once")
            case ApplyResult.UNKNOWN:
                raise JobUnknown(f"there is no such job in pool {one.pool!r}, where callback {callback_id} came in")
            case ApplyResult.WAITING:
                raise NotRunning("this job waits and holds no slot, so no callback can be about it", job)
            case ApplyResult.HISTORY:
                assert job is not None
                raise AlreadyEnded(f"this job is {job.status} already", job)
            case ApplyResult.ENDED | ApplyResult.LATE:
                assert job is not None
            case _:
                assert_never(applied.result)
        if applied.result is ApplyResult.ENDED:
            await self._free(job)  # guard: unread-callback-frees-the-slot
        self._news.tell(job.pool, [job.job_id])
        return job

    async def dismiss(self, callback_id: int, reason: str, by: str = "operator") -> Unread:
        """Settle a callback without a job: it is kept, and no longer reported.

        Args:
            reason: Why it is about no job; it is kept with the callback.
            by: The name of the operator's key.

        Raises:
            CallbackUnknown: There is no such callback.
            CallbackApplied: It was applied or dismissed before.
            StoreDown: SQL does not answer; nothing was changed.
        """
        one = await self.callbacks.one(callback_id)
        if one is None:
            raise CallbackUnknown(f"there is no unread callback {callback_id}")
        if not await self.callbacks.dismiss(one, reason, by):
            raise CallbackApplied(f"callback {callback_id} was applied or dismissed before")
        log.info("callback.dismissed", callback=callback_id, by=by)
        return await self.callbacks.one(callback_id) or one

    async def _free(self, job: Job) -> None:
        with contextlib.suppress(StoreDown):  # its own deadline frees it at the latest
            await self._pools.pool(job.pool).release(job.job_id, job.lease_id or "")
