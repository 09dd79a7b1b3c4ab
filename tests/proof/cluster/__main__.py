"""Failovers, moved slots and partitions, many times in a random order. Prints the counts, and ends with 1 at the first failure.

`python -m tests.proof.cluster --times 20 --seed 1` plays each of a cluster's twenty times; `--sentinel` plays failovers of a primary under
Sentinels. GATE_TEST_REDIS_SERVER names another server program than the Valkey of the wheel.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from gate.diagnostics.verify import Breach, verify
from gate.ledger.admin import migrate
from gate.runtime.wiring import open_gate
from tests.proof.cluster import plays
from tests.proof.cluster.load import LIMIT, Load
from tests.support.redis_cluster import Cluster, Sentinels
from tests.support.script_lane import settings_of
from tests.support.servers import wait_for


async def of_a_cluster(times: int, seed: int, folder: Path, only: list[str]) -> None:
    chosen = [play for play in plays.OF_A_CLUSTER if not only or play.__name__ in only]
    order = chosen * times
    random.Random(seed).shuffle(order)
    cluster, took, pairs = Cluster(folder / "cluster"), [], 0
    counts: Counter[str] = Counter()
    try:
        await asyncio.to_thread(cluster.start)
        for number, play in enumerate(order):
            sql_url = f"sqlite:///{folder / f'{number}.db'}"
            migrate.migrate(sql_url)
            async with plays.opened(cluster, sql_url, seed + number) as scene:
                await play(scene)
            breaches = verify(sql_url, cluster.url()).breaches
            assert not breaches, f"{play.__name__}: {breaches}\n{_history(sql_url, breaches)}"
            counts[play.__name__] += 1
            took += scene.took_s
            pairs += sum(scene.load.pairs.values())
            print(f"{number + 1}/{len(order)} {play.__name__} {[round(one, 2) for one in scene.took_s]}", flush=True)
    finally:
        cluster.stop()
    print(f"{dict(counts)} seed {seed}: {pairs} pairs, no breach; served again after {_spread(took)}")


async def of_sentinels(times: int, seed: int, folder: Path) -> None:
    chance, took, pairs = random.Random(seed), [], 0
    kinds: Counter[str] = Counter()
    for number in range(times):
        sentinels, pools = Sentinels(folder / f"sentinels-{number}"), ["s0", "s1"]
        sql_url = f"sqlite:///{folder / f's{number}.db'}"
        migrate.migrate(sql_url)
        try:
            await asyncio.to_thread(sentinels.start)
            settings = {name: settings_of(limit=LIMIT) for name in pools}
            async with open_gate(sentinels.url, sql_url, settings) as one, open_gate(sentinels.url, sql_url, settings) as two:
                load, kind = Load([one, two]), chance.choice(["planned", "killed"])
                async with load.on(pools):
                    await load.served(pools, 20)
                    if kind == "planned":
                        await asyncio.to_thread(sentinels.fail_over)
                    else:
                        sentinels.primary.kill()
                    took.append(await load.served(pools, plays.AGAIN_S))
                for name in pools:
                    await one.recorder.run(name)
            await asyncio.to_thread(wait_for, _answers(sentinels), "the primary answers")
            assert not (breaches := verify(sql_url, sentinels.url).breaches), breaches
        finally:
            sentinels.stop()
        kinds[kind] += 1
        pairs += sum(load.pairs.values())
        print(f"{number + 1}/{times} {kind} {took[-1]:.2f} s", flush=True)
    print(f"{dict(kinds)} seed {seed}: {pairs} pairs, no breach; served again after {_spread(took)}")


def _history(sql_url: str, breaches: list[Breach]) -> str:
    """The events of the jobs that the breaches name, and of their pools, one a line."""
    engine = sa.create_engine(sql_url)
    named = {word for one in breaches for word in (one.about, *one.finding.split())}
    pools = {one.about.rpartition("-")[0] for one in breaches}
    with engine.connect() as connection:
        rows = connection.execute(sa.text("select id, at, pool, job_id, kind, fence, why from events order by id"))
        found = [str(tuple(row)) for row in rows if row.job_id in named or (row.job_id is None and row.pool in pools)]
        jobs = connection.execute(sa.text("select job_id, ticket, status, fence from jobs"))
        found += [str(tuple(row)) for row in jobs if row.job_id in named]
    engine.dispose()
    return "\n".join(found)


def _answers(sentinels: Sentinels) -> Callable[[], bool]:
    return lambda: sentinels.primary.answers()


def _spread(took: list[float]) -> str:
    return f"{statistics.median(took):.2f} s (median), {max(took):.2f} s (longest)" if took else "no time that was measured"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.proof.cluster")
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--sentinel", action="store_true")
    options.add_argument("--only", action="append", default=[], choices=[play.__name__ for play in plays.OF_A_CLUSTER])
    given = options.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if given.sentinel:
            asyncio.run(of_sentinels(given.times, given.seed, Path(folder)))
        else:
            asyncio.run(of_a_cluster(given.times, given.seed, Path(folder), given.only))


if __name__ == "__main__":
    main()
