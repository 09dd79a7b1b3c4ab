"""Scenario 7: a provider that echoes the key in everything. Afterwards the key is in nothing that gate keeps or shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import httpx2
import redis
import sqlalchemy as sa

from gate.diagnostics.verify import verify
from gate.providers.page import KEY_MARK
from gate.simulator import Simulator
from gate.simulator.plan import Odd
from tests.proof.soak.providers.figures import Result
from tests.proof.soak.providers.scene import TOKEN, Scene, config, opened
from tests.support.gate_process import Served, run_gate
from tests.support.wait import until

KEY = "soak/id+0123456789:secret/part+0123456789"
"""It has characters that are quoted in an address, and a secret part that is enough by itself."""
SECRET = KEY.partition(":")[2]
NEEDLES = {KEY, SECRET, quote(KEY, safe=""), quote(SECRET, safe=""), KEY.replace("/", "\\/"), SECRET.replace("/", "\\/")}
JOB = "/v1/pools/default/jobs"
PLANS: list[dict[str, Any]] = [
    {"shape": shape, "outcome": outcome, "as_string": as_string, "callback": callback, "seconds": 0.1}
    for shape in ("old", "new")
    for outcome in ("completed", "failed", "empty")
    for as_string in (True, False)
    for callback in ("once", "lost")
] + [{"odd": odd, "seconds": 0.1} for odd in get_args(Odd)]
"""Each shape of an end, by callback and by question."""
TROUBLES: list[dict[str, Any]] = [
    {"faults": {"all": 500}}, {"faults": {"all": 503}}, {"rate": 1}, {"keys": {KEY: {"code": 802}}}, {"keys": {KEY: {"code": 401}}},
]  # fmt: skip
CALM: dict[str, Any] = {"faults": {"all": "none"}, "rate": 0, "keys": {KEY: {"code": None}}}


def echoed_key(folder: Path, jobs: int, seed: int, scale: float, on_postgres: bool = False) -> Result:
    """Play scenario 7. `jobs` is the number of shapes of an end that are drawn; the other jobs are always played."""
    plans = random.Random(seed).sample(PLANS, min(jobs, len(PLANS)))
    result = Result(f"7. the key echoed in everything: {len(plans) + len(TROUBLES) + 5} jobs, time 1:{scale:g}")
    accounts = f'[providers.runninghub.accounts.primary]\nkey = "{KEY}"\n'
    with Simulator(100, keys={KEY: {}}) as simulator:
        text = config(simulator.url, 100, scale, accounts=accounts)
        with opened(folder, simulator, text, scale, on_postgres) as scene:
            simulator.control(echo=True)
            shown: list[tuple[str, bytes]] = []
            played = _play(scene, shown, plans)
            shown += _seen(scene, folder, played)
            hits = [f"{name} has the key" for name, found in shown if any(one.encode() in found for one in NEEDLES)]
            result.add("answers, pages, tables, files and commands searched", len(shown), least=100)
            result.add(
                "places with the mark in place of the key", sum(KEY_MARK.encode() in found for _, found in shown), least=10
            )
            result.add("places with the key", len(hits), most=0)
            result.wrong += sorted(set(hits))
            result.add("breaches that gate verify finds", len(verify(scene.sql_url, scene.redis_url).breaches), most=0)
    return result


def _play(scene: Scene, shown: list[tuple[str, bytes]], plans: list[dict[str, Any]]) -> list[str]:
    """Play a job of each kind. Returns their ids; what gate answers is added to `shown`."""
    gate = scene.gates[0]

    def keep(answer: httpx2.Response) -> None:
        answer.read()
        shown.append((f"{answer.request.method} {answer.request.url.path}", str(answer.headers).encode() + answer.content))

    gate.http.event_hooks = {"response": [keep]}
    jobs = [_start(scene, f"e{number}", plan) for number, plan in enumerate(plans)]
    for job_id, _ in jobs:
        _over(gate, job_id)
    for number, trouble in enumerate(TROUBLES):
        job_id, task_id = _start(scene, f"t{number}", {"forever": True, "callback": "lost"})
        scene.simulator.control(**trouble)
        _answered(gate, job_id)
        scene.simulator.control(**CALM, tasks={task_id: {"forever": False, "seconds": 0}})
        _over(gate, job_id)
        jobs.append((job_id, task_id))
    jobs += _cancelled(scene)
    return [job_id for job_id, _ in jobs] + [_passed_on(scene), _released(scene)]


def _start(scene: Scene, job_id: str, plan: dict[str, Any]) -> tuple[str, str]:
    gate = scene.gates[0]
    job = gate.acquire(job_id=job_id, user="ana", credits=5, tool="upscaler").json()
    body = {"apiKey": KEY, "workflowId": "1", "webhookUrl": scene.webhook(0), "gateTest": plan}
    task_id: str = httpx2.post(f"{scene.simulator.url}/task/openapi/run", json=body).json()["data"]["taskId"]
    bound = {"provider": "runninghub", "task_id": task_id, "lease_id": job["lease"]["lease_id"]}
    assert gate.http.put(f"{JOB}/{job_id}/task", json=bound).status_code == 200
    return job_id, task_id


def _look(gate: Served, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = gate.http.get(f"{JOB}/{job_id}").json()
    return found


def _over(gate: Served, job_id: str) -> None:
    asyncio.run(until(lambda: _look(gate, job_id)["ended_at"], f"{job_id} is over", 30))


def _answered(gate: Served, job_id: str) -> None:
    """Wait until the provider's trouble is in the history."""

    def kinds() -> list[str]:
        return [one["kind"] for one in gate.http.get(f"{JOB}/{job_id}/history").json()["events"]]

    asyncio.run(until(lambda: "answer" in kinds(), f"gate has asked about {job_id}", 30))


