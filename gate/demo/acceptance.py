"""`gate demo`: the owner's acceptance test, on a live service over HTTP. Of four jobs at once three run, the fourth waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from gate.model.errors import CannotStart
from gate.runtime.data_dir import DataDir

LEASE_S = 2.0
"""Lease (s) of each job. It is short so that a job without renewals expires soon; the other jobs renew."""
PRICE = 10
"""Credits charged for each job."""
FREE_WITHIN_S = 1.0
"""Longest time (s) from the end of a job until its slot is free."""
TOOLS = ("Upscaler Arcano", "Pose Changer", "Veste AI", "Video Upscaler")
PEOPLE = ("ana", "bruno", "carla", "davi", "edu")


@dataclass(frozen=True, slots=True)
class Step:
    """One check of the demo.

    Attributes:
        what: Subject of the check.
        expected: The expected value.
        seen: The value that gate gave.
    """

    what: str
    expected: str
    seen: str

    @property
    def ok(self) -> bool:
        """Whether gate gave the expected value."""
        return self.expected == self.seen


def demo(
    url: str | None, data_dir: Path, key: str | None = None, cast: Callable[[str, str | None], Demo] | None = None, **own: str
) -> tuple[list[Step], str]:
    """Run the demo on a live gate.

    Args:
        url: Address of the gate. None for the server of `data_dir`, or a temporary server when none runs there.
        data_dir: The data directory of a server.
        key: API key; None for none.
        cast: Makes the demo for an address and a key; None for `Demo`.
        own: Environment variables of a temporary server.

    Returns:
        The checks, and the place where they ran.

    Raises:
        CannotStart: No gate answers, it refuses the demo, or its pool is not idle.
    """
    cast = cast or Demo
    running = DataDir(data_dir).running()
    if url is None and running is not None:
        url = running.http
    if url is not None:
        try:
            return asyncio.run(cast(url, key).play()), url
        except httpx2.HTTPStatusError as error:
            detail = error.response.json().get("detail", error.response.text)
            raise CannotStart(f"the gate at {url} refuses the demo: {detail} (--key)") from error
    with own_server(own) as (its_url, _):
        return asyncio.run(cast(its_url, None).play()), "a gate of its own (none runs here), gone again"


@contextlib.contextmanager
def own_server(settings: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Run a `gate serve` in a temporary folder, and yield its address and data directory. Of GATE_* variables it gets only `settings`."""
    with tempfile.TemporaryDirectory(prefix="gate-demo-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")} | settings
        command = [sys.executable, "-m", "gate", "serve", "--port", "0", "--data-dir", f"{folder}/data"]
        package = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert server.stdout is not None
            if not server.stdout.readline():
                raise CannotStart("the demo's own server did not start")
            running = DataDir(Path(folder, "data")).running()
            assert running is not None
            yield running.http, Path(folder, "data")
        finally:
            server.terminate()
            server.wait()


