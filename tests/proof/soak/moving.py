"""Everything moves: jobs through four tools, a provider that loses, doubles and delays, an owner's side that fails, gate killed.

    python -m tests.proof.soak.moving --jobs 2000 --seed 1 --kill-every 10 --sql postgres

Each job must end once, its refund be exact in the ledger and at the owner's, each start and each event arrive, no job wait beside
a free slot, and `gate verify` be clean. What becomes of each job is drawn from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from gate.diagnostics.verify import verify
from tests.proof.real_callers.judge import judge, read
from tests.proof.real_callers.scene import LIMIT, Scene, opened
from tests.proof.soak.load import LEASE_S, Load, Options
from tests.support.servers import Postgres, RedisServer

SETTINGS = {
    "lease_seconds": LEASE_S,
    "claim_seconds": 10,
    "cooldown_seconds": 0.5,
    "queue_seconds": 3600,
    "queue_max": 100_000,
}
IN_LINE = 40
SETTLES_S = 180.0


async def played(scene: Scene, options: Options) -> Load:
    """The load is over, and nothing is on its way any more."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:
        load = Load(scene, options, http)
        left = iter(range(options.jobs))
        moved, settled = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.watch(settled))
            killer = group.create_task(load.killer(moved)) if options.kill_every else None
            await asyncio.gather(*(load.client(left) for _ in range(IN_LINE)))
            moved.set()
            if killer is not None:
                await killer
            load.wrong += await settles(scene)
            settled.set()
    return load


async def settles(scene: Scene) -> list[str]:
    """Until nothing is on its way any more; what still is when that takes too long."""
    give_up = time.monotonic() + SETTLES_S
    while on_its_way := await asyncio.to_thread(scene.unsettled):
        if time.monotonic() > give_up:
            return [f"after {SETTLES_S:g} s still on its way: {', '.join(on_its_way)}"]
        await asyncio.sleep(0.25)
    return []


@contextlib.contextmanager
def stores(options: Options, folder: Path) -> Iterator[tuple[str | None, str | None]]:
    """The addresses of Postgres and Redis, where gate does not bring its own."""
    folder.chmod(0o755)  # Postgres runs as another user
    with contextlib.ExitStack() as closing:
        postgres_url = redis_url = None
        if options.sql == "postgres":
            postgres = Postgres(folder / "postgres")
            closing.callback(postgres.crash)
            postgres.start()
            postgres_url = postgres.url
        if options.redis == "valkey":
            redis = RedisServer("valkey", folder / "redis")
            closing.callback(redis.kill)
            redis.start()
            redis_url = redis.url
        yield postgres_url, redis_url


def play(options: Options, keep: Path | None = None) -> tuple[str, list[str]]:
    """What was done, in words, and what was wrong. In a folder that is gone afterwards, or in `keep`."""
    with contextlib.ExitStack() as closing:
        passing = closing.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        folder = keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        urls = closing.enter_context(stores(options, folder))
        scene = closing.enter_context(opened(folder, SETTINGS, *urls))
        if scene.money is not None:
            scene.money.switch("refund", "raises", share=0.1)
        began = time.monotonic()
        load = asyncio.run(played(scene, options))
        took = time.monotonic() - began
        report = verify(scene.server.sql_url, scene.server.redis_url)
        breaches = [f"{breach.invariant} {breach.about}: {breach.finding}" for breach in report.breaches]
        wrong = [*load.wrong, *judge(scene), *breaches, *_unmet(load), *_fell(scene)]
        return "\n".join(_said(load, took)), wrong


def _unmet(load: Load) -> Iterator[str]:
    """Each job that was asked for is in the books."""
    known = read(load.scene).jobs
    for job in load.jobs:
        if job.job_id not in known:
            yield f"{job.job_id} was taken, and gate does not know it"


def _fell(scene: Scene) -> Iterator[str]:
    fell = [line for line in scene.server.log() if "Traceback" in line]
    if fell:
        yield f"gate logged {len(fell)} faults of its own: {fell[0]}"


def _said(load: Load, took: float) -> Iterator[str]:
    scene, options, account = load.scene, load.options, load.scene.side.account
    books, seen = read(scene), scene.simulator.seen()
    outcomes = Counter(job.status for job in books.jobs.values())
    late = Counter(job.late_outcome for job in books.jobs.values() if job.late_outcome)
    told = [one for of_job in account.told.values() for one in of_job]
    unplanned = sum(not refusal.planned for refusal in account.refusals)
    plans = Counter(job.callback for job in load.jobs)
    callbacks = Counter(sent["answer"] or "nobody" for sent in seen["callbacks"])
    refunds = [amount for (_, kind), amounts in books.booked.items() if kind == "refund" for amount in amounts]
    yield (
        f"{len(load.jobs):,} jobs of {IN_LINE} clients, seed {options.seed}, {options.sql}, {options.redis} Redis,"
        f" killed {load.kills} times, {took:.0f} s"
    )
    yield f"  callbacks drawn: {_counts(plans)}; answered by gate: {_counts(callbacks)}"
    yield f"  asked: {_counts(load.answers)}"
    yield f"  ended: {_counts(outcomes)}; expired and done after all: {_counts(late)}"
    yield (
        f"  start calls {len(account.starts):,} ({_counts(Counter(call.answered or 'unanswered' for call in account.starts))})"
        f" under {len({call.webhook_id for call in account.starts}):,} ids; tasks {len(account.tasks):,};"
        f" refused by the provider {len(account.refusals)}, {unplanned} of them unplanned"
    )
    yield f"  events {sum(not one.again for one in told):,}, and {sum(one.again for one in told):,} of them again"
    paid = [amount for amounts in scene.money.refunds().values() for amount in amounts] if scene.money else []
    at_owners = f"; at the owner's {len(paid)} of {sum(paid):,}" if scene.money else ""
    yield f"  refunds in the ledger {len(refunds)} of {sum(refunds):,} credits{at_owners}"
    yield (
        f"  most at the provider at once: {seen['most_running']} of {LIMIT};"
        f" longest seen waiting beside a free slot: {load.longest_beside:.2f} s in {load.looks:,} looks"
    )


def _counts(counted: Counter[Any]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counted.items(), key=str)) or "none"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.proof.soak.moving")
    options.add_argument("--jobs", type=int, default=2000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kill-every", type=float, default=10, help="seconds; 0: never")
    options.add_argument("--sql", choices=("postgres", "sqlite"), default="postgres")
    options.add_argument("--redis", choices=("embedded", "valkey"), default="embedded", help="embedded: it dies with gate")
    options.add_argument("--keep", type=Path, help="a new folder for logs and stores, which stay there")
    given = vars(options.parse_args())
    keep = given.pop("keep")
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # so that no store is left behind
    said, wrong = play(Options(**given), keep)
    print(said)
    print(f"  wrong: {len(wrong) or 'nothing'}" + "".join(f"\n    {one}" for one in wrong[:20]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
