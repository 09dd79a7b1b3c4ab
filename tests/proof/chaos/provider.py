"""Tasks at a provider that is away, hangs, refuses, is slow, limits, lies or forgets, while servers are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from gate.simulator import Simulator
from tests.proof.chaos import provider_judge
from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Answer, Client
from tests.proof.chaos.provider_account import KEY, LEASE_S, LIMIT, POOL, SILENCE_S, TOKEN, Record, Started, account_config
from tests.proof.chaos.scene import Scene

BUYERS = 6
QUESTIONS = ("query", "outputs", "status", "cancel")
WATCH_S = 0.03
"""Pause (s) between two looks at the provider's tasks."""
LOOK_S = 0.15
"""Pause (s) of a client between two looks at its job."""
CALL_S = 8.0
"""Timeout (s) of a run call."""


class Lane:
    """A pool whose tasks run at the simulator, and tools that run them."""

    def __init__(self, scene: Scene, simulator: Simulator) -> None:
        self.scene, self.simulator, self.record = scene, simulator, Record()
        self._over = asyncio.Event()
        self._change: dict[str, Any] = {}

    async def play(self, moods: list[str]) -> None:
        """Play the moods one after the other under load, then judge."""
        await self._furnish()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            buyers = [group.create_task(self._shop(number)) for number in range(BUYERS)]
            for mood in moods:
                await self._one(mood)
            self._over.set()
            await asyncio.gather(*buyers)
            await provider_judge.settle(self.scene)
            watching.cancel()
        provider_judge.judge(self.scene, self.record, self.simulator.seen())

    async def _furnish(self) -> None:
        """Restart the servers with the account."""
        for server in self.scene.servers:
            with (server.folder / "gate.toml").open("a") as config:
                config.write(f'[providers.runninghub]\ntoken = "{TOKEN}"\n{account_config(self.simulator)}')
            self.scene.account.expect(await asyncio.to_thread(server.stop) == 0, "a server did not stop well")
            await asyncio.to_thread(server.start)
            self.scene.losses += self.scene.redis is None  # an embedded one went with its server

    async def control(self, **wanted: Any) -> None:
        await asyncio.to_thread(lambda: self.simulator.control(**wanted))

    # ---- moods ---------------------------------------------------------------------------------------------------

    async def _one(self, mood: str) -> None:
        """Play a mood. Where there are several servers, one is killed meanwhile and started again."""
        self.scene.happens()
        for_s = self._for_s(mood)
        playing = asyncio.create_task(MOODS[mood](self, for_s))
        if len(self.scene.servers) > 1:
            await asyncio.sleep(self.scene.dice.uniform(0, for_s / 2))
            server = self.scene.dice.choice(self.scene.servers)
            server.kill()
            self.record.counts["kills"] += 1
            self.record.kills.append(time.time())
            await asyncio.to_thread(server.start)
            self.record.kills.append(time.time())
        await playing
        self.record.counts[mood] += 1
        await asyncio.sleep(self.scene.dice.uniform(0.1, 0.5))

    def _for_s(self, mood: str) -> float:
        """Mostly shorter than the silence that is allowed; when `--away` is longer, now and then as long as that."""
        longest = self.scene.options.away
        if mood in SILENT and longest > SILENCE_S and self.scene.dice.random() < 0.25:
            return longest
        return self.scene.dice.uniform(0.35, 0.7) * SILENCE_S

    async def silent(self, for_s: float, on: dict[str, Any], off: dict[str, Any]) -> None:
        """Have no answers for a time."""
        began = time.time()
        await self.control(**on)
        await asyncio.sleep(for_s)
        await self.control(**off)
        self.record.outages.append((began, time.time()))

    async def change_tasks(self, for_s: float, draw: Callable[[], dict[str, Any]]) -> None:
        """Change the plans of some tasks that run, and of some that start meanwhile."""
        alive = [task["taskId"] for task in self.simulator.seen()["tasks"] if task["status"] in ("QUEUED", "RUNNING")]
        changes = {task_id: draw() for task_id in alive if self.scene.dice.random() < 0.7}
        self._change = draw()
        for task_id, change in changes.items():
            self._note(task_id, change)
        await self.control(tasks=changes)
        await asyncio.sleep(for_s)
        self._change = {}

    def _note(self, task_id: str, change: dict[str, Any]) -> None:
        if "lie" in change:
            self.record.lied.add(task_id)
        if change.get("denied", 0) > 1 or "forgotten_s" in change:
            self.record.forgotten.add(task_id)

    # ---- the tools -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            alive = [one["taskId"] for one in self.simulator.seen()["tasks"] if one["status"] in ("QUEUED", "RUNNING")]
            if len(alive) > LIMIT:
                self.record.crowds.append((time.time(), frozenset(alive)))
            await asyncio.sleep(WATCH_S)

    async def _shop(self, number: int) -> None:
        client = self.scene.client(f"t{number}")
        while not self._over.is_set():
            await self._buy(client)

    async def _buy(self, client: Client) -> None:
        """Run a job from its place in the queue to its end, by the provider's word if the client does not end it."""
        answer = await client.acquire(POOL, lease_seconds=LEASE_S)
        told, dice = answer.told, client.dice
        (fate,) = dice.choices(("", "cancel", "fail"), (60, 25, 15))
        patience_s, started = dice.uniform(0, 1.5), dict[str, float]()
        while not told.outcome:
            job = answer.job or {}
            lease_id = (job.get("lease") or {}).get("lease_id", "")
            begun = started.get(lease_id)
            if job.get("status") in ("granted", "running") and begun is None:
                started[lease_id] = time.time()
                await self._start(client, told, lease_id, is_long=bool(fate))
            elif begun is not None and time.time() - begun > patience_s and fate:
                await (client.cancel(told) if fate == "cancel" else client.release(told, lease_id, "failed"))
            if not told.outcome:
                await asyncio.sleep(LOOK_S)
                answer = await client.look(told)

    async def _start(self, client: Client, told: Told, lease_id: str, is_long: bool) -> None:
        """Run the task of a lease, and bind it. A lease whose task the provider refuses is given back."""
        if (await client.act(told, "claim", lease_id=lease_id)).code != 200:
            return
        task_id, plan = await self._run(client, is_long)
        if task_id is None:
            await client.release(told, lease_id, "refused")
            return
        self._note(task_id, plan)
        task = self.record.tasks[task_id] = Started(told.job_id, lease_id, plan, time.time())
        told.asked |= {"completed", "failed"}
        task.is_bound = (await self._bind(client, told, task_id, lease_id)).code == 200
        if not task.is_bound:  # its lease is over: the tool stops what it has started
            await self._call(client, "cancel", {"taskId": task_id})

    async def _bind(self, client: Client, told: Told, task_id: str, lease_id: str) -> Answer:
        path = f"/v1/pools/{POOL}/jobs/{told.job_id}/task"
        body = {"provider": "runninghub", "task_id": task_id, "lease_id": lease_id}
        return await client._call(told, "bind", path, body, 0, "PUT")

    async def _run(self, client: Client, is_long: bool) -> tuple[str | None, dict[str, Any]]:
        dice = client.dice
        (callback,) = dice.choices(("lost", "once", "doubled"), (50, 40, 10))
        plan = {
            "seconds": 2 * LEASE_S if is_long else dice.uniform(0.2, dice.choice((2, 1.5 * LEASE_S))), "outcome": dice.choice(("completed",) * 5 + ("failed",)), "callback": callback,
            "late": dice.choice((0, 0.3)), "cancel_s": dice.choice((0, 1)), "deaf": dice.random() < 0.05,
        }  # fmt: skip
        plan |= self._change if dice.random() < 0.7 else {}
        url = f"{dice.choice(self.scene.servers).address}/v1/webhooks/runninghub/{POOL}?token={TOKEN}"
        said = await self._call(client, "run", {"workflowId": "1", "webhookUrl": url, "gateTest": plan})
        self.record.counts[f"callbacks {callback}"] += bool(said)
        self.record.counts["starts refused"] += not said
        return (said or {}).get("taskId"), plan

    async def _call(self, client: Client, verb: str, body: dict[str, Any]) -> dict[str, Any] | None:
        url = f"{self.simulator.url}/task/openapi/{verb}"
        try:
            reply = await client.http.post(url, json={"apiKey": KEY} | body, timeout=CALL_S)
            return reply.json().get("data") if reply.status_code == 200 else None
        except (httpx2.TransportError, ValueError):
            return None


