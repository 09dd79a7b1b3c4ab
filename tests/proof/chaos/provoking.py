"""What the load alone reaches too rarely: operators who change pools and edit Redis by hand, and unusual calls about
jobs. All in a pool of one slot of its own; each is a round that is played again until its point is reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import redis.asyncio
from redis.exceptions import RedisError

from tests.proof.chaos import provider_account
from tests.proof.chaos.account import Told
from tests.proof.chaos.buyers import CREDITS, MANAGER, TABLE, asked, call_back
from tests.proof.chaos.clients import Client
from tests.proof.chaos.scene import Scene
from tests.support.wait import until

POOL = "still"
CONFIG = f"[pools.{POOL}]\nlimit = 1\n{provider_account.CONFIG}"
SHORT_S = 0.7
MENDED_S = 5.0
"""Two sweeps, and a little."""
Round = Callable[[Scene, Client], Awaitable[None]]


def key(role: str) -> str:
    return f"gate:{{{POOL}}}:{role}"


@contextlib.asynccontextmanager
async def by_hand(scene: Scene) -> AsyncIterator[Any]:
    """redis-cli. The embedded Redis may be gone at any moment, and its address with it."""
    with contextlib.suppress(RedisError, OSError):
        async with redis.asyncio.Redis.from_url(scene.servers[0].redis_url) as cli:
            yield cli


async def hold(client: Client, lease_s: float, pool: str = POOL) -> Told:
    while True:
        told = (await client.acquire(pool, lease_seconds=lease_s)).told
        if told.status == "running":
            return told
        await client.cancel(told)
        await asyncio.sleep(0.1)


async def unwritten(scene: Scene, client: Client) -> None:
    """Another process locks the row of the pool while a job takes a place in it: SQL does not write it in time, and the place goes back. Not before
    the pool is loaded: while its row is held it cannot be.
    """
    try:
        loaded = await client.http.get(f"{client.servers[0]}/v1/pools/{POOL}", timeout=10)
    except httpx2.TransportError:
        return
    if loaded.status_code != 200:
        return
    client.count += 1
    with contextlib.ExitStack() as closing:
        await asyncio.to_thread(closing.enter_context, scene.books.held(POOL))
        with contextlib.suppress(httpx2.TransportError):
            body = {"job_id": f"unwritten-{client.name}-{client.count}"}
            await client.http.post(f"{client.servers[0]}/v1/pools/{POOL}/acquire", json=body, timeout=10)
        await asyncio.to_thread(closing.close)


async def refused(_scene: Scene, client: Client) -> None:
    told = await hold(client, 3)
    await client.release(told, told.lease_id, "refused")
    await client.cancel(told)


async def waiters_cancelled(_scene: Scene, client: Client) -> None:
    """A waiter whose session is cancelled, behind a holder."""
    holder = await hold(client, 3)
    waiter = (await client.acquire(POOL, session=client.name)).told
    client.account.giving_back(waiter, "cancelled", time.time())
    await asked(client, "POST", f"/v1/pools/{POOL}/cancel", {"session": client.name}, good=(200,))
    await client.look(waiter)
    await client.cancel(holder)


async def bound(_scene: Scene, client: Client) -> None:
    """A task that its caller started, and its provider's word of it."""
    told = await hold(client, 3)
    task_id = f"mine-{told.job_id}"
    body = {"provider": "runninghub", "task_id": task_id, "lease_id": told.lease_id}
    path = f"/v1/pools/{POOL}/jobs/{told.job_id}/task"
    if (await asked(client, "PUT", path, body, good=(200, 410))).status_code == 200:
        client.account.giving_back(told, "completed", time.time())
        await call_back(client, POOL, task_id, "completed")
    await client.look(told)


async def changed(_scene: Scene, client: Client) -> None:
    await asked(client, "PUT", f"/v1/pools/{POOL}", {"queue_max": client.dice.randint(1000, 2000)})


