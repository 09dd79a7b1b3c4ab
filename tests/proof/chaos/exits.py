"""gate exits at each of its points, and is started again with the next; clients and buyers ask again until they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from gate.simulator import Simulator
from tests.proof.chaos import delivered, provider_account, provider_judge, provoking
from tests.proof.chaos.buyers import TABLE, Shop, buy
from tests.proof.chaos.points import DOORS, EXITED, points
from tests.proof.chaos.scene import Scene
from tests.support.wait import until
from tests.support.warm import Warm

BUYERS = 3
REACHED_S = 60.0
QUIET_S = 60.0
JOB_SQL = """select 'ana' as "user", 7 as credits, true as charged"""
REFUND_SQL = "insert into public.paid (job_id, amount) values (:job_id, :amount)"


async def exits(scene: Scene) -> None:
    """os._exit before and after each script, each commit and each call: `times` times each (0: at a few, once), one after the
    other. Meanwhile a tool and its provider, an owner's function (in Postgres), operators and edits by hand, as each needs.
    """
    shop = Shop(scene.account, scene.dice)
    with (
        Simulator(limit=1000) as simulator,
        shop.tool.running(),
        contextlib.closing(Warm("tests.proof.chaos.crashing")) as scene.servers[0].warm,
    ):
        scene.provider_url = simulator.url
        await _Exits(scene, shop, simulator).play()


class _Exits:
    def __init__(self, scene: Scene, shop: Shop, simulator: Simulator) -> None:
        self.scene, self.shop, self.simulator = scene, shop, simulator
        (self.server,) = scene.servers
        self.times: Counter[str] = Counter()
        self._lost = False
        """Redis knows nothing, and the next gate that comes to stand loads it."""
        self._since = 0.0

    async def play(self) -> None:
        given = self.scene.options
        await asyncio.to_thread(self._furnish)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for number in range(BUYERS):
                clients.create_task(self._shop(number, over))
            for number, (point, nth) in enumerate(points(given.times, given.sql, self.scene.dice)):
                await self._one(clients, number, point, nth)
            await self._starts("", 1)
            over.set()
        await self._judge()
        self._say()

    def _furnish(self) -> None:
        """From here on the server has a tool, a provider and, in Postgres, an owner."""
        if self.scene.postgres is not None:
            self.server.sql("create table public.paid (job_id text not null, amount bigint not null)")
            self.server.exit_at("", 1, GATE_JOB_SQL=JOB_SQL, GATE_REFUND_SQL=REFUND_SQL)
        with (self.server.folder / "gate.toml").open("a") as config:
            config.write(self.shop.config() + provider_account.account_config(self.simulator))
        self.scene.account.expect(self.server.stop() == 0, "the first server did not stop well")
        self._gone()

    async def _shop(self, number: int, over: asyncio.Event) -> None:
        client = self.scene.client(f"b{number}")
        while not over.is_set():
            await buy(client)

    async def _one(self, clients: asyncio.TaskGroup, number: int, point: str, nth: int) -> None:
        door = point.split()[1]
        self.shop.often = provoking.OFTEN.get(door, "")
        if door in provoking.EMPTIED:
            await self._empty(door == "sql:grace")
        reached = asyncio.Event()
        if await self._starts(point, nth):
            if door in provoking.ROUNDS:
                clients.create_task(self._provoke(number, door, reached))
            try:
                await until(lambda: self.server.process.poll() is not None, f"{point}, pass {nth}", REACHED_S)
            except AssertionError:
                self.scene.account.wrong.append(f"point {point} was not reached: pass {nth}, {REACHED_S:g} s")
        reached.set()
        self._recovered()
        self._since = self.scene.happens()
        code = self.server.process.poll()
        self.scene.account.expect(code in (None, EXITED), f"{point}: gate ended with {code}")
        self.times[point] += code == EXITED
        self.server.kill()
        self._gone()

    async def _provoke(self, number: int, door: str, reached: asyncio.Event) -> None:
        client = self.scene.client(f"o{number}")
        while not reached.is_set():
            await provoking.ROUNDS[door](self.scene, client)
            await asyncio.sleep(0.02)

    async def _empty(self, with_a_lease: bool) -> None:
        if with_a_lease:
            await self._starts("", 1)
            told = await provoking.hold(self.scene.client(f"g{self.scene.faults}"), provoking.SHORT_S)
            self.server.kill()
            self._gone()
            await asyncio.sleep(max(told.lives_until() - time.time(), 0) + 0.05)
        if self.scene.redis is not None:
            await self.scene.by_hand("FLUSHALL")
            self._lost = True

    async def _starts(self, point: str, nth: int) -> bool:
        """False when it exited before it was ready."""
        self.server.exit_at(point, nth)
        try:
            await asyncio.to_thread(self.server.start)
        except AssertionError:
            code = await asyncio.to_thread(self.server.process.wait, 20)
            self.scene.account.expect(code == EXITED, f"{point}: gate did not start, but ended with {code}")
            self.scene.spare += 1  # it may have raised the epoch
            return False
        self.scene.losses += self._lost
        self._lost = False
        self.scene.account.back = time.time()
        return True

    def _gone(self) -> None:
        self._lost = self._lost or self.scene.redis is None

    def _recovered(self) -> None:
        """Time from the exit before this one to the next answer 2xx."""
        if self._since and (good := [call.received for call in self.scene.account.good(None, self._since)]):
            self.scene.recoveries.append(min(good) - self._since)

    async def _judge(self) -> None:
        scene, account = self.scene, self.scene.account
        live = f"select count(*) as n from @jobs where tool = '{TABLE}' and ended_at is null"
        undone = "select count(*) as n from @deliveries where done_at is null"
        owed = "select count(*) as n from @owed"

        async def quiet() -> bool:
            left = [await asyncio.to_thread(scene.books.rows, query) for query in (live, undone, owed)]
            return not any(rows[0].n for rows in left)

        try:
            await until(quiet, "nothing is owed to the tool or to the owner", QUIET_S)
        except AssertionError as error:
            account.wrong.append(str(error))
        await provider_judge.settle(scene)
        account.wrong += delivered.wrong(self.shop.tool, scene.books)
        calls = self.shop.tool.calls
        again = len(calls) - len({call.webhook_id for call in calls})
        paid = ""
        if scene.postgres is not None:
            account.wrong += self._money()
            paid = f", {len(self.server.sql('select 1 from public.paid'))} refunds paid by the owner's function"
        starts = len(self.shop.tool.starts())
        scene.said.append(f"{starts} start calls, {len(calls) - starts} events, {again} of them again{paid}")

    def _money(self) -> list[str]:
        """The owner paid what the ledger says, each once."""
        booked = "select l.job_id, l.amount from @ledger l join @jobs j on j.job_id = l.job_id where l.kind = 'refund' and j.settles"
        ledger, owners = sorted(self.server.sql(booked)), sorted(self.server.sql("select job_id, amount from public.paid"))
        return [] if ledger == owners else [f"the owner paid {len(owners)} refunds, and {len(ledger)} are booked"]

    def _say(self) -> None:
        tried = [door for door in DOORS if any(self.times[f"{side} {door}"] for side in ("before", "after"))]
        self.scene.said.append(f"{sum(self.times.values())} exits at {len(self.times)} points: times before, after")
        for door in tried:
            self.scene.said.append(f"  {door:<24}{self.times[f'before {door}']:>4}{self.times[f'after {door}']:>4}")
