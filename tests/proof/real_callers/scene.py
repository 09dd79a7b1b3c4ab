"""Everything around gate: the provider, the owner's side and money, and a real `gate serve` configured for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from gate.simulator.runninghub import Simulator
from tests.proof.chaos.servers import Server
from tests.proof.real_callers.money import AT_FIRST, JOB_SQL, REFUND_SQL, Money
from tests.proof.real_callers.side import Side
from tests.support.servers import Books
from tests.support.wait import until

TOOLS = {
    "upscaler_jobs": "Upscaler Arcano",
    "pose_changer_jobs": "Pose Changer",
    "veste_ai_jobs": "Veste AI",
    "video_upscaler_jobs": "Video Upscaler",
}
LIMIT = 3
PRICE = 10
TOKEN = "a-token-that-only-the-provider-has"
MANAGER = "/functions/v1/runninghub-queue-manager"


@dataclass
class Scene:
    """`money` is None where the ledger is SQLite: the owner's functions live in Postgres."""

    simulator: Simulator
    side: Side
    server: Server
    money: Money | None
    lease_s: float

    @property
    def books(self) -> Books:
        return Books(self.server.sql_url)

    def run_or_queue(self, job_id: str, table: str = "upscaler_jobs", **body: Any) -> httpx2.Response:
        return self.server.post(f"{MANAGER}/run-or-queue", {"table": table, "jobId": job_id} | body)

    def asks(self, job_id: str, table: str = "upscaler_jobs", **payload: Any) -> dict[str, Any]:
        """A user's front end: it charges the price, then asks for a place. Returns the answer."""
        user = f"user-{job_id}"
        if self.money is not None:
            self.money.charge(table, job_id, user, PRICE)
        answer = self.run_or_queue(job_id, table, userId=user, creditCost=PRICE, job_payload=payload)
        said: dict[str, Any] = answer.json()
        return said

    def burst(self, *job_ids: str, **payload: Any) -> dict[str, dict[str, Any]]:
        """All at once; what each was answered."""
        with ThreadPoolExecutor(len(job_ids)) as threads:
            return dict(zip(job_ids, threads.map(lambda job_id: self.asks(job_id, **payload), job_ids), strict=True))

    def paid(self, job_id: str) -> int:
        """What the job has cost its user by now."""
        assert self.money is not None
        return AT_FIRST - self.money.balances()[f"user-{job_id}"]

    def end(self, job_id: str) -> None:
        """Its task is over at the provider, now."""
        (task,) = self.side.account.tasks_of(job_id)
        self.simulator.control(tasks={task.task_id: {"seconds": 0}})

    async def row_is(self, job_id: str, status: str, within_s: float = 10) -> None:
        await until(lambda: self.side.account.rows.get(job_id) == status, f"the row of {job_id} is {status}", within_s)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.http.get(f"/v1/pools/default/jobs/{job_id}").json()
        return found

    def unsettled(self) -> list[str]:
        """What is still on its way: jobs, refunds, deliveries, callbacks."""
        counts = {
            "live": "select count(*) as n from @jobs where ended_at is null",
            "owed": """select count(*) as n from @jobs j where j.status in ('failed', 'cancelled', 'expired') and j.credits > 0
                and not exists (select 1 from @ledger l where l.job_id = j.job_id and l.kind = 'refund')""",
            "undelivered": "select count(*) as n from @deliveries where done_at is null",
        }
        left = {name: self.books.rows(query)[0].n for name, query in counts.items()}
        called = {sent["taskId"] for sent in self.simulator.seen()["callbacks"]}
        calls = {task.task_id for task in list(self.side.account.tasks.values()) if task.plan.get("callback") != "lost"}
        left["callbacks to come"] = len(calls - called)
        return [f"{name}: {count}" for name, count in left.items() if count]

    def pool(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.http.get("/v1/pools/default").json()
        return found


def config(side: Side, settings: dict[str, float], priced: bool) -> str:
    """gate.toml: what stands for itself has to come before the tables."""
    lines = [f"{name} = {value}" for name, value in ({"limit": LIMIT} | settings).items()]
    if priced:
        lines += [f'job_sql = "{JOB_SQL}"', f'refund_sql = "{REFUND_SQL}"']
    for table, name in TOOLS.items():
        lines += [
            f"[tools.{table}]", f'name = "{name}"', 'provider = "runninghub"', f'start_url = "{side.url}/start"',
            f'events_url = "{side.url}/events"', f'secret = "{side.secret}"',
        ]  # fmt: skip
    return "\n".join([*lines, "[providers.runninghub]", f'token = "{TOKEN}"', ""])


@contextlib.contextmanager
def opened(
    folder: Path, settings: dict[str, float], postgres_url: str | None, redis_url: str | None = None, **plan: Any
) -> Iterator[Scene]:
    """Start everything, and stop it afterwards in any case. `plan` says how tasks without a plan of their own end."""
    with contextlib.ExitStack() as closing:
        simulator = closing.enter_context(Simulator(LIMIT))
        side = closing.enter_context(Side(simulator.url, **plan))
        money = None
        if postgres_url is not None:
            money = Money(postgres_url)
            closing.callback(money.close)
        server = Server(folder / "server", config(side, settings, money is not None), redis_url, postgres_url)
        closing.callback(server.away)
        side.callback_url = f"{server.address}/functions/v1/runninghub-webhook?token={TOKEN}"
        server.start()
        yield Scene(simulator, side, server, money, settings["lease_seconds"])
