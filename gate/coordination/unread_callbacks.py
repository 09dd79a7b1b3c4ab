"""Callbacks that could not be read: kept when they arrive, and applied to a job by an operator who can read them."""

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
from gate.model.messages import Outcome
from gate.providers import PROVIDERS, salvage
from gate.providers.parsing import clean
from gate.telemetry import counters

log = structlog.get_logger("gate.unread")


class UnreadCallbackDesk:
    """Keeps, applies and dismisses unread callbacks.

    Attributes:
        callbacks: The unread callbacks in SQL.
    """

    def __init__(self, pools: PoolRegistry, news: Notifier, callbacks: UnreadCallbacks) -> None:
        self._pools, self._news, self.callbacks = pools, news, callbacks

    async def keep(self, pool: str, provider: str, raw: bytes, why: str) -> None:
        """Count, log and keep a callback whose secret was right.

        Args:
            pool: Name of the pool that the callback names. Without such a pool it is only counted and logged.
            provider: The provider, by its name.
            raw: The body as it came.
            why: What could not be read.

        Raises:
            StoreDown: SQL does not take it. The provider is answered 503 then and calls again, so nothing is lost.
        """
        text = clean(raw.decode("utf-8", "replace"))
        task_id = salvage.task_id(text, PROVIDERS[provider].task_names)
        counters.unread_callbacks[provider] += 1
        log.warning("callback.unread", provider=provider, pool=clean(pool), task_id=task_id, why=why)
        if POOL_NAME.fullmatch(pool):
            await self.callbacks.keep(pool, provider, raw, text, task_id, why)

    async def apply(self, callback_id: int, job_id: str, outcome: Outcome, reason: str, by: str = "operator") -> Job:
        """End a job of the callback's pool as the provider would have ended it, with its refund, and free its slot.

        Args:
            callback_id: ID of the callback.
            job_id: The job.
            outcome: `completed` (the body becomes the output), `failed` or `cancelled` (the reason becomes the error).
            reason: How the operator knows the outcome. It is kept in the history.
            by: The name of the operator's key.

        Returns:
            The job. An expired job keeps its status and its refund, and the outcome becomes its late outcome.

        Raises:
            CallbackUnknown: There is no such callback.
            CallbackApplied: It was applied or dismissed before.
            JobUnknown: Its pool has no such job.
            NotRunning: The job waits and holds no slot.
            AlreadyEnded: The job has ended, and the outcome cannot be added.
            StoreDown: SQL does not answer, and nothing was changed.
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
                raise AlreadyEnded.of(job)
            case ApplyResult.ENDED | ApplyResult.LATE:
                assert job is not None
            case _:
                assert_never(applied.result)
        if applied.result is ApplyResult.ENDED:
            await self._free(job)  # guard: unread-callback-frees-the-slot
        self._news.tell(job.pool, [job.job_id])
        return job

    async def dismiss(self, callback_id: int, reason: str, by: str = "operator") -> Unread:
        """Settle a callback without a job. It is kept, and no longer reported.

        Args:
            callback_id: ID of the callback.
            reason: Why it is about no job. It is kept with the callback.
            by: The name of the operator's key.

        Raises:
            CallbackUnknown: There is no such callback.
            CallbackApplied: It was applied or dismissed before.
            StoreDown: SQL does not answer, and nothing was changed.

        Returns:
            The callback.
        """
        one = await self.callbacks.one(callback_id)
        if one is None:
            raise CallbackUnknown(f"there is no unread callback {callback_id}")
        if not await self.callbacks.dismiss(one, reason, by):
            raise CallbackApplied(f"callback {callback_id} was applied or dismissed before")
        log.info("callback.dismissed", callback=callback_id, by=by)
        return await self.callbacks.one(callback_id) or one

    async def _free(self, job: Job) -> None:
        with contextlib.suppress(StoreDown):  # without Redis the slot is freed when its lease expires
            await self._pools.pool(job.pool).release(job.job_id, job.lease_id or "")
