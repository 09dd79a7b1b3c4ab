"""Scenarios 1 to 3: lost callbacks with outages and kills, a provider without callbacks, and cancels of running jobs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from gate.diagnostics.verify import verify
from gate.simulator import Simulator
from tests.proof.soak.providers.figures import Result, average, percentile
from tests.proof.soak.providers.holders import CREDITS, Holder, Played, drawn, hold
from tests.proof.soak.providers.scene import Caller, Scene, calling, config, drain_s, opened
from tests.support.wait import until

LIMIT = 20
CLIENTS = LIMIT + 4
SETTLE_S = 30.0
"""Longest wait (s) until no question and no stop is due any more."""
AWAYS_S = (120.0, 120.0, 480.0)
"""Times (s, before scaling) for which the provider is away."""
SLACK_S = 0.5
"""What a busy machine may add (s, not scaled) to a deadline."""


def lost_callbacks(
    folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False, kills: int = 10
) -> Result:  # fmt: skip
    """Play scenario 1: callbacks are lost and doubled, tasks are long, the provider is away, and gate is killed."""
    result = Result(f"1. lost callbacks: {jobs} jobs, seed {seed}, time 1:{scale:g}, {_stores(on_postgres)}")
    with Simulator(LIMIT) as simulator:
        text = config(simulator.url, LIMIT, scale)
        with opened(folder, simulator, text, scale, on_postgres) as scene:
            played = [drawn(seed, number, scale) for number in range(jobs)]
            result.wrong += asyncio.run(_with_outages(scene, played, seed, kills))
            _judge(scene, played, result)
            found = _idle(scene, [job for job in played if job.is_lost])
            _say_idle(result, found, 25, 65, scale)
            _say_questions(scene, played, result, mean_most=3, most=30)
            result.add("kill -9 of gate", sum(down.what == "gate" for down in scene.downs))
            result.add("outages of the provider", sum(down.what == "provider" for down in scene.downs))
            down_s = [down.end - down.begin for down in scene.downs if down.what == "gate"]
            result.add("gate was down after each kill, mean (s, not scaled)", average(down_s))
    return result


def no_callbacks(folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False) -> Result:
    """Play scenario 2: the provider calls nothing back."""
    result = Result(f"2. callbacks = false: {jobs} jobs, seed {seed}, time 1:{scale:g}, {_stores(on_postgres)}")
    with Simulator(LIMIT) as simulator:
        text = config(simulator.url, LIMIT, scale, callbacks="false")
        with opened(folder, simulator, text, scale, on_postgres) as scene:
            played = [drawn(seed, number, scale, callbacks=False) for number in range(jobs)]
            result.wrong += asyncio.run(hold(scene, played, CLIENTS))
            _judge(scene, played, result)
            _say_idle(result, _idle(scene, played), 12, None, scale)
            _say_questions(scene, played, result, mean_most=15, most=None)
    return result


def cancels(folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False) -> Result:
    """Play scenario 3: running jobs are cancelled. Then the provider ignores some cancels."""
    result = Result(f"3. cancels: {jobs} running jobs, seed {seed}, time 1:{scale:g}, {_stores(on_postgres)}")
    with Simulator(LIMIT) as simulator:
        text = config(simulator.url, LIMIT, scale)
        with opened(folder, simulator, text, scale, on_postgres) as scene:
            asyncio.run(_cancel_all(scene, jobs, seed, result))
            seen = simulator.seen()
            result.add("refused starts", seen["refused"], most=0)
            result.add("tasks that run after all", seen["running"], most=0)
            result.add("most tasks at once at the provider", seen["most_running"], most=LIMIT)
            asyncio.run(_ignored(scene, max(jobs // 10, 3), seed, result))
            _settle(scene)
            _verify(scene, result)
    return result


# ---- scenario 1


async def _with_outages(scene: Scene, jobs: list[Played], seed: int, kills: int) -> list[str]:
    """Play all jobs. Kills and outages begin with certain jobs, in an order that is drawn."""
    dice = random.Random(f"{seed}-outages")
    events: list[float | None] = [None] * kills + list(AWAYS_S)
    dice.shuffle(events)
    at = {len(jobs) * (number + 1) // (len(events) + 1): event for number, event in enumerate(events)}
    under_way: list[asyncio.Task[None]] = []
    lock = asyncio.Lock()

    async def one(number: int, event: Coroutine[Any, Any, None]) -> None:
        async with lock:  # one at a time
            await event

    def begin(number: int) -> None:
        if number in at:
            away_s = at[number]
            event = scene.kill(number) if away_s is None else scene.leave(away_s)
            under_way.append(asyncio.create_task(one(number, event)))

    wrong = await hold(scene, jobs, CLIENTS, begin)
    await asyncio.gather(*under_way)
    return wrong


def _idle(scene: Scene, jobs: list[Played]) -> tuple[list[float], int]:
    """Return for how long (s, before scaling) the slots were idle after the ends of these tasks, and the jobs left out.

    A job is left out when something was down between the end of its task and its own end.
    """
    ended = {
        job_id: at / 1000 for job_id, at in scene.books.rows("select job_id, ended_at from @jobs where ended_at is not null")
    }
    idle, left_out = [], 0
    for job in jobs:
        if job.job_id not in ended:
            continue
        if any(down.meets(job.over_at, ended[job.job_id]) for down in scene.downs):
            left_out += 1
        else:
            idle.append((ended[job.job_id] - job.over_at) * scene.scale)
    return idle, left_out


def _say_idle(result: Result, found: tuple[list[float], int], mean_most: float, p95_most: float | None, scale: float) -> None:
    idle, left_out = found
    result.add("lost callbacks outside outages", len(idle))
    result.add("lost callbacks in outages", left_out)
    result.add("slot idle after a lost callback, mean (s, unscaled)", average(idle), mean_most, is_speed=True)
    result.add("slot idle after a lost callback, p95 (s, unscaled)", percentile(idle, 0.95), p95_most, is_speed=True)
    result.add("slot idle after a lost callback, most (s, unscaled)", max(idle, default=None))


def _say_questions(scene: Scene, jobs: list[Played], result: Result, mean_most: float, most: int | None) -> None:
    """Say how often the provider was asked about each task. A further request counts as a question too."""
    seen = {task["taskId"]: task["questions"] for task in scene.simulator.seen()["tasks"]}
    counts = [seen[job.task_id] for job in jobs if job.task_id in seen]
    result.add("questions a job, mean", average(counts), mean_most, is_speed=True)
    result.add("questions a job, most", max(counts, default=None), most, is_speed=True)
    result.add("questions in all", sum(counts))


def _judge(scene: Scene, jobs: list[Played], result: Result) -> None:
    """Compare the ends of the jobs with what became of their tasks, and run `gate verify`."""
    _settle(scene)
    seen = scene.simulator.seen()
    tasks = {task["taskId"]: task["status"] for task in seen["tasks"]}
    rows = {row[0]: row for row in scene.books.rows("select job_id, status, ended_at, end_reason from @jobs")}
    refunds = dict(scene.books.rows("select job_id, amount from @ledger where kind = 'refund'"))
    finished = [job for job in jobs if tasks.get(job.task_id) == "SUCCESS"]
    expired = [job for job in jobs if rows.get(job.job_id, ("", ""))[1] == "expired"]
    running = [job for job in expired if rows[job.job_id][2] / 1000 < job.over_at]
    result.add(
        "jobs whose task has ended", sum(tasks.get(job.task_id) in ("SUCCESS", "FAILED") for job in jobs), least=len(jobs)
    )
    result.add("finished jobs refunded", sum(job.job_id in refunds for job in finished), most=0)
    result.add("finished jobs that are not completed", sum(rows[job.job_id][1] != "completed" for job in finished), most=0)
    result.add("jobs expired", len(expired), most=0)
    result.add("jobs expired while their task ran", len(running), most=0)
    failed = [job for job in jobs if tasks.get(job.task_id) == "FAILED"]
    result.add("failed jobs not refunded", sum(refunds.get(job.job_id) != CREDITS for job in failed), most=0)
    result.add("refused starts", seen["refused"], most=0)
    result.add("most tasks at once at the provider", seen["most_running"], most=LIMIT)
    _verify(scene, result)


def _settle(scene: Scene) -> None:
    query = "select count(*) from @tasks where ask_at is not null and (stop is null or stop = 'owed')"
    asyncio.run(until(lambda: scene.books.rows(query)[0][0] == 0, "no question is due any more", SETTLE_S))


def _verify(scene: Scene, result: Result) -> None:
    breaches = verify(scene.sql_url, scene.redis_url).breaches
    result.add("breaches that gate verify finds", len(breaches), most=0)
    result.wrong += map(str, breaches)


# ---- scenario 3


def _for_ever(seed: int, number: int, name: str, **more: Any) -> Played:
    plan = {"seconds": 0, "forever": True, "callback": "lost"} | more
    return Played(f"{name}{seed}-{number}", plan)


async def _cancel_all(scene: Scene, count: int, seed: int, result: Result) -> None:
    """Start tasks that never end, and cancel each job while its task runs. A cancel takes the provider up to 20 s (scaled)."""
    dice = random.Random(f"{seed}-cancels")
    jobs = [_for_ever(seed, number, "c", cancel_s=round(scene.scaled(dice.uniform(0, 20)), 3)) for number in range(count)]
    ended = 0

    async def client(left: Any, holder: Holder, call: Caller) -> None:
        nonlocal ended
        for number, job in left:
            if await holder.begin(job, number) is not None:
                answer = await call("POST", f"/v1/pools/default/jobs/{job.job_id}/cancel")
                ended += answer.json().get("status") == "cancelled"

    async with calling(scene) as call:
        left = iter(list(enumerate(jobs)))
        await asyncio.gather(*(client(left, Holder(scene, call, result.wrong), call) for _ in range(CLIENTS)))
    result.add("running jobs cancelled", ended, least=count)
    await until(lambda: scene.simulator.seen()["running"] == 0, "every task is stopped", SETTLE_S)


async def _ignored(scene: Scene, count: int, seed: int, result: Result) -> None:
    """Cancel jobs whose provider ignores it, and measure the time until the slot is free: one after another."""
    jobs = [_for_ever(seed, number, "d", deaf=True) for number in range(count)]
    scene.simulator.control(limit=LIMIT + count)  # because an ignored cancel leaves a task there
    took: list[float] = []
    async with calling(scene) as call:
        holder = Holder(scene, call, result.wrong)

        async def is_back() -> bool:
            pool = (await call("GET", "/v1/pools/default")).json()
            return bool(pool["free"] == LIMIT and pool["draining"] == 0)

        await until(is_back, "all slots are free", SETTLE_S)
        for number, job in enumerate(jobs):
            await holder.begin(job, number)
            await call("POST", f"/v1/pools/default/jobs/{job.job_id}/cancel")
            since = time.monotonic()
            await until(is_back, "its slot is back", SETTLE_S)
            took.append(time.monotonic() - since)
    ends = {job.task_id: {"forever": False} for job in jobs}
    scene.simulator.control(tasks=ends)
    most = drain_s(scene.scale)
    result.add("ignored cancels", len(took))
    result.add("drain_seconds (s, not scaled; the setting takes no less than 0.5)", most)
    result.add("slot back after an ignored cancel, mean (s, not scaled)", average(took))
    result.add("slot back after an ignored cancel, most (s, not scaled)", max(took), most + SLACK_S)


def _stores(on_postgres: bool) -> str:
    return "two servers on Postgres" if on_postgres else "one server on SQLite"
