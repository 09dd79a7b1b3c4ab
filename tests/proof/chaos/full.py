"""Ten times as many as may wait come at once."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter

from tests.proof.chaos import lanes
from tests.proof.chaos.account import Told
from tests.proof.chaos.clients import Answer, Client
from tests.proof.chaos.scene import Scene

POOL = "full"
BESIDE = "beside"
CONFIG = (
    f"{lanes.config([POOL, BESIDE], lease_seconds=3600, claim_seconds=3600, queue_seconds=3600)}max_hold_seconds = 7200\n"
)
MANY = 10
"""So many for each place in the queue."""
AT_ONCE = 100
GRANTED_S = 10.0


async def full(scene: Scene) -> None:
    """`times` acquires at a cap of a tenth of it; the rest is refused and leaves nothing. Then the queue drains in order."""
    cap = max(scene.options.times // MANY, 1)
    set_up = await scene.http.put(f"{scene.servers[0].address}/v1/pools/{POOL}", json={"queue_max": cap})
    assert set_up.status_code == 200, set_up.text
    flood = Flood(scene, cap)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_beside(scene, over))
        group.create_task(flood.watch(over))
        await flood.come(scene.options.times)
        over.set()
    flood.expect(running=lanes.LIMIT, queued=cap, refused=scene.options.times - cap - lanes.LIMIT)
    await asyncio.to_thread(flood.look_back)
    holders = await flood.go_on(flood.running())
    await flood.come(MANY)  # and now there is room for as many as have gone
    flood.expect(running=len(holders), queued=cap, refused=MANY - lanes.LIMIT)
    while holders:
        holders = await flood.go_on(holders)
    lanes.expect_room(scene.account, [POOL])
    scene.said.append(f"cap {cap:,}: {flood.most:,} waited at most, {flood.drained:,} were granted in order")


class Flood:
    """Who came, how it was answered, and who is in line as SQL has it."""

    def __init__(self, scene: Scene, cap: int) -> None:
        self.scene, self.account, self.cap = scene, scene.account, cap
        self.clients = [scene.client(f"f{number}") for number in range(AT_ONCE)]
        for client in self.clients:
            client.takes |= {429}
        self.came: dict[str, tuple[Told, float, float]] = {}
        self.answers: Counter[str] = Counter()
        self.most = self.drained = 0

    async def come(self, times: int) -> None:
        left = iter(range(times))
        self.answers.clear()

        async def some(client: Client) -> None:
            for _ in left:
                self.scene.happens()
                sent = time.time()
                answer = await client.acquire(POOL)
                self._heard(answer, sent)

        await asyncio.gather(*(some(client) for client in self.clients))

    def _heard(self, answer: Answer, sent: float) -> None:
        told, code = answer.told, answer.body.get("code")
        if answer.code == 429:
            self.answers["refused"] += 1
            self.account.expect(code == "queue_full" and answer.job is None, f"{told.job_id}: {answer.body}")
        else:
            self.answers[told.status] += 1
            self.came[told.job_id] = told, sent, time.time()

    def expect(self, **answers: int) -> None:
        """`running` counts those that hold a slot, whenever they came."""
        found = {"running": len(self.running()), "queued": len(self.line()), "refused": self.answers["refused"]}
        self.account.expect(found == answers, f"{found}, not {answers}")

    def running(self) -> list[Told]:
        return [told for told, *_ in self.came.values() if told.status == "running" and not told.gave_back]

    def line(self) -> list[str]:
        query = "select job_id from @jobs where pool = :pool and status = 'queued' order by ticket"
        return [row.job_id for row in self.scene.books.rows(query, pool=POOL)]

    def look_back(self) -> None:
        """A refused job left nothing in SQL. A job that was answered before another asked stands before it."""
        known = {row.job_id for row in self.scene.books.rows("select job_id from @jobs where pool = :pool", pool=POOL)}
        self.account.expect(known == set(self.came), f"of the refused SQL knows {sorted(known - set(self.came))[:5]}")
        charged = {row.job_id for row in self.scene.books.rows("select job_id from @ledger where pool = :pool", pool=POOL)}
        self.account.expect(charged <= known, f"charged, and refused: {sorted(charged - known)[:5]}")
        asked = 0.0
        for job_id in self.line():
            _, sent, received = self.came[job_id]
            self.account.expect(received >= asked, f"{job_id}: behind a job that asked only after it was answered")
            asked = max(asked, sent)

    async def watch(self, over: asyncio.Event) -> None:
        """What any server shows meanwhile."""
        for number in itertools.count():
            server = self.scene.servers[number % len(self.scene.servers)]
            pool = (await self.scene.http.get(f"{server.address}/v1/pools/{POOL}?limit=1", timeout=30)).json()
            self.most = max(self.most, pool["queued"])
            held = pool["running"] + pool["granted"]
            self.account.expect(pool["queued"] <= self.cap and held <= lanes.LIMIT, f"{pool['queued']} wait, {held} run")
            if over.is_set():
                return
            await asyncio.sleep(0.05)

    async def go_on(self, holders: list[Told]) -> list[Told]:
        """They leave, and the first in line take their places."""
        expected = (await asyncio.to_thread(self.line))[: len(holders)]
        client = self.clients[0]
        await asyncio.gather(*(client.release(told, told.lease_id, "completed") for told in holders))
        nexts = [self.came[job_id][0] for job_id in expected]
        await asyncio.gather(*(self._start(client, told) for told in nexts))
        self.drained += len(nexts)
        return [told for told in nexts if told.status == "running"]

    async def _start(self, client: Client, told: Told) -> None:
        answer = await client.look(told, GRANTED_S)
        self.account.expect(told.status == "granted", f"{told.job_id}: {told.status}, and it was its turn")
        if told.status == "granted":
            await client.act(told, "claim", lease_id=answer.body["lease"]["lease_id"])


async def _beside(scene: Scene, over: asyncio.Event) -> None:
    """A client of another pool, with one short job after another."""
    client, took = scene.client("beside"), []
    while not over.is_set():
        began = time.time()
        told = (await client.acquire(BESIDE)).told
        took.append(time.time() - began)
        answer = await client.release(told, told.lease_id, "completed")
        scene.account.expect(answer.code == 200, f"{told.job_id}: {answer.code}, and its pool is empty")
    scene.said.append(
        f"in another pool meanwhile: {len(took)} acquires, median {statistics.median(took) * 1000:.0f} ms, slowest"
        f" {max(took) * 1000:.0f} ms"
    )
