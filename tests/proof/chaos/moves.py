"""What an operator and a machine do beside the load: pools come and go, and the clock of Redis steps. Each while a server is killed."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.proof.chaos.buyers import asked
from tests.proof.chaos.scene import Scene
from tests.support.wait import until

META = "gate:{default}:meta"
STEP_MS = 60_000
FAR_MS = 5_000
"""Above it gate takes a difference for a step. What is left of one below it slews away."""
MENDED_S = 10.0
"""A call comes far sooner; a server that has just started waits for the others."""


async def moves(scene: Scene) -> None:
    """Each time a pool is made, used and deleted, or the clock steps under jobs that run and wait. One of the servers is killed meanwhile,
    in half of them: never all, since a step that no living server saw is taken for an absence.
    """
    did: Counter[str] = Counter()
    while scene.wanted() or scene.faults < scene.options.times:
        number, does = scene.faults, (_come_and_go, _step)[scene.faults % 2]
        since, dies = scene.happens(), scene.dice.random() < 0.5
        server, after_s = scene.dice.choice(scene.servers), scene.dice.uniform(0, 0.1)
        doing = asyncio.create_task(does(scene, number))
        if dies:
            await asyncio.sleep(after_s)
            server.kill()
            await scene.served_again(since)
            await asyncio.to_thread(server.start)
        await doing
        did[does.__name__.strip("_")] += 1
        did["kills"] += dies
    scene.said.append(", ".join(f"{what}: {count}" for what, count in sorted(did.items())))
    steps = await asyncio.to_thread(scene.books.rows, "select count(*) as n from @events where kind = 'clock_stepped'")
    scene.said.append(f"steps in the history: {steps[0].n}")
    scene.account.expect(steps[0].n <= did["step"], f"{steps[0].n} steps are recorded of {did['step']}")


async def _come_and_go(scene: Scene, number: int) -> None:
    """Two operators, each at a server of its own as long as that lives."""
    pool = f"passing-{number % 3}"

    clients = [scene.client(f"m{number}x{at}", at) for at in range(2)]
    await asked(clients[0], "PUT", f"/v1/pools/{pool}", {"limit": 1}, good=(200, 201))
    told = (await clients[0].acquire(pool, lease_seconds=3)).told
    await asked(clients[1], "DELETE", f"/v1/pools/{pool}", None, good=(409,))
    await clients[1].cancel(told)
    await asked(clients[0], "DELETE", f"/v1/pools/{pool}", None, good=(200, 404))


async def _step(scene: Scene, _number: int) -> None:
    """To the scripts it is the same whether their clock goes ahead, or the pool's goes back."""
    await scene.by_hand("HINCRBY", META, "ahead_ms", str(scene.dice.choice((-STEP_MS, STEP_MS))))

    async def as_before() -> bool:
        return abs(int(await scene.by_hand("HGET", META, "ahead_ms") or 0)) <= FAR_MS

    try:
        await until(as_before, "the pool's clock is where it was", MENDED_S)
    except AssertionError as error:
        scene.account.wrong.append(str(error))