async def made(_scene: Scene, client: Client) -> None:
    await asked(client, "PUT", f"/v1/pools/made-{client.name}", {"limit": 1}, good=(200, 201))


async def deleted(scene: Scene, client: Client) -> None:
    await made(scene, client)
    await asked(client, "DELETE", f"/v1/pools/made-{client.name}", None, good=(200, 404))


async def lost(scene: Scene, client: Client) -> None:
    """ZREM of a lease that has time."""
    told = await hold(client, 4)
    async with by_hand(scene) as cli:
        await cli.zrem(key("slots"), told.job_id)
        await _mended(lambda: cli.zscore(key("slots"), told.job_id))
    await client.release(told, told.lease_id, "completed")


async def unseated(scene: Scene, client: Client) -> None:
    """LREM of a waiter."""
    told = await hold(client, 4)
    waiter = (await client.acquire(POOL)).told
    async with by_hand(scene) as cli:
        await cli.lrem(key("queue"), 0, waiter.job_id)
        await _mended(lambda: cli.lpos(key("queue"), waiter.job_id))
    await client.cancel(waiter)
    await client.release(told, told.lease_id, "completed")


async def overdue(scene: Scene, client: Client) -> None:
    """A lease runs out while its server stands still, and is gone from Redis when it goes on."""
    told = await hold(client, SHORT_S)
    process = scene.servers[0].process
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(max(told.lives_until() - time.time(), 0) + 0.05)
        async with by_hand(scene) as cli:
            await cli.zrem(key("slots"), told.job_id)
            await cli.hdel(key("jobs"), told.job_id)
    finally:
        process.send_signal(signal.SIGCONT)
    query = "select ended_at from @jobs where job_id = :job and ended_at is not null"
    if await _mended(lambda: asyncio.to_thread(scene.books.rows, query, job=told.job_id)):
        await client.look(told)


async def stranger(scene: Scene, client: Client) -> None:
    """A slot of a job that SQL has never seen, older than any commit on its way."""
    client.count += 1
    name, now = f"stranger-{client.name}-{client.count}", round(time.time() * 1000)
    entry = {
        "ticket": "1", "queued_at": now - 60_000, "lease_ms": 60_000, "lease_id": name, "fence": "1", "claimed": True,
        "granted_at": now - 60_000, "due": now + 60_000, "hard": now + 600_000,
    }  # fmt: skip
    async with by_hand(scene) as cli:
        await cli.hset(key("jobs"), name, json.dumps(entry))
        await cli.zadd(key("slots"), {name: entry["due"]})
        await _gone(cli, name)


async def ghost(scene: Scene, client: Client) -> None:
    """A slot of a job that has ended."""
    told = await hold(client, 4)
    async with by_hand(scene) as cli:
        entry, due = await cli.hget(key("jobs"), told.job_id), await cli.zscore(key("slots"), told.job_id)
        await client.release(told, told.lease_id, "completed")
        if entry is not None and due is not None:
            await cli.hset(key("jobs"), told.job_id, entry)
            await cli.zadd(key("slots"), {told.job_id: due})
            await _gone(cli, told.job_id)


async def stepped(scene: Scene, client: Client) -> None:
    """The clock of Redis goes ahead by a minute: to the scripts it is the same as if that of the pool went back. A call meets it at once."""
    async with by_hand(scene) as cli:
        if await cli.exists(key("meta")):
            await cli.hincrby(key("meta"), "ahead_ms", -60_000)
            with contextlib.suppress(httpx2.TransportError):
                await client.http.get(f"{client.servers[0]}/v1/pools/{POOL}", timeout=10)

            async def shifted() -> bool:
                return int(await cli.hget(key("meta"), "ahead_ms") or 0) == 0

            await _mended(shifted)


async def _gone(cli: Any, job_id: str) -> None:
    async def gone() -> bool:
        return await cli.zscore(key("slots"), job_id) is None

    await _mended(gone)


