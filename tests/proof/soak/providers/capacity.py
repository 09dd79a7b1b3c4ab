"""Scenarios 4 and 5: tasks of strangers, a counter that is stuck, and two accounts of one pool. The looks at an account are not scaled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gate.diagnostics.verify import verify
from gate.runtime.settings import ProviderSettings
from gate.simulator import Simulator
from tests.proof.soak.providers.figures import Result
from tests.proof.soak.providers.scene import Caller, Scene, calling, config, opened

KEYS = {"first": "key-of-the-first-0123456789", "second": "key-of-the-second-0123456789"}
EACH = 3
"""Tasks that a key may run at once."""
TASK_S = (0.3, 1.2)
"""Times (s) of tasks."""
FOLLOWS_S = 20.0
"""Time (s) in which the limit in force follows the provider."""
GIVES_UP_S = 90.0
JOBS = "/v1/pools/default/jobs"
MISSING = "this gate has no setting capacity"


@dataclass(slots=True)
class Load:
    """Clients that run one job after another, on the account that gate has chosen.

    Attributes:
        scene: The scene.
        call: Calls gate.
        seed: Seed of the times of the tasks.
        left: Jobs that are not begun yet.
        ends: Number of jobs by their status at the end.
        refused: Starts that the provider refused, by its code.
    """

    scene: Scene
    call: Caller
    seed: int
    left: int
    ends: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)

    async def client(self) -> None:
        while self.left > 0:
            self.left -= 1
            await self._play(f"a{self.seed}-{self.left}")

    async def _play(self, job_id: str) -> None:
        """Run a job to its end. A start that the provider refuses sends it back to its place."""
        dice = random.Random(job_id)
        body = {"job_id": job_id, "user": "ana", "credits": 5, "tool": "upscaler", "wait_seconds": 30}
        job = (await self.call("POST", "/v1/pools/default/acquire", json=body)).json()
        while job["ended_at"] is None:
            if job["status"] == "queued":
                job = await self._look(job_id, "queued")
            elif job["task"] is not None:
                job = await self._look(job_id, "running")
            else:
                job = await self._start(job, {"seconds": round(dice.uniform(*TASK_S), 3)})
        self.ends[job["status"]] += 1

    async def _look(self, job_id: str, until_not: str) -> dict[str, Any]:
        asked = {"wait_seconds": 30, "status": until_not}
        found: dict[str, Any] = (await self.call("GET", f"{JOBS}/{job_id}", params=asked)).json()
        return found

    async def _start(self, job: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
        path, lease_id = f"{JOBS}/{job['job_id']}", job["lease"]["lease_id"]
        run = {"apiKey": KEYS[job["account"]], "workflowId": "1", "webhookUrl": self.scene.webhook(0), "gateTest": plan}
        said = await self.call.provider("/task/openapi/run", run)
        assert said is not None
        if said["code"] != 0:
            self.refused[said["code"]] += 1
            body = {"lease_id": lease_id, "outcome": "refused", "error": said["msg"]}
            await self.call("POST", f"{path}/release", json=body)
        else:
            task = {"provider": "runninghub", "task_id": said["data"]["taskId"], "lease_id": lease_id}
            await self.call("PUT", f"{path}/task", json=task)
        found: dict[str, Any] = (await self.call("GET", path)).json()
        return found


def strangers(folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False) -> Result:
    """Play scenario 4: a task of a stranger comes and goes, and the counter is stuck. `jobs` is the number of strangers."""
    result = Result(f"4. strangers: {jobs} come and go, seed {seed}, looks at the account not scaled")
    if "capacity" not in ProviderSettings.model_fields:
        result.skipped = MISSING
        return result
    with _scene(folder, scale, EACH, {"first": EACH}, on_postgres) as scene:
        asyncio.run(_strangers(scene, jobs, seed, result))
        _verify(scene, result)
    return result


async def _strangers(scene: Scene, count: int, seed: int, result: Result) -> None:
    key, falls, rises = KEYS["first"], [], []
    async with _loaded(scene, seed, 10**9, 2 * EACH) as load:
        for _ in range(count):
            scene.simulator.control(keys={key: {"strangers": 1}})
            falls.append(await _until_in_force(load, EACH - 1))
            scene.simulator.control(keys={key: {"strangers": 0}})
            rises.append(await _until_in_force(load, EACH))
        scene.simulator.control(keys={key: {"counter": 50}})
        stuck = await _until_in_force(load, 1)
        before = load.ends["completed"]
        began = time.monotonic()
        while load.ends["completed"] < before + 5 and time.monotonic() < began + GIVES_UP_S:
            await asyncio.sleep(0.05)
        result.add("jobs completed while the counter is stuck", load.ends["completed"] - before, least=5)
        pool = (await load.call("GET", "/v1/pools/default")).json()
        result.add("limit in force while the counter is stuck", pool["limit_in_force"], least=1, most=1)
        scene.simulator.control(keys={key: {"counter": None}})
    result.add("limit in force 2 after a stranger came, most (s)", max(falls), FOLLOWS_S, is_speed=True)
    result.add("limit in force 3 after it went, most (s)", max(rises), FOLLOWS_S, is_speed=True)
    result.add("limit in force 1 after the counter was stuck (s)", stuck)
    _say_ends(load, result)
    result.add("most tasks of gate at once", scene.simulator.seen()["keys"][key]["most_running"], most=EACH)


def accounts(folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False) -> Result:
    """Play scenario 5: two keys for three tasks each, with a limit of six and of three; then one key is revoked."""
    result = Result(f"5. two accounts: {jobs} jobs with each limit, seed {seed}, looks at the account not scaled")
    if "capacity" not in ProviderSettings.model_fields:
        result.skipped = MISSING
        return result
    for limit in (2 * EACH, EACH):
        home = folder / f"limit-{limit}"
        home.mkdir()
        with _scene(home, scale, limit, dict.fromkeys(KEYS, EACH), on_postgres) as scene:
            asyncio.run(_two_keys(scene, jobs, seed, limit, result))
            _verify(scene, result)
    return result


async def _two_keys(scene: Scene, jobs: int, seed: int, limit: int, result: Result) -> None:
    async with _loaded(scene, seed, jobs, 2 * limit) as load:
        pass
    seen = scene.simulator.seen()
    for name, key in KEYS.items():
        result.add(f"limit {limit}: most tasks at once with the {name} key", seen["keys"][key]["most_running"], most=EACH)
    result.add(f"limit {limit}: most tasks at once with both", seen["most_running"], most=limit, least=limit)
    result.add(f"limit {limit}: refused starts", seen["refused"], most=0)
    _say_ends(load, result)
    if limit > EACH:
        async with _loaded(scene, seed + 1, jobs, 2 * limit) as load:
            while load.left > jobs * 2 // 3:
                await asyncio.sleep(0.01)
            scene.simulator.control(keys={KEYS["first"]: {"code": 802}})
        result.add("starts refused after the first key was revoked", sum(load.refused.values()))
        _say_ends(load, result)
        pool = (await _pool(scene))["accounts"]
        result.add("accounts that are down or cool down", sum(one["state"] != "open" for one in pool), least=1)


def _say_ends(load: Load, result: Result) -> None:
    result.add("jobs completed", load.ends["completed"], least=1)
    result.add("jobs that ended in another way", load.ends.total() - load.ends["completed"], most=0)


async def _pool(scene: Scene) -> dict[str, Any]:
    async with calling(scene) as call:
        found: dict[str, Any] = (await call("GET", "/v1/pools/default")).json()
        return found


async def _until_in_force(load: Load, limit: int) -> float:
    """Wait until so many slots are in force. Returns the time (s) that it took."""
    began = time.monotonic()
    while (await load.call("GET", "/v1/pools/default")).json()["limit_in_force"] != limit:
        if time.monotonic() > began + GIVES_UP_S:
            break
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def _loaded(scene: Scene, seed: int, jobs: int, clients: int) -> AsyncIterator[Load]:
    """Run jobs with so many clients. At the end no further job begins, unless their number is given; all are waited for."""
    async with calling(scene) as call:
        load = Load(scene, call, seed, jobs)
        running = [asyncio.create_task(load.client()) for _ in range(clients)]
        yield load
        load.left = 0 if jobs == 10**9 else load.left
        await asyncio.gather(*running)


@contextlib.contextmanager
def _scene(folder: Path, scale: float, limit: int, accounts: dict[str, int], on_postgres: bool) -> Any:
    lines = "".join(
        f'[providers.runninghub.accounts.{name}]\nkey = "{KEYS[name]}"\nlimit = {own}\n' for name, own in accounts.items()
    )
    keys = {KEYS[name]: {"limit": EACH} for name in accounts}
    with Simulator(EACH, keys=keys) as simulator:
        text = config(simulator.url, limit, scale, capacity='"follow"', accounts=lines)
        with opened(folder, simulator, text, scale, on_postgres) as scene:
            yield scene


def _verify(scene: Scene, result: Result) -> None:
    breaches = verify(scene.sql_url, scene.redis_url).breaches
    result.add("breaches that gate verify finds", len(breaches), most=0)
    result.wrong += map(str, breaches)