def _cancelled(scene: Scene) -> list[tuple[str, str]]:
    """Cancel jobs: of a task that runs, of one that the provider denies to know, and of one that has ended there."""
    gate, found = scene.gates[0], []
    plans: list[dict[str, Any]] = [{"forever": True}, {"forever": True, "denied": 5}, {"seconds": 0}]
    for number, plan in enumerate(plans):
        found.append(_start(scene, f"c{number}", plan | {"callback": "lost"}))
        gate.post(f"{JOB}/c{number}/cancel")
    query = "select count(*) from @tasks where ask_at is not null"
    asyncio.run(until(lambda: scene.books.rows(query)[0][0] == 0, "every stop is confirmed", 30))
    return found


def _passed_on(scene: Scene) -> str:
    """Let a callback that nothing can read be applied to a job by an operator."""
    gate = scene.gates[0]
    job_id, task_id = _start(scene, "b0", {"forever": True, "callback": "lost"})
    broken = f'{{"event": "TASK_END", "taskId": "{task_id}", "eventData": {{"errorMessage": "{KEY}", "url": "{quote(KEY)}'
    gate.http.post(f"/v1/webhooks/runninghub/default?token={TOKEN}", content=broken.encode())
    (unread,) = gate.http.get("/v1/callbacks/unread").json()["rows"]
    applied = {"job_id": job_id, "outcome": "completed", "reason": "read by hand"}
    gate.post(f"/v1/callbacks/unread/{unread['id']}/apply", applied)
    return job_id


def _released(scene: Scene) -> str:
    """Let a holder pass on what the provider said: as the reason of a refusal, and as the error and output of an end."""
    gate = scene.gates[0]
    job = gate.acquire(job_id="r0", user="ana", credits=5).json()
    gate.act(job, "release", outcome="refused", error=f"queue full (key {KEY})")
    asyncio.run(until(lambda: _look(gate, "r0")["status"] == "granted", "it has a slot again", 30))
    gate.act(_look(gate, "r0"), "release", outcome="failed", error=f"no such key: {KEY}", output={"asked with": [KEY]})
    return "r0"


def _seen(scene: Scene, folder: Path, jobs: list[str]) -> Iterator[tuple[str, bytes]]:
    """Read every place: pages and answers, commands, tables, Redis, files."""
    gate = scene.gates[0]
    kept: list[tuple[str, bytes]] = []
    paths = [f"{JOB}/{job_id}{more}" for job_id in jobs for more in ("", "/history")]
    paths += [f"/pools/default/jobs/{job_id}" for job_id in jobs]
    paths += ["/", "/pools/default", "/pools/default/trends", "/users/ana", "/v1/pools", "/v1/pools/default", "/v1/ledger",
              "/v1/callbacks/unread", "/metrics", "/healthz", "/readyz", "/openapi.json"]  # fmt: skip
    for path in paths:
        with httpx2.Client(base_url=gate.url, headers={"accept": "text/html, application/json"}) as http:
            answer = http.get(path)
            assert answer.status_code == 200, f"{path}: {answer.status_code}"
            kept.append((f"GET {path}", str(answer.headers).encode() + answer.content))
    yield from kept
    for words in [
        ("explain", jobs[0]),
        ("ask", jobs[-3]),
        ("doctor",),
        ("status",),
        *(("explain", one) for one in jobs[::15]),
    ]:
        done = run_gate(*words, cwd=gate.folder)
        yield f"gate {' '.join(words)}", (done.stdout + done.stderr).encode()
    yield from _tables(scene)
    yield from _redis(scene.redis_url)
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "gate.toml" and "postgres" not in file.parts:
            yield f"the file {file.relative_to(folder)}", file.read_bytes()


def _tables(scene: Scene) -> Iterator[tuple[str, bytes]]:
    url = sa.make_url(scene.sql_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(url.set(drivername="sqlite+pysqlite" if is_sqlite else "postgresql+psycopg"))
    schema = None if is_sqlite else "gate"
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names(schema):
            rows = connection.exec_driver_sql(f'select * from "{name}"' if is_sqlite else f'select * from gate."{name}"')
            for number, row in enumerate(rows):
                yield f"row {number} of the table {name}", " ".join(str(one) for one in row).encode()
    engine.dispose()


def _redis(url: str) -> Iterator[tuple[str, bytes]]:
    client = redis.Redis.from_url(url)
    read: dict[bytes, Any] = {
        b"string": client.get, b"hash": client.hgetall, b"set": client.smembers,
        b"list": lambda name: client.lrange(name, 0, -1), b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        b"stream": lambda name: client.xrange(name),
    }  # fmt: skip
    for name in client.scan_iter():
        yield f"the Redis key {name.decode()}", repr((name, read[client.type(name)](name))).encode()
    client.close()