async def _mended(seen: Callable[[], Awaitable[Any]]) -> bool:
    """False when gate has exited meanwhile: then the next one mends it."""

    async def there() -> bool:
        return await seen() not in (None, False, [])

    with contextlib.suppress(AssertionError):
        return await until(there, "it is mended", MENDED_S)
    return False


async def given_up(_scene: Scene, client: Client) -> None:
    """A browser ends a job that was charged and has not been admitted."""
    client.count += 1
    told = client.account.opened(f"early-{client.name}-{client.count}", "default", CREDITS)
    client.account.jobs[told.job_id].asked.add("failed")
    await asked(client, "POST", f"{MANAGER}/finish", {"table": TABLE, "jobId": told.job_id, "status": "failed"})
    await client.look(told)


async def run_task(scene: Scene, client: Client, seconds: float) -> Told:
    """A task at the provider, whose callback is lost."""
    told = await hold(client, provider_account.LEASE_S, provider_account.POOL)
    key, plan = {"apiKey": provider_account.KEY}, {"callback": "lost", "seconds": seconds}
    url = f"{scene.provider_url}/task/openapi/run"
    task_id = (await client.http.post(url, json={"workflowId": "1", "gateTest": plan} | key)).json()["data"]["taskId"]
    told.asked.add("completed")
    body = {"provider": "runninghub", "task_id": task_id, "lease_id": told.lease_id}
    await asked(client, "PUT", _of(told, "task"), body, good=(200, 410))
    return told


def _of(told: Told, verb: str) -> str:
    return f"/v1/pools/{told.pool}/jobs/{told.job_id}/{verb}"


async def answered(scene: Scene, client: Client) -> None:
    """Only a question finds that the task has ended."""
    told = await run_task(scene, client, 0.3)
    while not told.outcome:
        await asyncio.sleep(0.1)
        await client.look(told)


async def asked_now(scene: Scene, client: Client) -> None:
    """An operator asks."""
    told = await run_task(scene, client, 0.3)
    while not told.outcome:
        await asked(client, "POST", _of(told, "ask"), good=(202, 409))
        await asyncio.sleep(0.1)
        await client.look(told)


async def cancelled_start(_scene: Scene, client: Client) -> None:
    """A job is cancelled while its start call is unanswered. The task that the answer then names is unknown to the provider."""
    client.count += 1
    told = client.account.opened(f"late-{client.name}-{client.count}", provider_account.POOL, CREDITS)
    await client.ask_again(told, tool=TABLE, started_by="gate")
    while told.status == "queued":
        await asyncio.sleep(0.05)
        await client.look(told)
    await client.cancel(told)


async def stopped(scene: Scene, client: Client) -> None:
    """A job is cancelled while its task runs."""
    await client.cancel(await run_task(scene, client, 60))


ROUNDS: dict[str, Round] = {
    "sql:cancel_waiting": waiters_cancelled, "script:undo": unwritten, "script:requeue": refused, "sql:refuse": refused, "sql:bind": bound, "sql:hear": bound,
    "script:configure": changed, "sql:change_pool": changed, "sql:make_pool": made, "sql:delete_pool": deleted, "script:restore": lost,
    "sql:seated": unseated, "sql:expire_overdue": overdue, "sql:void": stranger,
    "sql:say_ended": ghost, "script:shift": stepped, "sql:record_clock": stepped,
    "sql:end_unadmitted": given_up,
    "script:drain": stopped, "sql:ask": asked_now, "sql:question.take": answered, "sql:question.record": stopped,
    "call:question": stopped, "sql:start_late": cancelled_start,
}  # fmt: skip
OFTEN = {
    "script:hold": "is slow",
    "sql:hold": "is slow",
    "sql:delivery.keep": "is slow",
    "sql:start_late": "is slow",
    "call:start": "takes",
    "sql:fail": "fails",
    "sql:delivery.put_off": "breaks",
}
"""What the tool says oftener then."""
EMPTIED = ("script:rebuild", "sql:begin_rebuild", "sql:grace")
"""Reached by a start on an empty Redis; the last of them, when a lease ran out meanwhile."""
