"""Providers call back ten times for one, late, in any order, and contradict themselves; and others pretend to be them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter

from tests.proof.chaos.account import Call, Told
from tests.proof.chaos.clients import Client
from tests.proof.chaos.forging import SECRET, TOKEN, Forger, Post, Target, Wire, word
from tests.proof.chaos.scene import Scene

POOL = "hooks"
CONFIG = f"""
[pools.hooks]
limit = 50
lease_seconds = 1800
[providers.standard]
secrets = ["{SECRET}"]
[providers.runninghub]
token = "{TOKEN}"
"""
COPIES = 10
CONTRADICTIONS = 2
AT_ONCE = 20
"""Jobs that are called back at the same time."""
SPREAD_S = 2.0
"""From the first callback of a job to the last."""
BAIT = 6
"""Jobs that only forged callbacks are about, from the first to the last."""
FORGERS = 8
FORGED_A_JOB = 100
RARE = ("oversized", "a header of 20 KB")
"""They take long to send: one in twenty times."""


async def webhooks(scene: Scene) -> None:
    """`times` jobs, each called back for ten times and contradicted; meanwhile `calls` forged callbacks (a hundred a job, when
    none are named), which are all refused.
    """
    given = scene.options
    provider = Provider(scene)
    baits = [await provider.job(scene.client(f"bait{number}"), number) for number in range(BAIT)]
    provider.live += [target for _, target in baits]
    left = iter(range(given.times))

    async def some(client: Client) -> None:
        for number in left:
            scene.happens()
            await provider.one(client, number)

    async with asyncio.TaskGroup() as group:
        group.create_task(forge(scene, provider.live, given.calls or given.times * FORGED_A_JOB))
        for number in range(AT_ONCE):
            group.create_task(some(scene.client(f"h{number}")))
    client = scene.client("last")
    for told, _ in baits:
        await client.look(told)
        scene.account.expect(told.status == "running", f"{told.job_id}: {told.status}, without a callback")
        await client.cancel(told)
    scene.said.append(f"genuine callbacks {provider.words.total():,}: {_listed(provider.words)}")


class Provider:
    """Both of them. `live` are the jobs that may still be called back for."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.account = scene, scene.account
        self.live: list[Target] = []
        self.words: Counter[str] = Counter()
        self.put_off = 0

    async def job(self, client: Client, number: int) -> tuple[Told, Target]:
        """One that runs, bound to its task."""
        told, target = await self._running(client, number)
        await client.bind(told, target.provider, target.task_id)
        return told, target

    async def one(self, client: Client, number: int) -> None:
        """Ten callbacks and two that contradict them. The first may come before its binding."""
        dice = client.dice
        told, target = await self._running(client, number)
        outcome = dice.choice(("completed", "failed"))
        told.asked.add(outcome)
        early = dice.random() < 0.25
        if not early:
            await client.bind(told, target.provider, target.task_id)
        self.live.append(target)
        by_job = not early and dice.random() < 0.3
        first = asyncio.Event()
        heard: list[str] = []
        put_off = self.put_off

        async def copy(number: int, delay_s: float) -> None:
            name = told.job_id if number % 3 else f"{told.job_id}-{number}"  # some are new deliveries of the same word
            await asyncio.sleep(delay_s)
            heard.append(await self._call(dice, word(target, outcome, name, by_job=by_job)))
            first.set()

        async def contradiction(number: int) -> None:
            await first.wait()
            await asyncio.sleep(dice.uniform(0, SPREAD_S))
            other = "failed" if outcome == "completed" else "completed"
            heard.append(await self._call(dice, word(target, other, f"{told.job_id}-not-{number}")))

        async def elsewhere() -> None:
            await first.wait()
            said = await self._call(dice, word(target, outcome, told.job_id, pool="default"))
            unheard = said in ("ignored", "kept") or (said == "repeat" and self.put_off > put_off)
            self.account.expect(unheard, f"{told.job_id}: {said} in a pool that is not its own")

        at_once = dice.randrange(2, 6)
        delays = [0.0] * at_once + [dice.uniform(0, SPREAD_S) for _ in range(COPIES - at_once)]
        async with asyncio.TaskGroup() as group:
            for copied, delay_s in enumerate(delays):
                group.create_task(copy(copied, delay_s))
            for contradicted in range(CONTRADICTIONS):
                group.create_task(contradiction(contradicted))
            group.create_task(elsewhere())
            if early:
                group.create_task(client.bind(told, target.provider, target.task_id))
        self.live.remove(target)
        job = (await client.look(told)).body
        by_binding = early and "applied" not in heard and "kept" in heard
        once = heard.count("applied") + by_binding == 1
        # A call answered 503 may have been recorded all the same. Then the next one is a repeat.
        self.account.expect(once or self.put_off > put_off, f"{told.job_id}: it was heard as {heard}")
        self.account.expect(
            (job["status"], job["ended_by"]) == (outcome, "provider"), f"{told.job_id}: {job['status']}, not {outcome}"
        )

    async def _running(self, client: Client, number: int) -> tuple[Told, Target]:
        told = (await client.acquire(POOL)).told
        assert told.status == "running", told
        return told, Target(("standard", "runninghub")[number % 2], f"task-{told.job_id}", told.job_id)

    async def _call(self, dice: random.Random, post: Post) -> str:
        """Until it is heard: a provider that is answered 503 calls again."""
        while True:
            address = dice.choice(self.scene.servers).address
            reply = await self.scene.http.post(address + post.path, content=post.body, headers=dict(post.headers), timeout=30)
            said = reply.json()["result"] if reply.status_code == 200 else str(reply.status_code)
            self.words[said] += 1
            if said != "503":
                self.account.expect(reply.status_code == 200, f"a genuine callback was answered {said} {reply.text}")
                return said
            self.put_off += 1
            await asyncio.sleep(float(reply.headers["retry-after"]))


async def forge(scene: Scene, targets: list[Target], times: int) -> None:
    """`times` forged callbacks, by several on connections of their own, at all servers."""
    left = iter(range(times))
    answered: Counter[str] = Counter()
    kinds: set[str] = set()

    async def some(number: int) -> None:
        at = number % len(scene.servers)
        wire = Wire(scene.servers[at].port)
        dice = random.Random(f"{scene.options.seed}-forger-{number}")
        forger = Forger(dice, targets)
        for kind in itertools.cycle(forger.kinds):
            if kind in RARE and kind in kinds and dice.random() > 0.05:
                continue
            if next(left, None) is None:
                break
            kinds.add(kind)
            post = forger.kinds[kind]()
            sent = time.time()
            code, body = await wire.send(post)
            scene.account.calls.append(Call(at, "forged", sent, time.time(), 0, code))
            answered[str(code)] += 1
            scene.account.expect(code == post.code, f"forged ({kind}): {code}, not {post.code}: {body[:200]!r}")
            if code == 401:
                scene.account.expect(json.loads(body)["code"] == "forged", f"forged ({kind}): {body[:200]!r}")
        await wire.close()

    await asyncio.gather(*(some(number) for number in range(FORGERS)))
    accepted = sum(count for code, count in answered.items() if code.startswith("2"))
    broke = sum(count for code, count in answered.items() if code.startswith("5"))
    scene.said.append(
        f"forged {answered.total():,} of {len(kinds)} kinds: accepted {accepted}, 5xx {broke} ({_listed(answered)})"
    )


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(counted.items()))