class Demo:
    """The demo on the pool `default` of one gate.

    Attributes:
        lease_s: Lease (s) of its jobs.
    """

    lease_s = LEASE_S

    def __init__(self, url: str, key: str | None = None) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url, timeout=70, headers={"authorization": f"Bearer {key}"} if key else None
        )
        self._run = secrets.token_hex(3)
        self._renewing: dict[str, asyncio.Task[None]] = {}
        self._beside_free = 0
        self._most = 0
        self._steps: list[Step] = []

    async def play(self) -> list[Step]:
        """Run all checks.

        Returns:
            The checks, in order.

        Raises:
            CannotStart: No gate answers, or its pool is not idle.
            httpx2.HTTPStatusError: gate refuses a call.
        """
        async with self._client:
            try:
                await self._client.get("/readyz", timeout=5)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                raise CannotStart(f"no gate answers at {self._client.base_url}: {error or type(error).__name__}") from error
            pool = await self._pool()
            slots = pool["limit"]
            if pool["running"] or pool["granted"] or pool["queued"] or pool["paused"] or slots < 2:
                now = ", ".join(f"{pool[state]} {state}" for state in ("running", "granted", "queued"))
                paused = "paused" if pool["paused"] else "not paused"
                raise CannotStart(
                    f"the demo needs pool default idle, not paused, with a limit of 2 or more; now: {now}, {paused}, limit {slots}"
                )
            async with self._watched(slots):
                try:
                    await self._story(slots)
                finally:
                    for task in self._renewing.values():
                        task.cancel()
            self._see("waiters seen beside a free slot", 0, self._beside_free)
            self._see("most slots ever held", slots, self._most)
        return self._steps

    async def _four_at_once(self, slots: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Admit one job more than there are slots. Return the jobs that run, and those that wait."""
        jobs = [self._acquire(place) for place in range(slots + 1)]
        admitted = await asyncio.gather(*jobs)
        running = [job for job in admitted if job["status"] == "running"]
        queued = [job for job in admitted if job["status"] == "queued"]
        self._see(f"{slots + 1} jobs at once from {slots + 1} users", f"{slots} running, 1 queued",
                  f"{len(running)} running, {len(queued)} queued")  # fmt: skip
        self._see("the one that waits is at position", 1, queued[0]["position"] if queued else None)
        return running, queued

    async def _story(self, slots: int) -> None:
        running, queued = await self._four_at_once(slots)
        for job in running:
            self._renew(job)
        if not queued:
            return

        fourth = asyncio.create_task(self._until_granted(queued[0]))
        done = await self._release(running[0])
        self._see("one completes", "completed, refunded 0", f"{done['status']}, refunded {refunded(done)}")
        self._see("the fourth, by itself", "granted", (await fourth)["status"])
        self._see("it claims", "running", (await self._claim(await fourth))["status"])

        fifth = await self._acquire(slots + 1)
        self._see("a fifth comes", "queued at 1", f"{fifth['status']} at {fifth['position']}")
        next_one = asyncio.create_task(self._until_granted(fifth))
        lost = running[1]
        self._renewing.pop(lost["job_id"]).cancel()
        ended = await self._when(lost, "running")
        self._see(
            "one never calls back",
            f"expired, refunded {PRICE}",
            f"{ended['status']}, refunded {refunded(ended)}",
        )
        self._see("the next, by itself", "granted", (await next_one)["status"])
        await self._claim(await next_one)
        late = await self._post(lost, "release", {"lease_id": lost["lease"]["lease_id"], "outcome": "completed"})
        self._see("the lost one comes late", "410 lease_lost", f"{late.status_code} {late.json()['code']}")
        self._see("its refunds in the ledger", f"1 of {PRICE}", await self._refunds(lost))

        for job in [*running[2:], await fourth, await next_one]:
            await self._release(job)
        await self._all_done()

    async def _all_done(self) -> None:
        deadline = time.monotonic() + FREE_WITHIN_S
        while (pool := await self._pool())["running"] + pool["granted"] and time.monotonic() < deadline:
            await asyncio.sleep(0.02)  # a job's end is in SQL, and visible, before its slot is free
        self._see(
            "all done",
            "0 running, 0 queued",
            f"{pool['running'] + pool['granted']} running, {pool['queued']} queued",
        )

    @contextlib.asynccontextmanager
    async def _watched(self, slots: int) -> AsyncIterator[None]:
        """Read the pool again and again during a block. Record the most slots held, and waiters beside a free slot."""

        async def watch() -> None:
            while True:
                pool = await self._pool()
                self._most = max(self._most, pool["running"] + pool["granted"])
                self._beside_free += pool["queued"] > 0 and pool["free"] > 0
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _acquire(self, place: int) -> dict[str, Any]:
        body = {
            "job_id": f"demo-{self._run}-{place + 1}",
            "user": f"{PEOPLE[place % len(PEOPLE)]}-{self._run}-{place}",
            "tool": TOOLS[place % len(TOOLS)],
            "credits": PRICE,
            "lease_seconds": self.lease_s,
        }
        return _body((await self._client.post("/v1/pools/default/acquire", json=body)).raise_for_status())

    def _renew(self, job: dict[str, Any]) -> None:
        async def heartbeat() -> None:
            while True:
                await asyncio.sleep(LEASE_S / 4)
                await self._post(job, "renew", {"lease_id": job["lease"]["lease_id"]})

        self._renewing[job["job_id"]] = asyncio.create_task(heartbeat())

    async def _claim(self, job: dict[str, Any]) -> dict[str, Any]:
        claimed = _body(await self._post(job, "claim", {"lease_id": job["lease"]["lease_id"]}))
        self._renew(claimed)
        return claimed

    async def _release(self, job: dict[str, Any]) -> dict[str, Any]:
        self._renewing.pop(job["job_id"]).cancel()
        body = {"lease_id": job["lease"]["lease_id"], "outcome": "completed"}
        return _body(await self._post(job, "release", body))

    async def _until_granted(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self._when(job, "queued")

    async def _when(self, job: dict[str, Any], status_left: str) -> dict[str, Any]:
        path = f"/v1/pools/default/jobs/{job['job_id']}"
        answer = await self._client.get(path, params={"wait_seconds": 60, "status": status_left})
        return _body(answer.raise_for_status())

    async def _post(self, job: dict[str, Any], verb: str, body: dict[str, Any]) -> httpx2.Response:
        return await self._client.post(f"/v1/pools/default/jobs/{job['job_id']}/{verb}", json=body)

    async def _refunds(self, job: dict[str, Any]) -> str:
        rows = (await self._client.get("/v1/ledger", params={"job_id": job["job_id"], "kind": "refund"})).json()["rows"]
        return f"{len(rows)} of {sum(row['amount'] for row in rows)}"

    async def _pool(self) -> dict[str, Any]:
        return _body((await self._client.get("/v1/pools/default")).raise_for_status())

    def _see(self, what: str, expected: object, seen: object) -> None:
        self._steps.append(Step(what, str(expected), str(seen)))


def _body(answer: httpx2.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    return body


def refunded(job: dict[str, Any]) -> int:
    """Return the credits that were refunded for a job."""
    return job["refund"]["amount"] if job["refund"] else 0
