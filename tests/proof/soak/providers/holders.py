"""Holders of jobs: each acquires a slot, starts a task at the provider, binds it, and waits for the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.proof.soak.providers.scene import KEY, LEASE_S, Caller, Scene, calling

SHORT_S = (20.0, 120.0)
"""Times (s, before scaling) of most tasks: 70 s on average."""
LONG = (1.25, 1.75)
"""Times of long tasks, in leases."""
CREDITS = 5


@dataclass(slots=True)
class Played:
    """A job and its task.

    Attributes:
        job_id: The job.
        plan: Plan of the task.
        began_at: When its start was asked for (s since 1970); 0 before.
        task_id: The task; empty before its start.
        refused: How often the provider refused the start.
        body: The job at its end, as gate showed it.
    """

    job_id: str
    plan: dict[str, Any]
    began_at: float = 0
    task_id: str = ""
    refused: int = 0
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def over_at(self) -> float:
        """When its task ended (s since 1970), at the earliest."""
        return self.began_at + float(self.plan["seconds"])

    @property
    def is_lost(self) -> bool:
        return bool(self.plan["callback"] == "lost")


def drawn(seed: int, number: int, scale: float, callbacks: bool = True) -> Played:
    """Draw a job: 5 % of the tasks are long, 30 % of the callbacks are lost, 5 % come twice, one task in twenty fails."""
    dice = random.Random(f"{seed}-{number}")
    seconds = dice.uniform(*LONG) * LEASE_S if dice.random() < 0.05 else dice.uniform(*SHORT_S)
    (callback,) = dice.choices(("lost", "doubled", "once"), (30, 5, 65)) if callbacks else ("lost",)
    plan = {
        "seconds": round(seconds / scale, 3), "callback": callback, "shape": dice.choice(("old", "new")),
        "outcome": "failed" if dice.random() < 0.05 else "completed",
    }  # fmt: skip
    return Played(f"p{seed}-{number}", plan)


class Holder:
    """A client that plays jobs, one after another."""

    def __init__(self, scene: Scene, call: Caller, wrong: list[str]) -> None:
        self._scene, self._call, self._wrong = scene, call, wrong

    async def play(self, job: Played, number: int) -> None:
        """Play a job to its end."""
        lease_id = await self.begin(job, number)
        if lease_id is not None:
            await self.end(job)

    async def begin(self, job: Played, number: int) -> str | None:
        """Acquire a slot, start the task and bind it. Returns the lease; None when the lease was lost before."""
        body = {"job_id": job.job_id, "user": f"u{number % 50}", "credits": CREDITS, "tool": "upscaler", "wait_seconds": 30}
        answer = (await self._call("POST", "/v1/pools/default/acquire", json=body)).json()
        path = f"/v1/pools/default/jobs/{job.job_id}"
        while answer.get("status") == "queued":
            answer = (await self._call("GET", path, params={"wait_seconds": 30, "status": "queued"})).json()
        if answer.get("lease") is None:
            self._wrong.append(f"{job.job_id}: no lease, but {answer}")
            return None
        lease_id: str = answer["lease"]["lease_id"]
        if answer["status"] == "granted":
            await self._call("POST", f"{path}/claim", json={"lease_id": lease_id})
        await self._start(job, number, lease_id)
        bound = {"provider": "runninghub", "task_id": job.task_id, "lease_id": lease_id}
        answer = await self._call("PUT", f"{path}/task", json=bound)
        if answer.status_code != 200:
            self._wrong.append(f"{job.job_id}: not bound, {answer.status_code} {answer.text}")
        return lease_id

    async def _start(self, job: Played, number: int, lease_id: str) -> None:
        """Start the task, as soon as the provider takes it. The lease is renewed meanwhile."""
        body = {"apiKey": KEY, "workflowId": "1", "webhookUrl": self._scene.webhook(number), "gateTest": job.plan}
        renewed = time.monotonic()
        while True:
            job.began_at = time.time()
            said = await self._call.provider("/task/openapi/run", body)
            if said is not None and said["code"] == 0:
                job.task_id = said["data"]["taskId"]
                return
            job.refused += said is not None
            await asyncio.sleep(self._scene.scaled(2))
            if time.monotonic() - renewed > self._scene.scaled(LEASE_S) / 4:
                renew = f"/v1/pools/default/jobs/{job.job_id}/renew"
                await self._call("POST", renew, json={"lease_id": lease_id})
                renewed = time.monotonic()

    async def end(self, job: Played) -> None:
        """Wait until the job is over."""
        path = f"/v1/pools/default/jobs/{job.job_id}"
        while job.body.get("status") in (None, "running", "granted", "queued"):
            asked = {"wait_seconds": 30, "status": "running"}
            job.body = (await self._call("GET", path, params=asked)).json()


async def hold(scene: Scene, jobs: list[Played], clients: int, between: Callable[[int], Any] | None = None) -> list[str]:
    """Play jobs with so many clients at once.

    Args:
        scene: The scene.
        jobs: The jobs.
        clients: Holders at once.
        between: Makes an awaitable before each job, from its number; None for none.

    Returns:
        What went wrong, a line each.
    """
    wrong: list[str] = []

    async def client(left: Iterator[tuple[int, Played]], holder: Holder) -> None:
        for number, job in left:
            if between is not None:
                between(number)
            await holder.play(job, number)

    async with calling(scene) as call:
        left = iter(list(enumerate(jobs)))
        await asyncio.gather(*(client(left, Holder(scene, call, wrong)) for _ in range(clients)))
    return wrong
