"""The owner's refund function fails half the time, in every way there is, and servers are killed while they pay."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict

from tests.proof.billing.shop import HANGS, JOB_SQL, RAISES, REFUND_SQL, TABLE, Shop
from tests.proof.chaos.account import REFUNDED, Told
from tests.proof.chaos.clients import CREDITS, Answer, Client
from tests.proof.chaos.scene import Scene
from tests.support.wait import until

POOL = "shop"
CONFIG = f"""
job_sql = "{JOB_SQL}"
refund_sql = "{REFUND_SQL}"
[pools.shop]
limit = 100
lease_seconds = 600
[tools.{TABLE}]
"""
HOW = {"pays": 50, "raises": 20, "fails at commit": 15, "breaks its connection": 13, "hangs": 2}
"""Of a hundred calls. One that hangs takes five seconds."""
TURNS = 1000
"""The schedule; then it begins again. A turn is taken whether or not its transaction commits."""
BEHAVIOUR = f"""
declare
    mine bigint := nextval('shop.calls') % {TURNS};
    how text := (select s.how from shop.schedule s where s.turn = mine);
begin
    if how = 'raises' then {RAISES} end if;
    if how = 'hangs' then {HANGS} end if;
    if how = 'breaks its connection' then perform pg_terminate_backend(pg_backend_pid()); end if;
    if how = 'fails at commit' then perform set_config('shop.at_commit', 'fails', true); end if;
end;
"""
AT_COMMIT = """
create table shop.schedule (turn bigint primary key, how text);
create function shop.refuse() returns trigger language plpgsql as $$ begin
    if current_setting('shop.at_commit', true) = 'fails' then raise exception 'no such account'; end if; return null;
end $$;
create constraint trigger known after insert on shop.paid deferrable initially deferred for each row execute function shop.refuse();
"""
AT_ONCE = 12
SHORT_S = 0.5
KILLED_EVERY_S = 2.0
PAID_S = 300.0
"""The last refund is paid so long after the last job has ended, or something is stuck."""


async def owner_money(scene: Scene) -> None:
    """`times` jobs that fail, are cancelled, expire or are completed; meanwhile every 2 s a server is killed and started again."""
    shop = await asyncio.to_thread(_opened, scene)
    left = iter(range(scene.options.times))
    over = asyncio.Event()

    async def some(client: Client) -> None:
        for _ in left:
            await _one(scene, shop, client)

    async with asyncio.TaskGroup() as group:
        group.create_task(_kill(scene, over))
        async with asyncio.TaskGroup() as jobs:
            for number in range(AT_ONCE):
                jobs.create_task(some(scene.client(f"o{number}")))
        await _paid(scene, shop)
        over.set()
    await asyncio.to_thread(_look_back, scene, shop)


def _opened(scene: Scene) -> Shop:
    shop = Shop(scene.servers[0].sql_url)
    shop.run(AT_COMMIT)
    hows = scene.dice.choices(list(HOW), list(HOW.values()), k=TURNS)
    shop.run("insert into shop.schedule values " + ", ".join(f"({turn}, '{how}')" for turn, how in enumerate(hows)))
    shop.refund_is(BEHAVIOUR)
    return shop


async def _kill(scene: Scene, over: asyncio.Event) -> None:
    while not over.is_set():
        await asyncio.sleep(KILLED_EVERY_S)
        server = scene.dice.choice(scene.servers)
        since = scene.happens()
        server.kill()
        await asyncio.to_thread(server.start_until_it_does)
        await scene.served_again(since)


async def _one(scene: Scene, shop: Shop, client: Client) -> None:
    """Priced by the owner; then it ends, in one way or another."""
    dice = client.dice
    credits = dice.choice(CREDITS)
    job_id = await asyncio.to_thread(shop.sells, client.name, credits)
    told = scene.account.opened(job_id, POOL, credits)
    (end,) = dice.choices(("failed", "cancelled", "expired", "completed"), (40, 30, 20, 10))
    lease_s = SHORT_S if end == "expired" else 600
    answer = await client.ask_again(told, tool=TABLE, lease_seconds=lease_s)
    while answer.job is not None and told.outcome is None and told.status != "running":
        answer = await _on(client, told, answer)
    if told.outcome is not None:
        return
    match end:
        case "expired":
            while told.outcome is None:
                await asyncio.sleep(0.1)
                await client.look(told)
        case "cancelled":
            await client.cancel(told)
        case _:
            await client.release(told, told.lease_id, end)
    scene.account.expect(told.outcome == end, f"{job_id}: {told.outcome}, not {end}")


async def _on(client: Client, told: Told, answer: Answer) -> Answer:
    """From the queue, where one is put when an expiry is not on record yet."""
    assert answer.job is not None
    if told.status == "queued":
        return await client.look(told, 5)
    return await client.act(told, "claim", lease_id=answer.job["lease"]["lease_id"])


async def _paid(scene: Scene, shop: Shop) -> None:
    """Time passes for what is owed, until nothing is."""

    async def all_of_it() -> bool:
        await asyncio.to_thread(shop.hurry)
        await asyncio.sleep(0.2)
        return not await asyncio.to_thread(shop.rows, "select 1 from gate.owed limit 1")

    began = time.time()
    try:
        await until(all_of_it, "nothing is owed any more", PAID_S)
    except AssertionError as error:
        left = shop.rows("select job_id, attempts, error from gate.owed limit 5")
        scene.account.wrong.append(f"{error}: {left}")
    scene.said.append(f"all paid {time.time() - began:.0f} s after the last job had ended")


def _look_back(scene: Scene, shop: Shop) -> None:
    """In the owner's table stands each refund once, and nothing else."""
    paid: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for job_id, user, amount in shop.rows('select job_id, "user", amount from shop.paid'):
        paid[job_id].append((user, amount))
    users = dict(shop.rows('select id, "user" from shop.jobs'))
    ended: Counter[str] = Counter()
    for job_id, status in shop.rows("select job_id, status from gate.jobs where pool = :pool", pool=POOL):
        told = scene.account.jobs[job_id]
        due = [(users[job_id], told.credits)] if status in REFUNDED and told.credits else []
        found = paid.pop(job_id, [])
        scene.account.expect(found == due, f"{job_id}: {status}, paid {found}, not {due}")
        ended[status] += bool(due) or status == "completed"
    scene.account.expect(not paid, f"paid for jobs that do not exist: {list(paid.items())[:5]}")
    ((asked,),) = shop.rows("select last_value from shop.calls")
    hows = shop.rows(
        f"select s.how, count(*) from generate_series(1, {asked}) n join shop.schedule s on s.turn = n % {TURNS} group by s.how"
    )
    how = ", ".join(f"{name}: {count:,}" for name, count in sorted(hows))
    listed = ", ".join(f"{name}: {count:,}" for name, count in sorted(ended.items()))
    scene.said.append(f"jobs with credits that {listed}; the function was called {asked:,} times ({how})")
