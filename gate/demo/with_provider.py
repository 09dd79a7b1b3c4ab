"""The first part of `gate demo --provider`: the owner's acceptance test with the callbacks of RunningHub.

A simulator of RunningHub's API runs on loopback in this process. It calls the live service back as RunningHub would: once,
twice, too early, or never. The second part is `with_questions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any
from urllib.parse import quote

import httpx2

from gate.demo.acceptance import PRICE, Demo, Step, refunded
from gate.demo.acceptance import demo as play
from gate.model.errors import CannotStart
from gate.model.job import ENDED
from gate.runtime.settings import Settings
from gate.simulator.runninghub import Simulator

NAME = "runninghub"
LONG_S = 3600
"""Duration (s) of a task: longer than the demo, which ends each task itself."""
SOON_S = 10.0
"""Longest wait (s) for an action of the provider."""


def demo(url: str | None, settings: Settings, key: str | None = None) -> tuple[list[Step], str]:
    """Run the demo with a provider on a live gate, as `acceptance.demo` does without one.

    Args:
        url: Address of the gate. None for the server of the data directory, or a temporary server when none runs there.
        settings: The settings of that server. The simulator's callbacks carry the token that they name.
        key: API key; None for none.

    Returns:
        The checks, and the place where they ran.

    Raises:
        CannotStart: The settings have no token for RunningHub, or `acceptance.demo` raises it.
    """
    token = next(iter(settings.provider_secrets().get(NAME, ())), None)
    if token is None:
        raise CannotStart(f'no token that the provider could show: put [providers.{NAME}] with token = "…" into gate.toml')
    own = {"GATE_PROVIDERS": json.dumps({NAME: {"token": token}})}
    return play(url, settings.data_dir, key, lambda where, shown: WithProvider(where, shown, token), **own)


class _Differs(Exception):
    """A check failed, and the checks after it depend on it."""


class WithProvider(Demo):
    """The demo with tasks at a simulated provider that calls back."""

    def __init__(self, url: str, key: str | None, token: str, key_there: str = "") -> None:
        super().__init__(url, key)
        self._key_there = key_there
        self._callback = f"{url}/v1/webhooks/{NAME}/default?token={quote(token, safe='')}"
        self._tasks: dict[str, str] = {}
        self._next_place = 0
        self._goes_on = True
        self._provider: httpx2.AsyncClient

    async def _story(self, slots: int) -> None:
        probe = await self._client.post(self._callback, json={"event": "KNOCK"})
        if probe.status_code != 200:
            raise CannotStart("this gate does not know the token configured here: its own gate.toml names another, or none")
        async with Simulator(slots) as simulator, httpx2.AsyncClient(base_url=simulator.url) as self._provider:
            self._goes_on = False
            with contextlib.suppress(_Differs):
                await self._with_tasks(slots)
            self._goes_on = True
            seen = await self._seen()
        self._see("most tasks the provider ever counted", slots, seen["most_running"])
        self._see("tasks it had to refuse", 0, seen["refused"])

    def _see(self, what: str, expected: object, seen: object) -> None:
        super()._see(what, expected, seen)
        if not (self._goes_on or self._steps[-1].ok):
            raise _Differs

    async def _with_tasks(self, slots: int) -> None:
        running, queued = await self._four_at_once(slots)
        self._next_place = slots + 1
        for job in running:
            await self._start(job)
        self._see("running at the provider", slots, (await self._seen())["running"])

        await self._callbacks(running[0], running[1], queued[0])
        await self._early_callback()
        living = running[2:]
        # An account of this gate leads to the real provider, which knows no task of the demo. `with_questions` loses callbacks then.
        if (await self._job(living[0]))["task"].get("account") is None:
            living = await self._lost_callback(living, slots)
        await self._all_end(living)

    async def _callbacks(self, one: dict[str, Any], another: dict[str, Any], waiting: dict[str, Any]) -> None:
        """Let the provider call back: for one that is done, one that fails, and one that fails and calls back twice."""
        fourth = asyncio.create_task(self._until_granted(waiting))
        await self._end(one)
        self._see("it calls back: one is done", "completed, refunded 0", await self._outcome(one))
        self._see("the fourth, by itself", "granted", (await fourth)["status"])
        self._see("it starts at the provider", "running", (await self._start(await fourth))["status"])

        await self._end(another, outcome="failed")
        self._see("another task fails", f"failed, refunded {PRICE}", await self._outcome(another))

        await self._end(await fourth, outcome="failed", callback="doubled")
        self._see("one fails and calls back twice", f"failed, refunded {PRICE}", await self._outcome(await fourth))
        self._see("both calls were answered", "200, 200", await self._answers(await fourth, 2))
        self._see("it ended", "1 time", f"{await self._endings(await fourth)} time")
        self._see("its refunds in the ledger", f"1 of {PRICE}", await self._refunds(await fourth))

    async def _early_callback(self) -> None:
        """Let the provider call back before gate knows the task."""
        early = await self._another()
        task_id = await self._begin(early, seconds=0, early=True)
        self._see("a callback before gate knows its task", "running", (await self._job(early))["status"])
        self._see("gate is told the task", "completed", (await self._bind(early, task_id))["status"])

    async def _lost_callback(self, running: list[dict[str, Any]], slots: int) -> list[dict[str, Any]]:
        """Lose the callback of a job while another waits. Return the jobs that run then."""
        living = [*running]
        while len(living) < slots:
            living.append(await self._another())
            await self._start(living[-1])
        last = await self._another()
        self._see(f"{slots} run again, one more comes", "queued at 1", f"{last['status']} at {last['position']}")
        granted = asyncio.create_task(self._until_granted(last))
        lost = living.pop(0)
        await self._end(lost, callback="lost")
        self._see("a callback is lost", f"expired, refunded {PRICE}", await self._outcome(lost))
        self._see("the next, by itself", "granted", (await granted)["status"])
        living.append(await self._start(await granted))
        self._see("refunds of the lost one", f"1 of {PRICE}", await self._refunds(lost))
        return living

    async def _all_end(self, living: list[dict[str, Any]]) -> None:
        for job in living:
            await self._end(job)
        outcomes = {await self._outcome(job) for job in living}
        self._see("the others are done", "completed, refunded 0", " or ".join(sorted(outcomes)))
        await self._all_done()

    # ---- at the provider

    async def _start(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self._bind(job, await self._begin(job, seconds=LONG_S))

    async def _begin(self, job: dict[str, Any], **plan: Any) -> str:
        """Start the job's task at the provider. Return the ID of the task."""
        self._renew(job)
        body = {"apiKey": self._key_there, "webhookUrl": self._callback, "gateTest": plan}
        answer = (await self._provider.post("/task/openapi/run", json=body, timeout=SOON_S)).json()
        if answer["code"] != 0:
            raise CannotStart(f"the provider would not start {job['job_id']}, which gate let in: {answer['msg']}")
        task_id: str = answer["data"]["taskId"]
        self._tasks[job["job_id"]] = task_id
        return task_id

    async def _end(self, job: dict[str, Any], **plan: Any) -> None:
        """End the job's task at the provider. The job is not renewed any more, so it expires if no callback comes."""
        self._renewing.pop(job["job_id"]).cancel()
        change = {"tasks": {self._tasks[job["job_id"]]: {"seconds": 0, **plan}}}
        (await self._provider.post("/control", json=change)).raise_for_status()

    async def _seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = (await self._provider.get("/control")).json()
        return seen

    async def _answers(self, job: dict[str, Any], expected: int) -> str:
        """Return gate's answers to the callbacks about a job, once there are `expected` of them, or after SOON_S."""
        give_up = time.monotonic() + SOON_S
        while True:
            calls = [
                sent["answer"] for sent in (await self._seen())["callbacks"] if sent["taskId"] == self._tasks[job["job_id"]]
            ]
            if calls.count(None) + expected <= len(calls) or time.monotonic() > give_up:
                return ", ".join(str(answer) for answer in calls)
            await asyncio.sleep(0.05)

    # ---- at gate

    async def _another(self) -> dict[str, Any]:
        place, self._next_place = self._next_place, self._next_place + 1
        return await self._acquire(place)

    async def _bind(self, job: dict[str, Any], task_id: str) -> dict[str, Any]:
        """Tell gate the task of a job. This claims the job's slot too."""
        body = {"provider": NAME, "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
        answer = await self._client.put(f"/v1/pools/default/jobs/{job['job_id']}/task", json=body)
        bound: dict[str, Any] = answer.raise_for_status().json()
        return bound

    async def _job(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.get(f"/v1/pools/default/jobs/{job['job_id']}")
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def _outcome(self, job: dict[str, Any]) -> str:
        ended = await self._when(job, "running")
        return f"{ended['status']}, refunded {refunded(ended)}"

    async def _endings(self, job: dict[str, Any]) -> int:
        answer = await self._client.get(f"/v1/pools/default/jobs/{job['job_id']}/history")
        return sum(event["kind"] in ENDED for event in answer.raise_for_status().json()["events"])
