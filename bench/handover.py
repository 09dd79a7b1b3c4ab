"""How soon the next in line has the slot: from the moment a release is sent to the moment the waiter has its answer, how that holds
up when 32 clients stand in line for three slots, and whether anybody was ever served before somebody who came earlier.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import uvloop

from bench import servers
from bench.load import LEASE, Connection, Shape, connect
from bench.medians import middle, percentiles
from bench.progress import say

POOLS = "[pools.one]\nlimit = 1\nqueue_max = 20000\n[pools.three]\nlimit = 3\nqueue_max = 20000\n"
WAIT_S = 50
COMMITS = 2
"""Between a release and the waiter's answer: the end of the one, and the grant of the other."""


def commit_ms(folder: Path, count: int = 200) -> float:
    """What one durable commit of a few rows costs on this disk: the median."""
    database = sqlite3.connect(folder / f"commits-{os.getpid()}-{time.monotonic_ns()}.db", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table rows (id integer primary key, text text)")
    took = []
    for number in range(count):
        began = time.perf_counter()
        database.execute("begin immediate")
        database.execute("insert into rows (text) values (?)", (f"{number}" * 40,))
        database.execute("commit")
        took.append(time.perf_counter() - began)
    database.close()
    return statistics.median(took) * 1000


async def alone(port: int, shape: Shape, count: int, name: str) -> tuple[list[float], list[float]]:
    """Seconds from a release sent to the waiter's answer, and on to the end of its claim, with nothing else going on."""
    holder, waiter = await connect(port), await connect(port)
    waits = Shape(pool="one", key=shape.key, wait_s=WAIT_S)
    held = await _running(holder, shape, f"{name}-first")
    handed, claimed = [], []
    for number in range(count):
        job = f"{name}-{number}"
        waiting = asyncio.ensure_future(waiter.ask(waits.acquire(job)))
        await asyncio.sleep(0.01)  # it stands in line
        began = time.perf_counter()
        releasing = asyncio.ensure_future(holder.ask(shape.release(*held)))
        _, body = await waiting
        handed.append(time.perf_counter() - began)
        held = (job, LEASE.search(body)[1].decode())
        status, _ = await waiter.ask(shape.claim(*held))
        assert status == 200
        claimed.append(time.perf_counter() - began)
        await releasing
    await holder.ask(shape.release(*held))
    return handed, claimed


async def in_line(port: int, shape: Shape, clients: int, seconds: float, name: str) -> float:
    """Pairs a second of clients that each take a place in line, wait for their slot, claim it and give it back."""
    waits = Shape(pool="three", key=shape.key, wait_s=WAIT_S)
    ends, done = time.perf_counter() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        connection, count = await connect(port), 0
        while time.perf_counter() < ends:
            count += 1
            job = f"{name}-{number}-{count}"
            status, body = await connection.ask(waits.acquire(job))
            lease = LEASE.search(body)
            assert lease is not None, (status, body)
            held = (job, lease[1].decode())
            if b'"status":"granted"' in body:
                status, _ = await connection.ask(waits.claim(*held))
                assert status == 200
            status, _ = await connection.ask(waits.release(*held))
            assert status == 200
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / (time.perf_counter() - began)


async def one_by_one(port: int, shape: Shape, clients: int, name: str) -> int:
    """How many were served out of turn, of clients who each stood in line before the next one came."""
    holder = await connect(port)
    held = await _running(holder, shape, f"{name}-holds")
    path = f"/v1/pools/{shape.pool}/jobs/"
    jobs, waiting = [f"{name}-{number}" for number in range(clients)], {}
    for job in jobs:
        status, body = await holder.ask(shape.acquire(job))
        assert status == 202, body
    for job in jobs:
        waits = await connect(port)
        waiting[waits.ask(shape.get(f"{path}{job}?wait_seconds={WAIT_S}&status=queued"))] = job
    broken = 0
    for expected in jobs:
        status, body = await holder.ask(shape.release(*held))
        assert status == 200, body
        (answered, *more), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        job, (_, body) = waiting.pop(answered), answered.result()
        broken += job != expected or bool(more)
        held = (job, LEASE.search(body)[1].decode())
        status, body = await holder.ask(shape.claim(*held))
        assert status == 200, body
    await holder.ask(shape.release(*held))
    return broken


def by_the_ledger(sql_url: str) -> tuple[int, int]:
    """Of all that were granted a slot: how many, and how many whose grant came before that of somebody with a lower ticket."""
    with sqlite3.connect(sql_url.removeprefix("sqlite:///")) as ledger:
        rows = ledger.execute("select pool, fence from jobs where fence > 0 order by pool, ticket").fetchall()
    broken = sum(pool == before[0] and fence < before[1] for before, (pool, fence) in itertools.pairwise(rows))
    return len(rows), broken


async def _running(connection: Connection, shape: Shape, job_id: str) -> tuple[str, str]:
    status, body = await connection.ask(shape.acquire(job_id))
    assert status == 200, body
    return job_id, LEASE.search(body)[1].decode()


def run(folder: Path, rounds: int = 5, count: int = 200, seconds: float = 3.0, clients: int = 32) -> dict[str, Any]:
    """By round; `beside_ms` is what remains of the hand-over without the commits in it. The percentiles are of all rounds."""
    found: dict[str, Any] = {
        what: [] for what in ("handed_ms", "claimed_ms", "commit_ms", "beside_ms", "in_line_per_s", "of_three")
    }
    all_handed, all_claimed, broken = [], [], 0
    folder.mkdir(parents=True, exist_ok=True)
    with servers.gate("gate", folder / "gate", pools=POOLS) as server:
        uvloop.run(alone(server.port, Shape(pool="one", key=server.key), 20, "warm"))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            shape = Shape(pool="one", key=server.key)
            commit = commit_ms(folder, count)
            handed, claimed = uvloop.run(alone(server.port, shape, count, f"h{number}"))
            rate = uvloop.run(in_line(server.port, Shape(key=server.key), clients, seconds, f"l{number}"))
            broken += uvloop.run(one_by_one(server.port, shape, clients, f"o{number}"))
            all_handed += handed
            all_claimed += claimed
            handed_ms, claimed_ms = middle(handed) * 1000, middle(claimed) * 1000
            for what, figure in (
                ("handed_ms", handed_ms), ("claimed_ms", claimed_ms), ("commit_ms", commit), ("in_line_per_s", rate),
                ("beside_ms", handed_ms - COMMITS * commit), ("of_three", rate / (3 / (claimed_ms / 1000))),
            ):  # fmt: skip
                found[what].append(figure)
        granted, overtaken = by_the_ledger(server.store("sql_url"))
    return found | {
        "rounds": rounds,
        "granted": granted,
        "out_of_turn": broken + overtaken,
        "handed_spread_ms": percentiles(all_handed, 1000),
        "claimed_spread_ms": percentiles(all_claimed, 1000),
    }
