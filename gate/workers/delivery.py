"""The worker that delivers calls to tools, at least once each, and in order for each job and kind.

A server may make a call only while it holds the call's row. It takes the row by compare-and-set, and holds it for longer than
the call may take. So two servers never call at once for one grant. If a server dies in a call, it finds its row again when it
comes back. Another server takes the row when the hold is over.

The answer to a start call is recorded in SQL first, then the row is closed. A server that dies between the two makes the call
again with the same `webhook-id`, and the tool answers as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

import structlog

from gate.coordination.jobs import JobCoordinator
from gate.ledger import Deliveries, Delivery
from gate.model.errors import AlreadyEnded, JobUnknown, LeaseLost, PoolUnknown, StoreDown
from gate.model.job import RequeueReason
from gate.model.messages import DeliveryResult, StartReply
from gate.model.tool import Tools
from gate.telemetry import counters
from gate.workers.webhook_client import Verdict, WebhookClient, WebhookResponse

log = structlog.get_logger("gate.deliver")

ANSWER_S = {"start": 150.0, "event": 10.0}
"""Timeout (s) of a call. A start call may upload a picture, and wait for the provider's own queue."""
HOLD_MS = {"start": 30_000, "event": 15_000}
"""Time (ms) for which a taken row is held: for the call, and for the record of its answer.

A start call that takes longer extends the hold of its row, and its grant, again and again."""
HOLD_AGAIN_S = 10.0
"""Longest time (s) between two such extensions, so that other servers soon get the row of a server that has died."""
CALLED_WITHIN_S = {"start": 5.0, "event": 10.0}
"""Time (s) for which a row must still be held when its call begins: for the whole call, or until the hold is extended."""
FIRST_HOLD_S = 0.25
"""Time (s) until the first extension. Most start calls are answered before it, and so cost none."""
UNWELL_TRIES = 4
"""Calls under one webhook-id that may be answered 5xx before the job goes back to its place.

The tool may have started the job, and its answer was lost. It answers a repeat under the same id with that task. A new grant
would start a second task."""
UNDER_WAY_TRIES = 32
"""Calls that may be answered "this start is under way" while the grant is held: about as long as one call may take.

An earlier call with this webhook-id was cut off, by a restart of gate or on the way, and the tool is still at it. After that the
claim time runs: the tool was cut off too, and will never know whether it started the job."""
WAIT_S = {"start": 0.5, "event": 1.0}
"""Pause (s) after the first failed try. It doubles with each try."""
WAIT_MAX_S = {"start": 5.0, "event": 300.0}
"""Longest pause (s) between tries. A grant has only its claim time, an event a day."""
AT_ONCE = 16
"""Calls of each kind to each tool at once, so that a tool that hangs delays only its own calls."""
EVERY_S = 1.0
"""Longest pause (s) between two looks for due calls. Another server may have written a call without a wake-up here."""
UNSTARTED = (Verdict.REFUSED, Verdict.TOOL_DOWN, Verdict.FAILED)
"""Answers to a start call that say that no task runs."""
SETTLE_S = 2.0
"""Time (s) that calls have to end when the server stops."""


