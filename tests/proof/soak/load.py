"""The load of `tests.proof.soak.moving`: jobs whose fates are drawn, clients that ask until they are answered, a killer, a watcher."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import httpx2

from gate.simulator.runninghub import Busy, Odd
from tests.proof.real_callers.account import ENDED
from tests.proof.real_callers.scene import LIMIT, MANAGER, TOOLS, Scene

LEASE_S = 4.0
USERS = 25
BESIDE_S = 2.0
"""How long a job may be seen to wait beside a free slot."""
ENDS_S = 240.0


@dataclass(frozen=True, slots=True)
class Options:
    jobs: int
    seed: int
    kill_every: float
    sql: str
    redis: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A job, and what becomes of it. `cancelled`: its user thinks better of it while it waits, or as soon as it runs."""

    job_id: str
    table: str
    user: str
    credits: int
    charged: bool
    callback: str
    payload: dict[str, Any]
    cancelled: str | None


def drawn(seed: int, number: int) -> Drawn:
    dice = random.Random(f"{seed}-{number}")
    (callback,) = dice.choices(("lost", "doubled", "late", "once"), (10, 10, 10, 70))
    plan: dict[str, Any] = {
        "seconds": round(dice.uniform(0.05, 0.3), 3), "outcome": dice.choices(("completed", "failed", "empty"), (92, 6, 2))[0],
        "shape": dice.choice(("old", "new")), "as_string": dice.random() < 0.5,
    }  # fmt: skip
    if callback == "late":
        plan["late"] = round(dice.choice((dice.uniform(0.2, 1.5), LEASE_S + dice.uniform(0.5, 2))), 3)
    else:
        plan |= {"callback": callback, "early": callback != "lost" and dice.random() < 0.05}
    if plan["outcome"] == "completed" and dice.random() < 0.1:
        plan["odd"] = dice.choice(get_args(Odd))
    plans = [plan]
    if dice.random() < 0.05:
        plans.insert(0, {"refuse": True})
    elif dice.random() < 0.05:
        plans.insert(0, {"busy": dice.choice(get_args(Busy))})
    (answer,) = dice.choices(("starts", "breaks", "loses", "fails"), (91, 3, 3, 3))
    return Drawn(
        f"m{seed}-{number}", dice.choice(list(TOOLS)), f"u{dice.randrange(USERS)}", dice.randrange(1, 50), dice.random() < 0.95,
        callback, {"plans": plans, "answers": [answer]}, dice.choices((None, "waiting", "running"), (96, 2, 2))[0],
    )  # fmt: skip


@dataclass
class Load:
    scene: Scene
    options: Options
    http: httpx2.AsyncClient
    wrong: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    jobs: list[Drawn] = field(default_factory=list)
    kills: int = 0
    looks: int = 0
    longest_beside: float = 0

    async def client(self, left: Iterator[int]) -> None:
        for number in left:
            job = drawn(self.options.seed, number)
            self.jobs.append(job)
            if self.scene.money is not None:
                charge = self.scene.money.charge
                await asyncio.to_thread(charge, job.table, job.job_id, job.user, job.credits, job.charged, job.payload)
            await self.submit(job)
            if job.cancelled is not None:
                if job.cancelled == "running":
                    await self.row(job, "running", *ENDED)
                await self.call("/rest/v1/rpc/user_cancel_ai_job", {"p_table_name": job.table, "p_job_id": job.job_id})
            await self.row(job, *ENDED)

    async def submit(self, job: Drawn) -> None:
        """As the tools of today call: the row has all but table and id. Where no function reads the row, the call has it all."""
        body: dict[str, Any] = {"table": job.table, "jobId": job.job_id}
        if self.scene.money is None:
            body |= {"userId": job.user, "creditCost": job.credits, "job_payload": job.payload, "sessionId": job.user}
        asked, answer = await self.call(f"{MANAGER}/run-or-queue", body)
        said = answer.json()
        if answer.status_code == 200 and said["success"]:
            kind = "queued" if said["queued"] else "started"
        elif answer.status_code == 400 and said.get("refunded"):
            kind = "failed"
        elif answer.status_code == 409 and said.get("code") == "already_ended" and asked > 1:
            kind = "ended before it was asked again"
        else:
            kind = f"{answer.status_code} {said.get('code', '')}"
            self.wrong.append(f"{job.job_id}: run-or-queue was answered {answer.status_code} {answer.text}")
        self.answers[kind] += 1

    async def call(self, path: str, body: dict[str, Any]) -> tuple[int, httpx2.Response]:
        """Asked again until there is an answer; how often, and the answer."""
        asked = 0
        while True:
            asked += 1
            with contextlib.suppress(httpx2.TransportError):
                answer = await self.http.post(self.scene.server.address + path, json=body)
                if answer.status_code != 503:
                    return asked, answer
            await asyncio.sleep(0.1)

    async def row(self, job: Drawn, *wanted: str) -> None:
        """Until it says so: a browser watches it."""
        rows, give_up = self.scene.side.account.rows, time.monotonic() + ENDS_S
        while rows.get(job.job_id) not in wanted:
            if time.monotonic() > give_up:
                self.wrong.append(f"{job.job_id}: after {ENDS_S:g} s its row still says {rows.get(job.job_id)}")
                return
            await asyncio.sleep(0.02)

    async def killer(self, over: asyncio.Event) -> None:
        """Until it is over; gate is up then."""
        dice, server = random.Random(f"{self.options.seed}-kills"), self.scene.server
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self.options.kill_every * dice.uniform(0.7, 1.3))
            if not over.is_set():
                await asyncio.to_thread(server.kill)
                self.kills += 1
                await asyncio.to_thread(server.start_until_it_does)

    async def watch(self, over: asyncio.Event) -> None:
        """No job waits beside a free slot while gate is up, and no more jobs than the limit hold one."""
        since: float | None = None
        while not over.is_set():
            beside = False
            with contextlib.suppress(httpx2.TransportError):
                answer = await self.http.get(f"{self.scene.server.address}/v1/pools/default", params={"limit": 1})
                if answer.status_code == 200:
                    self.looks += 1
                    pool = answer.json()
                    held_back = pool["paused"] or pool["cooling_until"]
                    beside = pool["queued"] > 0 and pool["free"] > 0 and not held_back
                    if pool["running"] + pool["granted"] > LIMIT:
                        self.wrong.append(f"{pool['running']} run and {pool['granted']} are granted")
            now = time.monotonic()
            since = (since or now) if beside else None
            if since is not None:
                if self.longest_beside <= BESIDE_S < now - since:
                    self.wrong.append(f"{pool['queued']} waited beside {pool['free']} free slots for {now - since:.1f} s")
                self.longest_beside = max(self.longest_beside, now - since)
            await asyncio.sleep(0.1)
