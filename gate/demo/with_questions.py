"""The second part of `gate demo --provider`: gate asks the provider about tasks, and stops them.

It runs on a temporary gate that has an account at the simulator. An account of another gate leads to the real provider, which does
not know these tasks. No caller renews a lease here; the answers of the provider do.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from gate.demo.acceptance import PRICE, Step, own_server, refunded
from gate.demo.with_provider import NAME, SOON_S, WithProvider
from gate.simulator.runninghub import Simulator

WHERE = "a gate of its own, with an account at the simulator"
"""The place where these checks run."""
SLOTS = 3
"""Slots of the temporary gate."""
SILENCE_S = 2.0
"""Time (s) without an answer for which gate holds a lease. The provider is away for longer."""
AWAY_S = 600.0
"""Time (s) for which the provider is away, unless the demo ends that sooner."""
STOPPING_S = 0.5
"""Time (s) that the provider takes to stop a task. The slot drains meanwhile."""
VERIFY_S = 60
"""Longest time (s) of `gate verify`."""


def demo(say: Callable[[str], None] | None = None) -> tuple[list[Step], str]:
    """Run the demo on a temporary gate, then `gate verify`.

    Args:
        say: Prints a line while the demo runs; None for none.

    Returns:
        The checks, and the place where they ran.

    Raises:
        CannotStart: The temporary gate does not start.
    """
    token, key = secrets.token_hex(12), secrets.token_hex(12)
    with Simulator(SLOTS, keys={key: {}}) as simulator:
        accounts = {"demo": {"key": key}}
        asked = {"token": token, "base_url": simulator.url, "silence_seconds": SILENCE_S, "accounts": accounts}
        with own_server({"GATE_LIMIT": str(SLOTS), "GATE_PROVIDERS": json.dumps({NAME: asked})}) as (url, data_dir):
            steps = asyncio.run(_WithQuestions(url, token, key, simulator, say or _silent).play())
            return [*steps, _verify(data_dir, say or _silent)], WHERE


class _WithQuestions(WithProvider):
    lease_s = 6.0

    def __init__(self, url: str, token: str, key: str, simulator: Simulator, say: Callable[[str], None]) -> None:
        super().__init__(url, None, token, key)
        self._simulator, self._say = simulator, say
        self._done: list[dict[str, Any]] = []

    def _renew(self, job: dict[str, Any]) -> None:
        """Renew nothing, as a caller that waits for the callback only."""

    async def _story(self, slots: int) -> None:
        async with httpx2.AsyncClient(base_url=self._simulator.url) as self._provider:
            running, queued = await self._four_at_once(slots)
            self._next_place = slots + 1
            for job in running:
                await self._start(job)
            first, second, third = running
            fourth = await self._recovered(first, queued[0])
            fifth = await self._recovered(second, await self._another())
            sixth = await self._cancelled(third, await self._another())
            for job in (fourth, fifth):
                await self._called_back(job)
            await self._provider_dead(sixth)
            await self._all_done()
            seen = await self._seen()
            self._see("most tasks the provider ever counted", slots, seen["most_running"])
            self._see("tasks it had to refuse", 0, seen["refused"])
            self._figures()

    async def _recovered(self, job: dict[str, Any], waiter: dict[str, Any]) -> dict[str, Any]:
        """End the task of a job without a callback. The waiter gets the slot, and starts its task."""
        granted = asyncio.create_task(self._until_granted(waiter))
        ended_at = await self._finish(job, callback="lost")
        ended = await self._ended(job)
        questions = (await self._job(job))["task"]["questions"]
        self._say(
            f"callback of {job['job_id']} lost: asked {_times(questions)}, {ended['status']}"
            f" {time.monotonic() - ended_at:.1f} s after the task's end, {_refund(ended)}"
        )
        self._see(f"callback of {job['job_id']} is lost", "completed, refunded 0", _outcome(ended))
        return await self._take_over(await granted)

    async def _cancelled(self, job: dict[str, Any], waiter: dict[str, Any]) -> dict[str, Any]:
        """Cancel a job whose task runs. Its slot drains until the provider has stopped the task; then the waiter gets it."""
        granted = asyncio.create_task(self._until_granted(waiter))
        task_id = self._tasks[job["job_id"]]
        await self._change(task_id, cancel_s=STOPPING_S)
        cancelled_at = time.monotonic()
        (await self._post(job, "cancel", {})).raise_for_status()
        self._see(
            f"{job['job_id']} is cancelled while it runs", f"cancelled, refunded {PRICE}", _outcome(await self._ended(job))
        )
        draining, status = (await self._pool())["draining"], (await self._job(waiter))["status"]
        self._see("its slot drains, so the next one waits", "1 drains, queued", f"{draining} drains, {status}")
        taken = await granted
        self._say(
            f"{job['job_id']} cancelled: stopped at the provider, its slot given to {taken['job_id']}"
            f" {time.monotonic() - cancelled_at:.1f} s later"
        )
        self._see("its task at the provider", "stopped", await self._stopped(task_id))
        return await self._take_over(taken)

    async def _called_back(self, job: dict[str, Any]) -> None:
        ended_at = await self._finish(job)
        ended = await self._ended(job)
        self._say(
            f"callback of {job['job_id']} came: {ended['status']} {time.monotonic() - ended_at:.1f} s after the task's end"
        )
        self._see(f"callback of {job['job_id']} comes", "completed, refunded 0", _outcome(ended))

    async def _provider_dead(self, job: dict[str, Any]) -> None:
        """Let the provider be away for longer than gate holds a lease. When it is back, gate stops the task that it still runs."""
        task_id = self._tasks[job["job_id"]]
        await asyncio.to_thread(self._simulator.control, away_s=AWAY_S)
        away_at = time.monotonic()
        ended = await self._ended(job)
        after_s, refunds = time.monotonic() - away_at, await self._refunds(job)
        self._say(f"the provider is dead: {job['job_id']} {ended['status']} after {after_s:.1f} s, refunds: {refunds}")
        self._see(f"{job['job_id']} while the provider is dead", f"expired, refunded {PRICE}", _outcome(ended))
        self._see("its refunds in the ledger", f"1 of {PRICE}", refunds)
        await asyncio.to_thread(self._simulator.control, away_s=0)
        self._see("its task, once the provider is back", "stopped", await self._stopped(task_id))
        self._say(f"the provider is back: the task of {job['job_id']} is stopped")

    def _figures(self) -> None:
        ends = Counter(job["status"] for job in self._done)
        paid = [refunded(job) for job in self._done if refunded(job)]
        told = ", ".join(f"{n} {status}" for status, n in sorted(ends.items()))
        questions = sum(task["questions"] for task in self._simulator.seen()["tasks"])
        self._say(
            f"{len(self._done)} jobs: {told}; {len(paid)} refunds of {sum(paid)} in all; {questions} questions to the provider"
        )
        self._see("all ends", "4 completed, 1 cancelled, 1 expired",
                  f"{ends['completed']} completed, {ends['cancelled']} cancelled, {ends['expired']} expired")  # fmt: skip

    # ---- at the provider and at gate

    async def _take_over(self, granted: dict[str, Any]) -> dict[str, Any]:
        self._see(f"{granted['job_id']}, by itself", "granted", granted["status"])
        return await self._start(granted)

    async def _finish(self, job: dict[str, Any], **plan: Any) -> float:
        """End the task of a job. Return the time of its end, on the monotonic clock."""
        await self._change(self._tasks[job["job_id"]], seconds=0, **plan)
        return time.monotonic()

    async def _change(self, task_id: str, **plan: Any) -> None:
        (await self._provider.post("/control", json={"tasks": {task_id: plan}})).raise_for_status()

    async def _ended(self, job: dict[str, Any]) -> dict[str, Any]:
        ended = await self._when(job, "running")
        self._done.append(ended)
        return ended

    async def _stopped(self, task_id: str) -> str:
        """Return what became of a task, once it is cancelled, or after SOON_S."""
        give_up = time.monotonic() + SOON_S
        while True:
            task = next(task for task in self._simulator.seen()["tasks"] if task["taskId"] == task_id)
            if task["cancelled"] or time.monotonic() > give_up:
                return "stopped" if task["cancelled"] else str(task["status"])
            await asyncio.sleep(0.05)


def _verify(data_dir: Path, say: Callable[[str], None]) -> Step:
    """Run `gate verify` on a server that runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
    package = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "gate", "verify", "--data-dir", str(data_dir)]
    done = subprocess.run(
        command, cwd=data_dir.parent, env=environment, capture_output=True, text=True, timeout=VERIFY_S
    )  # fmt: skip
    say("gate verify\n" + (done.stdout + done.stderr).rstrip())
    return Step("gate verify", "exit code 0", f"exit code {done.returncode}")


def _outcome(ended: dict[str, Any]) -> str:
    return f"{ended['status']}, refunded {refunded(ended)}"


def _refund(ended: dict[str, Any]) -> str:
    return f"{refunded(ended)} refunded" if refunded(ended) else "nothing refunded"


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _silent(_line: str) -> None:
    """Print nothing."""