class DeliveryWorker:
    """Makes the calls that are due to tools, and records their answers."""

    def __init__(self, deliveries: Deliveries, tools: Tools, jobs: JobCoordinator, caller: WebhookClient) -> None:
        self._deliveries, self._tools, self._jobs, self._caller = deliveries, tools, jobs, caller
        self._lanes = [(tool.table, kind) for tool in tools for kind in ("start", "event") if tool.address(kind)]
        self._busy: Counter[tuple[str, str]] = Counter()
        self._calls: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._freed = False

    def kick(self) -> None:
        """Wake the worker, because a call may be due."""
        self._due.set()

    async def keep(self) -> None:
        """Make due calls, for ever."""
        while True:
            self._due.clear()
            try:
                if not self._freed:
                    await self._deliveries.free()  # guard: free-deliveries-of-a-dead-server
                    self._freed = True
                await self._take()
            except StoreDown as error:
                log.debug("delivery.store_away", error=str(error))
                self._due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._due.wait()

    async def settle(self) -> None:
        """Wait up to 2 s for calls under way, then cancel them. A cancelled call is made again later."""
        if self._calls:
            _, left = await asyncio.wait(self._calls, timeout=SETTLE_S)
            for call in left:
                call.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self) -> None:
        free = {lane: AT_ONCE - self._busy[lane] for lane in self._lanes}
        asked = time.monotonic()
        for delivery in await self._deliveries.take(HOLD_MS, free):
            self._busy[delivery.lane] += 1
            call = asyncio.create_task(self._deliver(delivery, asked + HOLD_MS[delivery.kind] / 1000))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _deliver(self, delivery: Delivery, until: float) -> None:
        """Make one call. From `until`, by `time.monotonic()` (s), another server may take its row."""
        held = _Held(until)
        try:
            if time.monotonic() > until - CALLED_WITHIN_S[delivery.kind]:  # this process was paused, or the commit was slow
                await _record_answer(lambda: self._deliveries.put_off(delivery, 0, "not called: it took too long"), held)
                return
            answer = await self._call(delivery, held)
            apply = self._apply_start_answer if delivery.kind == "start" else self._apply_event_answer
            await _record_answer(lambda: apply(delivery, answer), held)
        except Exception:
            log.exception(
                "delivery.crashed",
                webhook_id=delivery.webhook_id,
                pool=delivery.pool,
                job_id=delivery.job_id,
            )
        finally:
            self._busy[delivery.lane] -= 1
            self._due.set()  # the next call of this job or of this lane may go now

    async def _call(self, delivery: Delivery, held: _Held) -> WebhookResponse:
        call = self._caller.call(self._tools[delivery.tool], delivery, ANSWER_S[delivery.kind])
        if delivery.kind != "start":
            return await call
        holding = asyncio.create_task(self._hold(delivery, held))
        try:
            return await call
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    async def _hold(self, delivery: Delivery, held: _Held) -> None:
        """Extend the grant and the row while the start call is under way, so that neither runs out before the answer."""
        assert delivery.lease_id is not None
        wait_s = FIRST_HOLD_S
        while True:
            await asyncio.sleep(wait_s)
            asked = time.monotonic()
            try:
                left_s = await self._jobs.hold(delivery.pool, delivery.job_id, delivery.lease_id)
                await self._deliveries.keep(delivery, HOLD_MS["start"])
            except StoreDown as error:
                log.debug("delivery.hold_failed", error=str(error))
                wait_s = FIRST_HOLD_S
                continue
            except (LeaseLost, AlreadyEnded, JobUnknown, PoolUnknown):
                return  # the grant is over; the answer is handled as too late
            held.until = asked + HOLD_MS["start"] / 1000
            wait_s = min(HOLD_AGAIN_S, max(left_s / 3, 0.1))

    async def _apply_event_answer(self, delivery: Delivery, answer: WebhookResponse) -> None:
        if answer.good:
            await self._close(delivery, DeliveryResult.DELIVERED)
        else:
            await self._again(delivery, answer)

    async def _apply_start_answer(self, delivery: Delivery, answer: WebhookResponse) -> None:
        assert delivery.lease_id is not None
        grant = (delivery.pool, delivery.job_id, delivery.lease_id)
        about = {"pool": delivery.pool, "job_id": delivery.job_id, "tool": delivery.tool}
        try:
            verdict = await self._verdict(delivery, answer)
            match verdict:
                case Verdict.STARTED:
                    if answer.task_id is None and answer.names_task:
                        log.warning("delivery.task_id_unreadable", **about)
                    provider = self._tools[delivery.tool].provider
                    await self._jobs.started(*grant, StartReply(delivery.id, provider, answer.task_id))
                    counters.deliveries["start", DeliveryResult.DELIVERED.value] += 1
                case Verdict.REFUSED:
                    await self._give_back(delivery, answer, "refused", None if answer.good else answer.why)
                case Verdict.TOOL_DOWN:
                    log.error("tool.start_address_fails", **about, status=answer.status, why=answer.why)
                    await self._give_back(delivery, answer, "tool_down", f"{answer.why} (HTTP {answer.status})")
                case Verdict.FAILED:
                    log.warning("delivery.start_failed", **about, why=answer.why)
                    await self._jobs.release(*grant, "failed", answer.why, None, "tool")
                    await self._close(delivery, DeliveryResult.FAILED, answer.why)
                case Verdict.UNDER_WAY:
                    left_s = math.inf
                    if delivery.attempts <= UNDER_WAY_TRIES:
                        left_s = await self._jobs.hold(*grant)  # guard: hold-a-start-that-is-under-way
                    await self._again(delivery, answer, left_s / 3)
                case Verdict.UNWELL | Verdict.SILENT:
                    await self._again(delivery, answer)
                case _:
                    assert_never(verdict)
        except (LeaseLost, AlreadyEnded, JobUnknown, PoolUnknown):
            task = f"; its task is {answer.task_id}" if answer.task_id else ""
            log.warning("delivery.answered_too_late", **about, task=answer.task_id)
            if answer.task_id is not None or answer.verdict in UNSTARTED:
                started = StartReply(delivery.id, self._tools[delivery.tool].provider, answer.task_id)
                with contextlib.suppress(PoolUnknown):
                    await self._jobs.start_late(*grant, started)
            await self._close(delivery, DeliveryResult.OVER, f"answered {answer.status} too late{task}")

    async def _give_back(self, delivery: Delivery, answer: WebhookResponse, back: RequeueReason, why: str | None) -> None:
        """Send a job that the tool did not start back to its place in the queue."""
        assert delivery.lease_id is not None
        grant = (delivery.pool, delivery.job_id, delivery.lease_id)
        down = back == "refused" and answer.account_down
        await self._jobs.give_back(*grant, back, why, by="tool", at_least_s=answer.retry_after_s, account_down=down)
        await self._close(delivery, DeliveryResult(back), why)

    async def _verdict(self, delivery: Delivery, answer: WebhookResponse) -> Verdict:
        """Return the meaning of an answer. A tool that failed is called again, but not too often, and only while the grant lasts."""
        if answer.verdict is not Verdict.UNWELL:
            return answer.verdict
        if delivery.attempts >= UNWELL_TRIES:  # guard: ask-an-unwell-tool-again
            return Verdict.REFUSED
        if answer.retry_after_s:
            assert delivery.lease_id is not None
            left_s = await self._jobs.hold(delivery.pool, delivery.job_id, delivery.lease_id)
            if answer.retry_after_s > left_s / 2:  # the next call would come too late for this grant
                return Verdict.REFUSED
        return Verdict.UNWELL

    async def _close(self, delivery: Delivery, result: DeliveryResult, error: str | None = None) -> None:
        await self._deliveries.close(delivery, result, error)
        counters.deliveries[delivery.kind, result.value] += 1

    async def _again(self, delivery: Delivery, answer: WebhookResponse, most_s: float = math.inf) -> None:
        wait_s = min(WAIT_S[delivery.kind] * 2 ** min(delivery.attempts - 1, 20), WAIT_MAX_S[delivery.kind])
        wait_s = min(
            max(wait_s * random.uniform(0.8, 1.2), answer.retry_after_s), most_s
        )  # jitter: no burst for a tool that is back
        wait_ms = round(wait_s * 1000)
        fields = {
            "pool": delivery.pool,
            "job_id": delivery.job_id,
            "tool": delivery.tool,
            "type": delivery.type,
            "why": answer.why,
        }
        if delivery.attempts == 1:
            if answer.moved_to is not None:
                log.error("delivery.redirected", **fields, moved_to=answer.moved_to)
            else:
                log.warning("delivery.put_off", **fields)
        stays = await self._deliveries.put_off(delivery, wait_ms, answer.why)
        counters.deliveries[delivery.kind, "put_off" if stays else DeliveryResult.GIVEN_UP.value] += 1
        if not stays:
            log.error("delivery.given_up", **fields)
        asyncio.get_running_loop().call_later((wait_ms + 10) / 1000, self.kick)  # without it up to EVERY_S later


@dataclass(slots=True)
class _Held:
    """The hold of a row.

    Attributes:
        until: Time by `time.monotonic()` (s) before which no other server takes the row.
    """

    until: float


async def _record_answer(record: Callable[[], Awaitable[object]], held: _Held) -> None:
    """Record an answer. While the row is held, try again when a store is away."""
    while True:
        try:
            await record()
            return
        except StoreDown as error:
            if time.monotonic() > held.until:
                log.warning("delivery.answer_not_recorded", error=str(error))
                return
            await asyncio.sleep(WAIT_S["start"])
