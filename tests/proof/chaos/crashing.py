"""`gate serve`, and at one named point it is gone, as by kill -9: that of GATE_TEST_EXIT_AT, at the pass of GATE_TEST_EXIT_PASS.

The points are at the doors through which all work passes to Redis, to SQL, to tools and to the owner's function. It sweeps more
often than gate does, so that what was edited by hand is mended within the time of a test.
"""

from __future__ import annotations

import importlib
import inspect
import os
import socket
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from gate.cli.main import main
from gate.ledger import BillingHooks, Database, Delivery
from gate.ledger.commit.group_commit import GroupCommitter
from gate.model.account import Account
from gate.model.messages import OutboxEntry
from gate.model.tool import Tool
from gate.providers.page import ProviderReply, ProviderRequest
from gate.slots import UNDONE, Semaphore
from gate.slots.script_runner import ScriptRunner
from gate.workers import reconciler
from gate.workers.provider_client import ProviderClient
from gate.workers.webhook_client import WebhookClient, WebhookResponse
from tests.proof.chaos.points import AT, EXITED, PASS
from tests.support.warm import orders

SWEEP_EVERY_S = 0.5
LIBRARIES = ("alembic.command", "alembic.config", "psycopg", "redis.asyncio", "uvicorn", "uvloop")
ROOMS = {"Deliveries": "delivery", "Questions": "question"}
"""Classes whose commits are named by what they are about."""
ENDS = {"holder": "release", "operator": "cancel", "tool": "fail"}
"""The commit of `end`, by its actor."""
_script: ContextVar[str] = ContextVar("script", default="")
"""The last one of this task: a claim and a renewal are one commit."""


class Trap:
    """`nth` pass of `at`. Points that are passed to no effect (nothing was due, nothing stood there) do not count."""

    def __init__(self, at: str, nth: int) -> None:
        self._at, self._left = at, nth

    def before(self, door: str) -> None:
        self._pass(f"before {door}")

    def after(self, door: str) -> None:
        self._pass(f"after {door}")

    def _pass(self, point: str) -> None:
        if point == self._at:
            self._left -= 1
            if self._left <= 0:
                os._exit(EXITED)


def at_scripts(trap: Trap) -> None:
    call, notes, delete_notes = ScriptRunner.call, Semaphore.notes, Semaphore.delete_notes

    async def _call(self: ScriptRunner, verb: str, pool: str, args: list[Any]) -> dict[str, Any]:
        _script.set(verb)
        trap.before(f"script:{verb}")
        raw = await call(self, verb, pool, args)
        if raw["word"] not in UNDONE:
            trap.after(f"script:{verb}")
        return raw

    async def _notes(self: Semaphore, pool: str, *page: Any, **more: Any) -> list[OutboxEntry]:
        trap.before("outbox:read")
        found = await notes(self, pool, *page, **more)
        if found:
            trap.after("outbox:read")
        return found

    async def _delete_notes(self: Semaphore, pool: str, entry_ids: Any) -> None:
        trap.before("outbox:trim")
        await delete_notes(self, pool, entry_ids)
        trap.after("outbox:trim")

    ScriptRunner.call, Semaphore.notes, Semaphore.delete_notes = _call, _notes, _delete_notes  # type: ignore[method-assign]


def at_commits(trap: Trap) -> None:
    write, commit = Database.write, GroupCommitter.commit

    async def _write(self: Database, pool: str, job_id: str, work: Callable[[Any], Any], *more: Any, **how: Any) -> Any:
        door = commit_of(work)

        def until_the_commit(batch: Any) -> Any:
            result = work(batch)
            if took(door, result):
                batch.flush()
                trap.before(door)
            return result

        until_the_commit.door = door  # type: ignore[attr-defined]
        return await write(self, pool, job_id, until_the_commit, *more, **how)

    def _commit(self: GroupCommitter, tasks: Any, lock_ms: int) -> bool:
        wrote = commit(self, tasks, lock_ms)
        for task in tasks:
            if took(task.work.door, task.result):
                trap.after(task.work.door)
        return wrote

    Database.write, GroupCommitter.commit = _write, _commit  # type: ignore[method-assign,assignment]


def took(door: str, result: Any) -> bool:
    return bool(result) if door in ("sql:delivery.take", "sql:question.take", "sql:expire_overdue", "sql:void") else True


def commit_of(work: Callable[[Any], Any]) -> str:
    """Its name, by the method whose work it is."""
    room, verb = work.__qualname__.split(".<locals>")[0].split(".")[-2:]
    if room in ROOMS:
        return f"sql:{ROOMS[room]}.{verb}"
    if verb == "end":
        return f"sql:{ENDS[inspect.getclosurevars(work).nonlocals['by']]}"
    if verb == "extend":
        return "sql:started" if inspect.getclosurevars(work).nonlocals["started"] else f"sql:{_script.get()}"
    return f"sql:{verb}"


def at_calls(trap: Trap) -> None:
    call = WebhookClient.call

    async def _call(self: WebhookClient, tool: Tool, delivery: Delivery, within_s: float) -> WebhookResponse:
        trap.before(f"call:{delivery.kind}")
        answer = await call(self, tool, delivery, within_s)
        trap.after(f"call:{delivery.kind}")
        return answer

    WebhookClient.call = _call  # type: ignore[method-assign]
    reply = ProviderClient.reply

    async def _reply(self: ProviderClient, account: Account, request: ProviderRequest, within_s: float) -> ProviderReply:
        trap.before("call:question")
        found = await reply(self, account, request, within_s)
        trap.after("call:question")
        return found

    ProviderClient.reply = _reply  # type: ignore[method-assign]


def at_refunds(trap: Trap) -> None:
    pay, settle_next = BillingHooks._pay, BillingHooks._settle_next

    def _pay(self: BillingHooks, connection: Any, row: Any) -> Any:
        settled = pay(self, connection, row)
        if settled.error is None:
            trap.before("sql:refund")
        return settled

    def _settle_next(self: BillingHooks) -> Any:
        settled = settle_next(self)
        if settled is not None and settled.error is None:
            trap.after("sql:refund")
        return settled

    BillingHooks._pay, BillingHooks._settle_next = _pay, _settle_next  # type: ignore[method-assign]


def load() -> None:
    """Import what gate imports when it serves."""

    for name in LIBRARIES:
        importlib.import_module(name)


if __name__ == "__main__":
    load()
    for words in orders(socket.socket(fileno=int(sys.argv[1]))):
        trap = Trap(os.environ.get(AT, ""), int(os.environ.get(PASS, "1")))
        for at in (at_scripts, at_commits, at_calls, at_refunds):
            at(trap)
        reconciler.EVERY_S = SWEEP_EVERY_S
        sys.argv = ["gate", *words]
        main()
