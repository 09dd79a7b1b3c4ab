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
from dataclasses import dataclass
from typing import assert_never

import structlog

from gate.coordination.jobs import JobCoordinator
from gate.ledger import Deliveries, Delivery
from gate.model.errors import AlreadyEnded, JobUnknown, LeaseLost, PoolUnknown, StoreDown
from gate.model.messages import StartReply
from gate.model.tool import Tools
from gate.telemetry import counters
from gate.workers.webhook_client import Verdict, WebhookClient, WebhookResponse

log = structlog.get_logger("gate.deliver")

ANSWER_S = {"start": 150.0, "event": 10.0}
"""How long (s) a call may take. A start call may upload a picture, and wait for the provider's own queue."""
HOLD_MS = {"start": 30_000, "event": 15_000}
"""How long (ms) a taken row is held: for the call, and to write down what came of it. A start call that takes longer holds its row,
and its grant, again and again."""
HOLD_AGAIN_S = 10.0
"""Longest time (s) between two such holds: a server that dies leaves its row to the others soon."""
CALLED_WITHIN_S = {"start": 5.0, "event": 10.0}
"""How long (s) a row has to be held still when its call begins: for the whole call, or until its first further hold."""
FIRST_HOLD_S = 0.25
"""Most start calls are answered before it, and need no hold."""
UNWELL_TRIES = 4
"""Calls under one webhook-id that may be answered 5xx before the job goes back to its place. The tool may have started the job and lost
the answer: a repeat under the same id is answered with that task, a new grant would start a second one."""
WAIT_S = {"start": 0.5, "event": 1.0}
WAIT_MAX_S = {"start": 5.0, "event": 300.0}
"""Between tries: doubling. A grant has only its claim time, an event a day."""
AT_ONCE = 16
"""Calls under way of each kind to each tool: one that hangs keeps nobody but its own waiting."""
EVERY_S = 1.0
"""For what became due with time, and what another server wrote."""
SETTLE_S = 2.0
"""For calls under way when a stop was asked for."""


class DeliveryWorker:
    def __init__(self, deliveries: Deliveries, tools: Tools, jobs: JobCoordinator, caller: WebhookClient) -> None:
        self._deliveries, self._tools, self._jobs, self._caller = deliveries, tools, jobs, caller
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
                    await self._deliveries.free()  # guard: free-deliveries-of-a-dead-server
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
        """Make one call. `until` by time.monotonic(): from then on the row may be another server's."""
        held = _Held(until)
        try:
            if time.monotonic() > until - CALLED_WITHIN_S[delivery.kind]:  # this process, or the commit, took its time
                await _recorded(lambda: self._deliveries.put_off(delivery, 0, "not called: it took too long"), held)
                return
            answer = await self._called(delivery, held)
            heed = self._heed_start if delivery.kind == "start" else self._heed_event
            await _recorded(lambda: heed(delivery, answer), held)
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

    async def _called(self, delivery: Delivery, held: _Held) -> WebhookResponse:
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
        """While the start call is under way neither its grant's claim time runs out nor does another server take its row."""
        assert delivery.lease_id is not None
        wait_s = FIRST_HOLD_S
        while True:
            await asyncio.sleep(wait_s)
            asked = time.monotonic()
            try:
                left_s = await self._jobs.hold(delivery.pool, delivery.job_id, delivery.lease_id)
                await self._deliveries.keep(delivery, HOLD_MS["start"])
            except StoreDown as error:
                log.debug("a start call is not held", error=str(error))
                wait_s = FIRST_HOLD_S
                continue
            except (LeaseLost, AlreadyEnded, JobUnknown, PoolUnknown):
                return  # its answer comes too late
            held.until = asked + HOLD_MS["start"] / 1000
            wait_s = min(HOLD_AGAIN_S, max(left_s / 3, 0.1))

    async def _heed_event(self, delivery: Delivery, answer: WebhookResponse) -> None:
        if answer.good:
            await self._close(delivery, "delivered")
        else:
            await self._again(delivery, answer)

    async def _heed_start(self, delivery: Delivery, answer: WebhookResponse) -> None:
        assert delivery.lease_id is not None
        grant = (delivery.pool, delivery.job_id, delivery.lease_id)
        about = {"pool": delivery.pool, "job_id": delivery.job_id, "tool": delivery.tool}
        verdict = answer.verdict
        if (
            verdict is Verdict.UNWELL
            # guard: ask-an-unwell-tool-again
            and delivery.attempts >= UNWELL_TRIES
        ):
            verdict = Verdict.REFUSED
        try:
            match verdict:
                case Verdict.STARTED:
                    if answer.task_id is None and answer.names_task:
                        log.warning("a start call named its task in no way that gate can bind", **about)
                    provider = self._tools[delivery.tool].provider
                    await self._jobs.started(*grant, StartReply(delivery.id, provider, answer.task_id))
                    counters.deliveries["start", "delivered"] += 1
                case Verdict.REFUSED | Verdict.TOOL_DOWN:
                    why = None if answer.good else answer.why
                    if verdict is Verdict.TOOL_DOWN:
                        why = f"{answer.why} (HTTP {answer.status})"
                        log.error("tool.start_address_fails", **about, status=answer.status, why=answer.why)
                    await self._jobs.release(*grant, verdict.value, why, None, "tool")
                    await self._close(delivery, verdict.value, why)
                case Verdict.FAILED:
                    log.warning("a start call failed for good", **about, why=answer.why)
                    await self._jobs.release(*grant, "failed", answer.why, None, "tool")
                    await self._close(delivery, "failed", answer.why)
                case Verdict.UNWELL | Verdict.SILENT:
                    await self._again(delivery, answer)
                case _:
                    assert_never(verdict)
        except (LeaseLost, AlreadyEnded, JobUnknown, PoolUnknown):
            task = f"; its task is {answer.task_id}" if answer.task_id else ""
            log.warning("a start call was answered too late", **about, task=answer.task_id)
            provider = self._tools[delivery.tool].provider
            if answer.task_id is not None and provider is not None:
                with contextlib.suppress(PoolUnknown):
                    await self._jobs.bind_late(*grant, provider, answer.task_id)
            await self._close(delivery, "over", f"answered {answer.status} too late{task}")

    async def _close(self, delivery: Delivery, result: str, error: str | None = None) -> None:
        await self._deliveries.close(delivery, result, error)
        counters.deliveries[delivery.kind, result] += 1

    async def _again(self, delivery: Delivery, answer: WebhookResponse) -> None:
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
        counters.deliveries[delivery.kind, "put_off" if stays else "given_up"] += 1
        if not stays:
            log.error("given up after a day", **told)
        asyncio.get_running_loop().call_later((wait_ms + 10) / 1000, self.kick)  # then, and not up to a second later


@dataclass(slots=True)
class _Held:
    """Until when, by time.monotonic(), no other server takes the row of a call."""

    until: float


async def _recorded(record: Callable[[], Awaitable[object]], held: _Held) -> None:
    """Record an answer; tried again, while the row is held, when a store is away for a moment."""
    while True:
        try:
            await record()
            return
        except StoreDown as error:
            if time.monotonic() > held.until:
                log.warning("an answer could not be recorded; the call is made again", error=str(error))
                return
            await asyncio.sleep(WAIT_S["start"])
