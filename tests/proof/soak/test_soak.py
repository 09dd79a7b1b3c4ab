"""The soaks in small, as part of every run. The whole ones are commands of their own; their counts are published."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gate.diagnostics.verify import verify
from tests.proof.soak import arrival, damage, expiry, memory, mixed, moving
from tests.proof.soak.load import Options
from tests.support.gate_process import Served
from tests.support.servers import lacking


def clean(served: Served) -> None:
    assert verify(served.sql_url, served.redis_url).breaches == []


def test_mixed_calls_of_many_clients(tmp_path: Path) -> None:
    with Served(tmp_path, config=mixed.CONFIG) as served:
        account = asyncio.run(mixed.mixed(served.url, clients=30, calls=1_200, seed=7))
        assert account.wrong == []
        clean(served)


def test_two_hundred_leases_run_out_with_no_call(tmp_path: Path) -> None:
    with Served(tmp_path, on_defaults=True, GATE_LIMIT="200") as served:
        took = expiry.expire_all(served, 200)
        assert len(took) == 200
        assert max(took.values()) < expiry.WITHIN_S
        assert min(took.values()) > -0.05, "no lease expires before the deadline that was told"
        clean(served)


def test_positions_and_grants_follow_arrival(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert arrival.play(served, waiters=200, seed=7) == []
        clean(served)


def test_six_kinds_of_damage_made_by_hand_are_named_and_mended(tmp_path: Path) -> None:
    said, wrong = damage.play(tmp_path)
    assert wrong == [], said


def test_everything_moves() -> None:
    sql = "sqlite" if "postgres" in lacking("embedded", "postgres") else "postgres"
    said, wrong = moving.play(Options(jobs=40, seed=7, kill_every=6, sql=sql, redis="embedded"))
    assert wrong == [], said


def test_memory_soak_names_what_grows(tmp_path: Path) -> None:
    with Served(tmp_path, config=memory.CONFIG, on_defaults=True) as served:
        _samples, load = asyncio.run(memory.soak(served, minutes=0.05, seed=7))
        clean(served)
    assert load.wrong == [] and load.done["made"] > 0 and load.done["completed"] > 0
    flat = [memory.Sample(n, 100, 40, 12, 1, n) for n in range(60)]
    assert memory.not_flat(flat) == []
    grows = [memory.Sample(n, 100 + n, 40 + n, 12 + n, 2 * n, n) for n in range(60)]
    assert [one.split()[0] for one in memory.not_flat(grows)] == ["rss_mb", "descriptors", "threads", "SQLite's"]
