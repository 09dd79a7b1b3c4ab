"""The simulated provider: its accounts, its tasks, and its reply to each call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import secrets
import time
from collections import Counter, deque
from typing import Any, Final, get_args

import httpx2

from gate.simulator.account import Account, Meter
from gate.simulator.plan import ANY_KEY, Call, Control, Fault, KeyPlan, Plan
from gate.simulator.replies import (
    NO_CANCEL,
    NO_METHOD,
    NO_PARAM,
    PARAMS,
    RATE,
    Form,
    Reply,
    echoed,
    refused,
    started,
    success,
    unknown,
    wrong_key,
)  # fmt: skip
from gate.simulator.task import Task

CALLBACK_S: Final = 30
"""Time (s) to wait for the response to a callback."""
CALLS: Final[tuple[Call, ...]] = get_args(Call)
"""All calls."""
FORM: Final[dict[Call, Form]] = {"query": "v2"}
"""Form of the replies to each call but the run calls; v1 for the others."""


class Provider:
    """The tasks of one simulator. Call everything but `seen` on the simulator's own event loop.

    Attributes:
        away_until: Time until which connections are refused, on the monotonic clock.
        changed: Set when `away_until` or a fault has changed, and replaced then.
        is_closing: The simulator ends.
    """

    def __init__(self, limit: int, defaults: Plan) -> None:
        self.away_until, self.is_closing = 0.0, False
        self.changed = asyncio.Event()
        self._limit, self._defaults = limit, defaults
        self._next: deque[dict[str, Any]] = deque()
        self._tasks: dict[str, Task] = {}
        self._any_key = Account()
        self._accounts: dict[str, Account] = {}
        self._faults: dict[Call, Fault] = dict.fromkeys(CALLS, "none")
        self._delay_s, self._rate, self._echo = 0.0, 0, False
        self._callbacks: list[dict[str, Any]] = []
        self._most = 0
        self._calls: Counter[str] = Counter()
        self._questions = Meter()
        self._numbers = itertools.count(1_900_000_000_000_000_000 + secrets.randbelow(10**16) * 10)
        self._running: set[asyncio.Task[None]] = set()
        self._client: httpx2.AsyncClient | None = None

    @property
    def is_away(self) -> bool:
        """Whether connections are refused now."""
        return time.monotonic() < self.away_until

    async def answer(self, call: Call, key: str, body: dict[str, Any], form: Form = "v1") -> Reply:
        """Answer a call.

        Args:
            call: The call.
            key: Its key; empty for none.
            body: Its JSON.
            form: Form of a run call.

        Raises:
            ValidationError: The plan of a run is not valid.
        """
        form = FORM.get(call, form)
        account = self._account(key)
        self._count(call, account, body)
        await asyncio.sleep(self._delay_s)
        reply = await self._fault(call)
        reply = reply or self._refusal(call, form, account) or await self._answer(call, key, body, form)
        return Reply(echoed(reply.body, key), reply.status) if self._echo else reply

    def control(self, wanted: Control) -> None:
        """Apply all changes, or none when one of them is not valid.

        Raises:
            KeyError: There is no such task.
            ValidationError: A plan is not valid.
        """
        if missing := sorted(set(wanted.tasks) - set(self._tasks)):
            raise KeyError(f"no such task: {', '.join(missing)}")
        defaults = self._defaults.changed(wanted.defaults)
        for change in wanted.next:
            defaults.changed(change)
        plans = {task_id: self._tasks[task_id].plan.changed(change) for task_id, change in wanted.tasks.items()}
        keys = {key: self._plan_of(key).changed(change) for key, change in wanted.keys.items()}
        self._defaults = defaults
        self._next.extend(wanted.next)
        for task_id, plan in plans.items():
            self._tasks[task_id].change(plan, wanted.tasks[task_id])
        for key, key_plan in keys.items():
            account = self._any_key if key == ANY_KEY else self._accounts.setdefault(key, Account())
            account.plan = key_plan
        self._control_all(wanted)

    def _control_all(self, wanted: Control) -> None:
        self._limit = self._limit if wanted.limit is None else wanted.limit
        self._delay_s = self._delay_s if wanted.delay_s is None else wanted.delay_s
        self._rate = self._rate if wanted.rate is None else wanted.rate
        self._echo = self._echo if wanted.echo is None else wanted.echo
        if "all" in wanted.faults:
            self._faults = dict.fromkeys(CALLS, wanted.faults["all"])
        self._faults |= {call: fault for call, fault in wanted.faults.items() if call != "all"}
        if wanted.away_s is not None:
            self.away_until = time.monotonic() + wanted.away_s
        self.wake()

    def wake(self) -> None:
        """Wake everything that waits for a change of a fault, of `away_until` or of `is_closing`."""
        self.changed.set()
        self.changed = asyncio.Event()

    def seen(self) -> dict[str, Any]:
        """Return the reply to `GET /control`."""
        tasks, accounts = list(self._tasks.values()), dict(self._accounts) or {ANY_KEY: self._any_key}
        return {
            "limit": self._limit,
            "running": _alive(tasks),
            "most_running": self._most,
            "refused": self._any_key.refused + sum(account.refused for account in self._accounts.values()),
            "tasks": [_seen_task(task) for task in tasks],
            "callbacks": [dict(sent) for sent in self._callbacks],
            "calls": dict(self._calls),
            "questions": self._questions.total,
            "most_questions_per_second": self._questions.most,
            "keys": {key: self._seen_key(account, tasks) for key, account in accounts.items()},
        }

    async def close(self) -> None:
        """End the work on all tasks."""
        for run in list(self._running):
            run.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    # Accounts

    def _account(self, key: str) -> Account | None:
        return self._accounts.get(key) if self._accounts else self._any_key

    def _plan_of(self, key: str) -> KeyPlan:
        account = self._any_key if key == ANY_KEY else self._accounts.get(key)
        return account.plan if account else KeyPlan()

    def _limit_of(self, account: Account) -> int:
        return self._limit if account.plan.limit is None else account.plan.limit

    def _tasks_of(self, account: Account) -> list[Task]:
        return [task for task in self._tasks.values() if task.account is account and task.ended is None]

    def _seen_key(self, account: Account, tasks: list[Task]) -> dict[str, Any]:
        return account.plan.model_dump() | {
            "limit": self._limit_of(account),
            "running": _alive([task for task in tasks if task.account is account]),
            "most_running": account.most,
            "refused": account.refused,
            "questions": account.questions.total,
            "most_questions_per_second": account.questions.most,
        }

    # Calls

    def _count(self, call: Call, account: Account | None, body: dict[str, Any]) -> None:
        if call == "run":
            return
        self._calls[call] += 1
        for meter in (self._questions, *([account.questions] if account else ())):
            meter.note()
        task = self._tasks.get(str(body.get("taskId")))
        if task is not None:
            task.cancels += call == "cancel"
            task.questions += call != "cancel"

    async def _fault(self, call: Call) -> Reply | None:
        while (fault := self._faults[call]) == "hang" and not (self.is_closing or self.is_away):
            await self.changed.wait()
        return None if fault == "none" else refused("v1", 503 if fault == "hang" else fault)

    def _refusal(self, call: Call, form: Form, account: Account | None) -> Reply | None:
        """Return the refusal of a wrong key, or of a request beyond the rate limit."""
        if account is None or account.plan.code is not None:
            return wrong_key(call, form, account.plan.code if account else None)
        if self._rate and account.accepted.recent() >= self._rate:
            return refused(form, RATE)
        account.accepted.note()
        return None

    async def _answer(self, call: Call, key: str, body: dict[str, Any], form: Form) -> Reply:
        account = self._account(key)
        assert account is not None, "a wrong key has its refusal"
        if call == "run":
            return await self._run(account, key, body, form)
        if call == "queue":
            return self._queue(account)
        if call == "account":
            return self._account_status(account, body)
        task = self._tasks.get(str(body.get("taskId")))
        if task is None or task.account is not account or task.is_forgotten:
            return unknown(form)
        if call == "cancel":
            return self._cancel(task)
        return unknown(form) if task.is_denied(call) else Reply(task.answer(call))

    def _cancel(self, task: Task) -> Reply:
        if task.ended is not None:
            return refused("v1", NO_CANCEL)
        task.cancel()
        return success(None)

    def _queue(self, account: Account) -> Reply:
        if not account.plan.has_queue_status:
            return refused("v1", NO_METHOD)
        own, total = self._tasks_of(account), self._total(account)
        queued = 0 if account.plan.counter is not None else sum(task.status == "QUEUED" for task in own)
        counts = {"runningCount": str(total - queued), "queuedCount": str(queued), "totalCurrentTasks": str(total)}
        return success({"apiKeyType": "SHARED", "concurrentLimit": self._limit_of(account)} | counts)

    def _account_status(self, account: Account, body: dict[str, Any]) -> Reply:
        if not body.get("apikey"):
            return refused("v1", NO_PARAM)
        wallet = {"remainCoins": "177814", "remainMoney": None, "currency": None, "apiType": "NORMAL"}
        return success(wallet | {"currentTaskCounts": str(self._total(account))})

    def _total(self, account: Account) -> int:
        plan = account.plan
        return len(self._tasks_of(account)) + plan.strangers if plan.counter is None else plan.counter

    # Tasks

    async def _run(self, account: Account, key: str, body: dict[str, Any], form: Form) -> Reply:
        webhook_url, own = body.get("webhookUrl"), body.get("gateTest", {})
        if not isinstance(webhook_url, str | None) or not isinstance(own, dict):
            return refused(form, PARAMS)
        if len(self._tasks_of(account)) + account.plan.strangers >= self._limit_of(account):
            account.refused += 1
            return refused(form, 421)
        plan = self._defaults.changed(self._next.popleft() if self._next else {}).changed(own)
        if plan.refuse or plan.busy is not None:
            account.refused += 1
            await asyncio.sleep(plan.starting_s)
            return refused(form, plan.busy or 421)
        task = Task(str(next(self._numbers)), plan, account, key, webhook_url)
        status = task.status
        self._tasks[task.task_id] = task
        self._most = max(self._most, _alive(list(self._tasks.values())))
        account.most = max(account.most, len(self._tasks_of(account)))
        run = asyncio.create_task(self._run_task(task))
        self._running.add(run)
        run.add_done_callback(self._running.discard)
        await asyncio.sleep(plan.starting_s)
        if plan.early:
            await asyncio.wait([run])
        return started(form, task.task_id, status)

    async def _run_task(self, task: Task) -> None:
        while task.ended is None and (left_s := task.left_s()) > 0:
            task.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task.changed.wait(), None if left_s == math.inf else left_s)
        task.end()
        if task.webhook_url is None or task.plan.callback == "lost":
            return
        await asyncio.sleep(task.plan.late)
        await asyncio.gather(*(self._call_back(task) for _ in range(2 if task.plan.callback == "doubled" else 1)))

    async def _call_back(self, task: Task) -> None:
        assert task.webhook_url is not None
        body = task.callback(self._echo)
        # Without the query, which contains the token.
        sent: dict[str, Any] = {"taskId": task.task_id, "url": task.webhook_url.split("?")[0], "body": body, "answer": None}
        with contextlib.suppress(httpx2.HTTPError, httpx2.InvalidURL):
            sent["answer"] = (await self._caller().post(task.webhook_url, json=body)).status_code
        self._callbacks.append(sent)  # after the response, because a test that waits for a callback reads its response

    def _caller(self) -> httpx2.AsyncClient:
        """Return the client of all callbacks. It loads its certificates once, and opens a connection for each callback."""
        if self._client is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx2.AsyncClient(timeout=CALLBACK_S, limits=limits)
        return self._client


def _alive(tasks: list[Task]) -> int:
    """Count the tasks that have not ended, the queued ones too."""
    return sum(task.ended is None for task in tasks)


def _seen_task(task: Task) -> dict[str, Any]:
    return {
        "taskId": task.task_id, "status": task.status, "cancelled": task.is_cancelled, "key": task.key,
        "questions": task.questions, "cancels": task.cancels,
    }  # fmt: skip
