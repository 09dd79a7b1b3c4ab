"""Makes the calls that gate owes to tools, at least once each, in order per job and kind.

The row is the right to call: it is taken by compare-and-set and held for longer than a call may take, so two servers never call
at once for one grant. A server that dies in a call finds its row again when it comes back, another when the hold is over.
What a start call was answered goes into SQL first, then the row is done: whoever dies between the two calls again with the
same `webhook-id`, and the tool answers as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from gate import metrics
from gate.errors import AlreadyEnded, JobUnknown, LeaseLost, PoolUnknown, StoreDown
from gate.jobs import Job
from gate.keeper.calling import Answer, Caller
from gate.ledger import Deliveries, Delivery, Started
from gate.tools import Tools

log = structlog.get_logger("gate.deliver")

ANSWER_S = {"start": 25.0, "event": 10.0}
"""How long a call may take."""
HOLD_MS = {kind: round(seconds * 1000) + 5_000 for kind, seconds in ANSWER_S.items()}
"""The call, and the time to write down what came of it."""
WAIT_S = {"start": 0.5, "event": 1.0}
WAIT_MAX_S = {"start": 5.0, "event": 300.0}
"""Between tries: doubling. A grant has only its claim time, an event a day."""
AT_ONCE = 16
"""Calls under way of each kind to each tool: one that hangs keeps nobody but its own waiting."""
EVERY_S = 1.0
"""For what became due with time, and what another server wrote."""
SETTLE_S = 2.0
"""For calls under way when a stop was asked for."""


class Starting(Protocol):
    """What an answer to a start call does; each raises LeaseLost, AlreadyEnded or JobUnknown when it comes too late."""

    async def started(self, pool: str, job_id: str, lease_id: str, started: Started) -> Job: ...

    async def release(
        self, pool: str, job_id: str, lease_id: str, outcome: str, error: str | None, output: None, by: str
    ) -> Job: ...


class Deliver:
    def __init__(self, deliveries: Deliveries, tools: Tools, starting: Starting, caller: Caller) -> None:
        self._deliveries, self._tools, self._starting, self._caller = deliveries, tools, starting, caller
        self._lanes = [(tool.table, kind) for tool in tools for kind in ("start", "event") if tool.address(kind)]
        self._busy: Counter[tuple[str, str]] = Counter()
        self._calls: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._freed = False

    def kick(self) -> None:
        """There may be something to tell."""
        self._due.set()

    async def keep(self) -> None:
        """For ever."""
        while True:
            self._due.clear()
            try:
                if not self._freed:
                    await self._deliveries.free()
                    self._freed = True
                await self._take()
            except StoreDown as error:
                log.debug("nothing is delivered", error=str(error))
                self._due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._due.wait()

    async def settle(self) -> None:
        """Lets calls that are under way come to their end, for a while. Who is cut off is called again."""
        if self._calls:
            _, left = await asyncio.wait(self._calls, timeout=SETTLE_S)
            for call in left:
                call.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self) -> None:
        room = {lane: AT_ONCE - self._busy[lane] for lane in self._lanes}
        asked = time.monotonic()
        for delivery in await self._deliveries.take(HOLD_MS, room):
            self._busy[delivery.lane] += 1
            call = asyncio.create_task(self._deliver(delivery, asked + HOLD_MS[delivery.kind] / 1000))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _deliver(self, delivery: Delivery, until: float) -> None:
        """`until` by time.monotonic(): from then on the row may be another server's."""
        try:
            if time.monotonic() > until - ANSWER_S[delivery.kind]:  # this process stood still, or the commit took its time
                await _recorded(lambda: self._deliveries.put_off(delivery, 0, "not called: it took too long"), until)
                return
            answer = await self._caller.call(self._tools[delivery.tool], delivery, ANSWER_S[delivery.kind])
            heed = self._heed_start if delivery.kind == "start" else self._heed_event
            await _recorded(lambda: heed(delivery, answer), until)
        except Exception:
            log.exception(
                "a delivery fell; it is made again",
                webhook_id=delivery.webhook_id,
                pool=delivery.pool,
                job_id=delivery.job_id,
            )
        finally:
            self._busy[delivery.lane] -= 1
            self._due.set()  # the next of this job, or of this lane

    async def _heed_event(self, delivery: Delivery, answer: Answer) -> None:
        if answer.good:
            await self._close(delivery, "delivered")
        else:
            await self._again(delivery, answer)

    async def _heed_start(self, delivery: Delivery, answer: Answer) -> None:
        assert delivery.lease_id is not None
        grant = (delivery.pool, delivery.job_id, delivery.lease_id)
        about = {"pool": delivery.pool, "job_id": delivery.job_id, "tool": delivery.tool}
        try:
            if answer.refused:
                why = None if answer.good else answer.why
                await self._starting.release(*grant, "refused", why, None, "tool")
                await self._close(delivery, "refused", why)
            elif answer.good:
                provider = self._tools[delivery.tool].provider
                if answer.task_id is None and answer.said.keys() & {"task_id", "taskId"}:
                    log.warning("a start call named its task in no way that gate can bind", **about)
                await self._starting.started(*grant, Started(delivery.id, provider, answer.task_id))
                metrics.deliveries["start", "delivered"] += 1
            elif answer.final:
                log.warning("a start call failed for good", **about, why=answer.why)
                await self._starting.release(*grant, "failed", answer.why, None, "tool")
                await self._close(delivery, "failed", answer.why)
            else:
                await self._again(delivery, answer)
        except (LeaseLost, AlreadyEnded, JobUnknown, PoolUnknown):
            task = f"; its task is {answer.task_id}" if answer.task_id else ""
            log.warning("a start call was answered too late", **about, task=answer.task_id)
            await self._close(delivery, "over", f"answered {answer.status} too late{task}")

    async def _close(self, delivery: Delivery, result: str, error: str | None = None) -> None:
        await self._deliveries.close(delivery, result, error)
        metrics.deliveries[delivery.kind, result] += 1

    async def _again(self, delivery: Delivery, answer: Answer) -> None:
        wait_s = min(WAIT_S[delivery.kind] * 2 ** min(delivery.attempts - 1, 20), WAIT_MAX_S[delivery.kind])
        wait_ms = round(wait_s * 1000 * random.uniform(0.8, 1.2))  # not all at once, when a tool comes back
        told = {
            "pool": delivery.pool,
            "job_id": delivery.job_id,
            "tool": delivery.tool,
            "type": delivery.type,
            "why": answer.why,
        }
        if delivery.attempts == 1:
            log.warning("not delivered yet", **told)
        stays = await self._deliveries.put_off(delivery, wait_ms, answer.why)
        metrics.deliveries[delivery.kind, "put_off" if stays else "given_up"] += 1
        if not stays:
            log.error("given up after a day", **told)
        asyncio.get_running_loop().call_later((wait_ms + 10) / 1000, self.kick)  # then, and not up to a second later


async def _recorded(record: Callable[[], Awaitable[object]], until: float) -> None:
    """What was answered is not forgotten because a store is away for a moment: tried again while the row is held."""
    while True:
        try:
            await record()
            return
        except StoreDown as error:
            if time.monotonic() > until:
                log.warning("an answer could not be recorded; the call is made again", error=str(error))
                return
            await asyncio.sleep(WAIT_S["start"])
