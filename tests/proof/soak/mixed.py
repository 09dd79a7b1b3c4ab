"""Fifty clients, twenty thousand mixed calls, each client with an account of its own.

    python -m tests.proof.soak.mixed --clients 50 --calls 20000 --seed 1

Every outcome, renewals, cancels, repeats, stale leases, holders that never call back. From "told running" to "asked to
release" never more than the limit; then the ledger must hold what the clients were told, and `gate verify` be clean.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from gate.diagnostics.verify import verify
from tests.support.gate_process import Served

LEASE_S = 2.0
CONFIG = "queue_max = 100000\ncooldown_seconds = 0.5\nclaim_seconds = 2\n"
OUTCOMES = ("completed", "completed", "completed", "failed", "cancelled", "refused")


@dataclass
class Account:
    """What the clients were told, all of them together."""

    limit: int
    calls: int = 0
    running: int = 0
    most: int = 0
    wrong: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    admitted: dict[str, int] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    lapsed: set[str] = field(default_factory=set)

    def told_running(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running > self.limit:
            self.wrong.append(f"{self.running} were told running at once")

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.wrong.append(what)


class Client:
    def __init__(self, number: int, http: httpx2.AsyncClient, account: Account, seed: int, budget: int) -> None:
        self.number, self.http, self.account, self.budget = number, http, account, budget
        self.dice = random.Random(f"{seed}-{number}")
        self.prefix = f"s{seed}-{number}"
        self.jobs = 0
        self.old: collections.deque[tuple[str, str]] = collections.deque(maxlen=20)

    async def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        self.account.calls += 1
        self.budget -= 1
        answer = await self.http.request(method, path, **more)
        self.account.answers[f"{path.rsplit('/', 1)[-1] if method == 'POST' else 'look'} {answer.status_code}"] += 1
        self.account.expect(answer.status_code < 500, f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    async def act(self, job_id: str, verb: str, **body: Any) -> httpx2.Response:
        return await self.call("POST", f"/v1/pools/default/jobs/{job_id}/{verb}", json=body)

    async def run(self) -> None:
        while self.budget > 0:
            await self.one_job()

    async def one_job(self) -> None:
        self.jobs += 1
        job_id = f"{self.prefix}-{self.jobs}"
        body = {
            "job_id": job_id, "user": f"u{self.number}", "credits": self.dice.randrange(0, 20), "tool": "upscaler",
            "lease_seconds": LEASE_S, "wait_seconds": self.dice.choice((0, 0.05, 20)),
        }  # fmt: skip
        job = await self.acquire(body)
        while job["status"] == "queued":
            if self.dice.random() < 0.05:
                return await self.cancel(job_id)
            path = f"/v1/pools/default/jobs/{job_id}"
            job = (await self.call("GET", path, params={"wait_seconds": self.dice.choice((0.1, 20))})).json()
        if job["status"] in ("granted", "running"):
            await self.hold(job)

    async def acquire(self, body: dict[str, Any]) -> dict[str, Any]:
        path = "/v1/pools/default/acquire"
        answer = await self.call("POST", path, json=body)
        job = answer.json()
        self.account.expect(answer.status_code in (200, 202), f"acquire: {answer.status_code} {answer.text}")
        self.account.admitted[body["job_id"]] = body["credits"]
        if self.dice.random() < 0.15:
            again = (await self.call("POST", path, json=body | {"wait_seconds": 0})).json()
            same_lease = job["lease"] is None or again["lease"] is None or again["lease"] == job["lease"]
            self.account.expect(same_lease, f"{body['job_id']}: two leases for one acquire")
            if again.get("status") in ("running", "granted"):
                return again
        return job

    async def hold(self, job: dict[str, Any]) -> None:
        """From the grant to the end, whichever it is."""
        job_id, lease_id = job["job_id"], job["lease"]["lease_id"]
        if job["status"] == "granted":
            if self.dice.random() < 0.03:
                self.account.lapsed.add(job_id)
                return  # never claims
            claimed = await self.act(job_id, self.dice.choice(("claim", "renew")), lease_id=lease_id)
            if claimed.status_code != 200:
                self.account.lapsed.add(job_id)
                return
        self.account.told_running()
        try:
            stays = await self.work(job_id, lease_id)
        finally:
            self.account.running -= 1
        self.old.append((job_id, lease_id))
        if stays == "lapse":
            self.account.lapsed.add(job_id)
        elif stays == "cancel":
            await self.cancel(job_id)
        else:
            await self.release(job_id, lease_id)

    async def work(self, job_id: str, lease_id: str) -> str:
        for _ in range(self.dice.randrange(0, 3)):
            kind = self.dice.random()
            if kind < 0.5:
                renewed = await self.act(job_id, "renew", lease_id=lease_id)
                if renewed.status_code != 200:
                    return "lapse"
            elif kind < 0.7 and self.old:
                other, stale = self.dice.choice(self.old)
                answer = await self.act(other, self.dice.choice(("renew", "claim")), lease_id=stale)
                self.account.expect(answer.status_code in (409, 410), f"a stale lease was taken: {answer.text}")
            elif kind < 0.8:
                answer = await self.act(job_id, "release", lease_id="0" * 32, outcome="failed")
                self.account.expect(answer.status_code == 410, f"a foreign lease was taken: {answer.text}")
            else:
                await self.call("GET", "/v1/pools/default", params={"limit": 5})
        return self.dice.choices(("release", "cancel", "lapse"), (90, 7, 3))[0]

    async def cancel(self, job_id: str) -> None:
        answer = await self.act(job_id, "cancel", reason="changed my mind")
        if answer.status_code == 200:
            self.account.ended[job_id] = "cancelled"
        else:
            self.account.expect(answer.status_code == 409, f"cancel: {answer.status_code} {answer.text}")
            self.account.lapsed.add(job_id)

    async def release(self, job_id: str, lease_id: str) -> None:
        outcome = self.dice.choice(OUTCOMES)
        answer = await self.act(job_id, "release", lease_id=lease_id, outcome=outcome)
        if self.dice.random() < 0.2 and outcome != "refused":
            again = await self.act(job_id, "release", lease_id=lease_id, outcome=outcome)
            self.account.expect(again.status_code == answer.status_code, f"a repeat was answered {again.status_code}")
        if answer.status_code != 200:
            self.account.expect(answer.status_code in (409, 410), f"release: {answer.status_code} {answer.text}")
            self.account.lapsed.add(job_id)
        elif outcome == "refused":
            await self.cancel(job_id)
        else:
            self.account.ended[job_id] = outcome


async def settle(http: httpx2.AsyncClient) -> None:
    """Until the last holder that never called back has expired."""
    for _ in range(600):
        pool = (await http.get("/v1/pools/default")).json()
        if not (pool["running"] or pool["granted"] or pool["queued"]):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the pool does not come to rest: {pool}")


async def compare(http: httpx2.AsyncClient, account: Account) -> None:
    """The ledger against what the clients were told, job by job."""
    after, refunds, charges = 0, Counter[str](), Counter[str]()
    while after is not None:
        page = (await http.get("/v1/ledger", params={"after": after})).json()
        for row in page["rows"]:
            (refunds if row["kind"] == "refund" else charges)[row["job_id"]] += row["amount"]
        after = page["next"]
    for job_id, credits in account.admitted.items():
        account.expect(charges[job_id] == credits, f"{job_id}: charged {charges[job_id]}, not {credits}")
        outcome = account.ended.get(job_id)
        if outcome is None:
            outcome = (await http.get(f"/v1/pools/default/jobs/{job_id}")).json()["status"]
            account.expect(outcome in ("expired", "cancelled"), f"{job_id}: {outcome}, which no caller reported")
        due = 0 if outcome == "completed" else credits
        account.expect(refunds[job_id] == due, f"{job_id}: {outcome}, refunded {refunds[job_id]}, not {due}")


async def mixed(url: str, clients: int, calls: int, seed: int, limit: int = 3) -> Account:
    account = Account(limit)
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=90, limits=limits) as http:
        every_client = [Client(number, http, account, seed, calls // clients) for number in range(clients)]
        await asyncio.gather(*(client.run() for client in every_client))
        await settle(http)
        await compare(http, account)
    return account


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--calls", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), config=CONFIG) as served:
        began = time.monotonic()
        account = asyncio.run(mixed(served.url, given.clients, given.calls, given.seed))
        report = verify(served.sql_url, served.redis_url)
        took = time.monotonic() - began
    print(f"{account.calls} calls of {given.clients} clients, seed {given.seed}, {took:.0f} s, {len(account.admitted)} jobs")
    print("  ".join(f"{answer}: {count}" for answer, count in sorted(account.answers.items())))
    print(f"most told running at once: {account.most} of {account.limit}; lapsed: {len(account.lapsed)}")
    print(f"wrong: {account.wrong[:10] or 'nothing'}; verify: {report.breaches[:10] or 'clean'}")
    sys.exit(1 if account.wrong or report.breaches else 0)


if __name__ == "__main__":
    main()
