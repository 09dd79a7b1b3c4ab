"""How soon the next in line has the slot: from the moment a release is sent to the moment the waiter has its answer, and how that
holds up when 32 clients stand in line for three slots.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import time
from pathlib import Path

import uvloop

from bench import servers
from bench.load import JOB, LEASE, Connection, Shape, connect

POOLS = "[pools.one]\nlimit = 1\nqueue_max = 20000\n[pools.three]\nlimit = 3\nqueue_max = 20000\n"
WAIT_S = 50


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
            status, body = await connection.ask(waits.acquire(f"{name}-{number}-{count}"))
            lease = LEASE.search(body)
            assert lease is not None, (status, body)
            held = (JOB.search(body)[1].decode(), lease[1].decode())
            if b'"status":"granted"' in body:
                status, _ = await connection.ask(waits.claim(*held))
                assert status == 200
            status, _ = await connection.ask(waits.release(*held))
            assert status == 200
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / (time.perf_counter() - began)


async def _running(connection: Connection, shape: Shape, job_id: str) -> tuple[str, str]:
    status, body = await connection.ask(shape.acquire(job_id))
    assert status == 200 and JOB.search(body), body
    return job_id, LEASE.search(body)[1].decode()


def run(folder: Path, rounds: int = 5, count: int = 200, seconds: float = 3.0) -> dict[str, float]:
    """Medians. `beside_ms` is what remains of the hand-over without the two commits in it."""
    handed, claimed, commits, ratios, rates = [], [], [], [], []
    folder.mkdir(parents=True, exist_ok=True)
    with servers.gate("gate", folder / "handover", pools=POOLS) as server:
        for number in range(rounds):
            commits.append(commit_ms(folder))
            one, whole = uvloop.run(alone(server.port, Shape(pool="one", key=server.key), count, f"h{number}"))
            handed.append(statistics.median(one) * 1000)
            claimed.append(statistics.median(whole) * 1000)
            rate = uvloop.run(in_line(server.port, Shape(key=server.key), 32, seconds, f"l{number}"))
            rates.append(rate)
            ratios.append(rate / (3 / (claimed[-1] / 1000)))
    beside = [one - 2 * commit for one, commit in zip(handed, commits, strict=True)]
    return {
        "handed_ms": statistics.median(handed), "commit_ms": statistics.median(commits), "beside_ms": statistics.median(beside),
        "claimed_ms": statistics.median(claimed), "in_line_per_s": statistics.median(rates), "of_three": statistics.median(ratios),
    }  # fmt: skip