async def _away(lane: Lane, for_s: float) -> None:
    """Connections are refused."""
    await lane.silent(for_s, {"away_s": 3600}, {"away_s": 0})


async def _refusing(lane: Lane, for_s: float) -> None:
    """Questions and stops are answered 503."""
    await lane.silent(for_s, {"faults": dict.fromkeys(QUESTIONS, 503)}, {"faults": {"all": "none"}})


async def _hanging(lane: Lane, for_s: float) -> None:
    """Questions and stops get no answer."""
    await lane.silent(for_s, {"faults": dict.fromkeys(QUESTIONS, "hang")}, {"faults": {"all": "none"}})


async def _slow(lane: Lane, for_s: float) -> None:
    """Each answer takes half of a question's timeout, or more than all of it."""
    await lane.silent(for_s, {"delay_s": lane.scene.dice.choice((0.5, 1.5))}, {"delay_s": 0})


async def _limiting(lane: Lane, for_s: float) -> None:
    """Of all requests, two a second are answered, and the others are refused with 1003."""
    await lane.silent(for_s, {"rate": 2}, {"rate": 0})


async def _lying(lane: Lane, for_s: float) -> None:
    """Tasks that run are said to have ended. No more than the limit may run here, so starts are refused."""
    await lane.control(limit=LIMIT)
    await lane.change_tasks(for_s, lambda: {"lie": lane.scene.dice.choice(("SUCCESS", "FAILED"))})
    await lane.control(limit=1000)


async def _forgetting(lane: Lane, for_s: float) -> None:
    """Tasks that run are denied: once, or for good."""
    await lane.change_tasks(for_s, lambda: lane.scene.dice.choice(({"denied": 1}, {"forgotten_s": 0})))


MOODS: dict[str, Callable[[Lane, float], Awaitable[None]]] = {
    "away": _away, "refusing": _refusing, "hanging": _hanging, "slow": _slow, "limiting": _limiting, "lying": _lying,
    "forgetting": _forgetting,
}  # fmt: skip
SILENT = ("away", "refusing", "hanging", "slow", "limiting")


async def _play(scene: Scene, *moods: str) -> None:
    with Simulator(limit=1000) as simulator:
        chosen = [mood for mood in moods for _ in range(scene.options.times)]
        scene.dice.shuffle(chosen)
        await Lane(scene, simulator).play(chosen)


async def provider(scene: Scene) -> None:
    """Each mood of the provider `times` times, in an order of the dice's; a server is killed in each."""
    await _play(scene, *MOODS)


def alone(mood: str) -> Callable[[Scene], Awaitable[None]]:
    """Make the fault that is this mood only."""

    async def one(scene: Scene) -> None:
        await _play(scene, mood)

    one.__doc__ = MOODS[mood].__doc__
    return one
