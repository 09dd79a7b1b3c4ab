"""Jobs that gate starts: a tool that takes, refuses, fails and breaks, and clients that wait for its tasks and call back for them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Any

import httpx2

from tests.proof.chaos.account import Account, Told
from tests.proof.chaos.clients import PATIENCE_S, Client
from tests.support.tool import Tool

TABLE = "upscaler_jobs"
MANAGER = "/functions/v1/runninghub-queue-manager"
TOKEN = "t0ken"
CREDITS = 7
"""What each such job costs, by its caller's word and by the owner's function alike."""
ASK_S = 40.0
VERDICTS = {"takes": 66, "is slow": 4, "refuses": 12, "fails": 6, "breaks": 12}
SLOW_S = 0.6
"""Longer than a start call goes without its grant being held."""
OFTEN = 200
"""Beside those, for the verdict that is waited for."""


class Shop:
    """The tool's side. What it says of a grant it says again; `breaks` takes at the second call."""

    def __init__(self, account: Account, dice: random.Random) -> None:
        self.tool, self.account, self.dice = Tool(), account, dice
        self.often = ""
        self._verdicts: dict[str, str] = {}
        self._told: set[str] = set()
        self.tool.answer, self.tool.events_answer = self._start, self._event

    def config(self) -> str:
        return f'{self.tool.config(TABLE)}[providers.runninghub]\ntoken = "{TOKEN}"\n'

    def _start(self, body: dict[str, Any]) -> tuple[int, Any]:
        job = body["data"]
        lease_id = job["lease"]["lease_id"]
        verdict = self._verdicts.get(lease_id) or self._draw()
        self._verdicts[lease_id] = "takes" if verdict == "breaks" else verdict
        if verdict == "fails":
            self.account.jobs[job["job_id"]].asked.add("failed")
        answers = {
            "takes": (200, {"task_id": f"t-{lease_id}"}), "is slow": (200, {"task_id": f"t-{lease_id}"}), "refuses": (429, {"error": "busy"}),
            "fails": (422, {"error": "the picture is empty"}), "breaks": (500, {"error": "not well"}),
        }  # fmt: skip
        if verdict == "is slow":
            time.sleep(SLOW_S)
        return answers[verdict]

    def _draw(self) -> str:
        weights = [weight + OFTEN * (verdict == self.often) for verdict, weight in VERDICTS.items()]
        return self.dice.choices(list(VERDICTS), weights)[0]

    def _event(self, body: dict[str, Any]) -> int:
        about = f"{body['data']['job_id']} {body['timestamp']} {body['type']}"
        first = about not in self._told
        self._told.add(about)
        return 500 if first and self.dice.random() < 0.05 else 204


async def asked(client: Client, method: str, path: str, body: Any = None, good: Iterable[int] = (200,)) -> httpx2.Response:
    """Again until it is answered. What is no call of the account's; `good` is what it may be answered."""
    give_up = time.time() + PATIENCE_S
    while time.time() < give_up:
        try:
            reply = await client.http.request(method, client.servers[0] + path, json=body, timeout=ASK_S)
        except httpx2.TransportError:
            await asyncio.sleep(client.dice.uniform(0.1, 0.4))
            continue
        if reply.status_code != 503:
            about = f"{method} {path}: {reply.status_code} {reply.text[:200]}"
            client.account.expect(reply.status_code in good, about)
            return reply
        await asyncio.sleep(0.2)
    raise AssertionError(f"{method} {path}: no answer in {PATIENCE_S:g} s")


async def buy(client: Client) -> None:
    """A job from its place in the line to its end."""
    client.count += 1
    told = client.account.opened(f"{client.name}-{client.count}", "default", CREDITS)
    body = {"table": TABLE, "jobId": told.job_id, "userId": client.name, "creditCost": CREDITS}
    await asked(client, "POST", f"{MANAGER}/enqueue", body, good=(200, 400))
    while True:
        job = (await client.look(told, client.dice.choice((0, 0.5)))).job
        if told.outcome or job is None:
            return
        if job["status"] == "running":
            await _end(client, told, job)
            return
        if client.dice.random() < 0.02:
            await client.cancel(told)
            return
        await asyncio.sleep(0.05)


async def _end(client: Client, told: Told, job: dict[str, Any]) -> None:
    """Mostly by the provider's word, now and then said twice; by its lease, or not at all."""
    lease_id = job["lease"]["lease_id"]
    await asyncio.sleep(client.dice.random() * 0.1)
    how, outcome = client.dice.random(), client.dice.choice(("completed", "failed"))
    if how < 0.05:
        return
    if how < 0.2:
        await client.mine(told, lease_id, "release", outcome)
        return
    client.account.giving_back(told, outcome, time.time())
    for _ in range(client.dice.choice((1, 1, 2))):
        await call_back(client, "default", job["task"]["task_id"], outcome)
    await client.look(told)


async def call_back(client: Client, pool: str, task_id: str, outcome: str) -> None:
    """As RunningHub does."""
    failed = {"code": 1, "msg": "no GPU"}
    event = {"code": 0, "data": [{"fileUrl": "https://f/1.png", "fileType": "png"}]} if outcome == "completed" else failed
    body = {"event": "TASK_END", "taskId": task_id, "eventData": event}
    await asked(client, "POST", f"/v1/webhooks/runninghub/{pool}?token={TOKEN}", body)
