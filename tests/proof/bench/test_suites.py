"""Every suite of the bench, in miniature: that it runs and finds what its tables need. How fast anything is, no test can say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import (
    ablation,
    asking,
    contenders,
    dead,
    depth,
    figures,
    handover,
    parked,
    servers,
    starting,
    tables,
    throughput,
    without,
)
from bench.load import Shape

LANES = ("compiled_statements", "one_round_trip")
"""Of the fast lane's parts; each costs two gates."""
MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "throughput": partial(throughput.run, clients=(32,), rounds=1, seconds=0.2, names=contenders.PLAIN),
    "handover": partial(handover.run, rounds=1, count=3, seconds=0.2, clients=5),
    "depth": partial(depth.run, rounds=1, count=2, depths=(3, 20)),
    "dead": partial(dead.run, dead=200, calls=3),
    "parked": partial(parked.run, count=20, rounds=1, seconds=0.2),
    "asking": partial(asking.run, rounds=1, seconds=0.2, idle_s=0.2, hanging=1),
    "starting": partial(starting.run, rounds=1),
    "ablation": partial(ablation.run, rounds=1, seconds=0.2, lanes=LANES),
}

in_full = pytest.mark.skipif(
    os.environ.get("GATE_TEST_BENCH") != "all", reason="GATE_TEST_BENCH=all runs each suite in miniature: two minutes more"
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "figures.json"


@pytest.fixture
def measured(request: pytest.FixtureRequest, kept: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What one suite finds, as it is kept."""
    name = request.param
    monkeypatch.setitem(bench.SUITES, name, ("in miniature", MINIATURES[name]))
    assert bench.measure([name], kept) == []
    return figures.load(kept)["suites"][name]["found"]


@pytest.mark.skipif(
    "GATE_TEST_EVERYTHING" not in os.environ and servers.postgres_programs() is None, reason="half of them need Postgres"
)
@pytest.mark.parametrize("measured", ["throughput"], indirect=True)
def test_pairs_of_all_peers_that_need_no_environment_of_their_own(measured: dict[str, Any]) -> None:
    of = measured["clients"]["32"]
    assert tuple(of) == contenders.PLAIN
    assert all(one["per_s"][0] > 0 and one["cpu_us"][0] > 0 and not sum(one["refused"]) for one in of.values())
    table = tables.throughput({"throughput": measured})
    assert len(table.splitlines()) == 2 + len(contenders.PLAIN)
    assert "times the pairs of the fastest" in tables.load({"throughput": measured})


@pytest.mark.parametrize("measured", ["handover"], indirect=True)
def test_the_next_in_line_is_the_next(measured: dict[str, Any]) -> None:
    assert measured["out_of_turn"] == 0
    assert measured["granted"] > 3 + 5
    assert 0 < measured["handed_ms"][0] < measured["claimed_ms"][0]
    assert f"0 of {measured['granted']}" in tables.handover({"handover": measured})


@in_full
@pytest.mark.parametrize("measured", ["depth"], indirect=True)
def test_each_depth_is_asked_the_same(measured: dict[str, Any]) -> None:
    for found in measured["depths"].values():
        assert set(found["ms"]) == {"enqueue", "position", "renew", "cancel", "hand-over"}
        assert set(found["redis_us"]) == {"enqueue", "position", "renew", "cancel"}
    assert "hand-over, ms" in tables.depth({"depth": measured})


@in_full
@pytest.mark.parametrize("measured", ["dead"], indirect=True)
def test_the_dead_are_cleared(measured: dict[str, Any]) -> None:
    assert all(0 < measured[what]["p50_us"] <= measured[what]["worst_us"] for what in ("leases", "waiters"))


@pytest.mark.parametrize("measured", ["parked"], indirect=True)
def test_a_parked_waiter_stays_parked(measured: dict[str, Any]) -> None:
    assert measured["count"] == 20 and measured["others"] > 0


@pytest.mark.skipif(
    "GATE_TEST_EVERYTHING" not in os.environ and servers.postgres_programs() is None, reason="half of them need Postgres"
)
@in_full
@pytest.mark.parametrize("measured", ["ablation"], indirect=True)
def test_a_gate_without_a_part_of_its_fast_lane_is_compared(measured: dict[str, Any]) -> None:
    assert set(measured["lanes"]) == set(LANES) <= set(without.LANES)
    assert len(tables.lanes({"ablation": measured}).splitlines()) == 2 + len(LANES)


@pytest.mark.skipif(
    "GATE_TEST_EVERYTHING" not in os.environ and servers.postgres_programs() is None, reason="half of them need Postgres"
)
@in_full
@pytest.mark.parametrize("measured", ["asking"], indirect=True)
def test_a_gate_whose_questions_hang_is_compared_with_one_that_asks_none(measured: dict[str, Any]) -> None:
    assert set(measured["databases"]) == {"SQLite", "Postgres"}
    assert all(one["most_hanging"] > 0 and one["per_s"]["with"][0] > 0 for one in measured["databases"].values())
    assert len(tables.asking({"asking": measured}).splitlines()) == 2 + 2


@pytest.mark.parametrize("measured", ["starting"], indirect=True)
def test_gate_starts(measured: dict[str, Any]) -> None:
    assert measured["ready_s"][0] > measured["python_s"][0] > 0


def test_a_peer_that_fails_is_out_of_the_race_and_gate_may_not() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        nowhere = servers.Server("Prefect, SQLite", servers.free_port(), process)
        peer = contenders.Contender(nowhere, Shape())
        assert peer.measure(1, 0.1, "r") is None and peer.failed
        nowhere.name = "noop"
        with pytest.raises(OSError):
            contenders.Contender(nowhere, Shape()).measure(1, 0.1, "r")
        process.kill()


def test_a_suite_that_fails_leaves_the_others(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> dict[str, Any]:
        raise AssertionError("no")

    monkeypatch.setitem(bench.SUITES, "dead", ("fails", fails))
    monkeypatch.setitem(bench.SUITES, "starting", ("found", lambda folder: {"ready_s": [1.0], "python_s": [0.01234567]}))
    assert bench.measure(["starting"], kept) == []
    assert bench.measure(["dead", "starting"], kept) == ["dead"]
    assert json.loads(kept.read_text())["suites"].keys() == {"starting"}
    assert figures.load(kept)["suites"]["starting"]["found"] == {"ready_s": [1.0], "python_s": [0.012346]}


def test_a_library_whose_line_is_damaged_is_left_out() -> None:
    program = [sys.executable, "-c", "input(); print('{\"pairs\": 1')"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        one = contenders.Contender(servers.Server("counted rows", 0, peer), Shape())
        assert one.measure(1, 0.1, "round") is None
    assert one.failed
