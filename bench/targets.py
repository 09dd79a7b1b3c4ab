"""What gate is to reach, and whether it does: each target beside the figure that was measured for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.medians import middle, ratio

Suites = dict[str, Any]
"""What each suite found, by its name."""


@dataclass(frozen=True)
class Target:
    """`find` says the figure that is judged, `cpu` what CPU a pair costs on either side, µs; both raise LookupError where that was
    not measured.
    """

    what: str
    must: float
    aim: float
    find: Callable[[Suites], float]
    unit: str = "×"
    at_most: bool = False
    """Whether less is better."""
    cpu: Callable[[Suites], str] | None = None
    asks: Callable[[Suites], float] | None = None
    """How many pairs/s it must be on the machine that was measured, with 32 clients."""

    def figure(self, suites: Suites) -> float | None:
        try:
            return self.find(suites)
        except LookupError:
            return None

    def verdict(self, figure: float | None) -> str:
        if figure is None:
            return "not measured"
        if not self._reaches(figure, self.must):
            return "not met"
        return "met, the aim too" if self._reaches(figure, self.aim) else "met"

    def _reaches(self, figure: float, wanted: float) -> bool:
        return figure <= wanted if self.at_most else figure >= wanted


def _pairs(suites: Suites, clients: int) -> dict[str, Any]:
    """Of those that were measured with so many clients; `throughput` has 32, `clients` the others."""
    return suites["throughput" if clients == 32 else "clients"]["clients"][str(clients)]


PREFECT = "Prefect"
"""The better of its databases."""


def _series(of: dict[str, Any], name: str, what: str) -> list[float]:
    if name == PREFECT:
        name = max(("Prefect, SQLite", "Prefect, Postgres"), key=lambda one: middle(of[one]["per_s"]))
    return of[name][what]


def _times(mine: str, theirs: str, must: float, aim: float, clients: int = 32) -> Target:
    """As many pairs as the other, with the CPU that a pair costs each."""
    its = {"noop": "the no-op's", PREFECT: "Prefect's", "counted rows": "counting rows'"}.get(theirs, f"{theirs}'s")
    crowd = "32 clients" if clients == 32 else f"{clients} client"

    def both(suites: Suites, what: str) -> tuple[list[float], list[float]]:
        of = _pairs(suites, clients)
        return _series(of, mine, what), _series(of, theirs, what)

    def cpu(suites: Suites) -> str:
        return " : ".join(f"{middle(one):,.0f}" for one in both(suites, "cpu_us"))

    def asks(suites: Suites) -> float:
        return must * middle(both(suites, "per_s")[1])

    what = f"{mine}: pairs/s of {its}, {crowd}"
    return Target(
        what, must, aim, lambda suites: ratio(*both(suites, "per_s")), cpu=cpu, asks=asks if clients == 32 else None
    )


def _tail(mine: str) -> Target:
    def find(suites: Suites) -> float:
        of = _pairs(suites, 32)
        return ratio(of[mine]["p99_ms"], of["noop"]["p99_ms"])

    return Target(f"{mine}: p99 of the no-op's", 1.0, 0.7, find, at_most=True)


def _deep(what: str) -> Target:
    def find(suites: Suites) -> float:
        depths = suites["depth"]["depths"]
        return depths["10000"]["ms"][what] / depths["10"]["ms"][what]

    return Target(f"{what} with 10,000 waiting ÷ 10", 1.2, 1.05, find, at_most=True)


def _in_redis(what: str) -> Target:
    def find(suites: Suites) -> float:
        return suites["depth"]["depths"]["10000"]["redis_us"][what] / 1000

    return Target(f"{what} with 10,000 waiting, in Redis", 0.3, 0.2, find, "ms", at_most=True)


def _dead(what: str) -> Target:
    def find(suites: Suites) -> float:
        return _as_many(suites["dead"], "dead", 100_000)[what]["p99_us"] / 1000

    return Target(f"one script with 100,000 dead {what}, p99", 1.0, 0.5, find, "ms", at_most=True)


def _as_many(found: dict[str, Any], what: str, wanted: int) -> dict[str, Any]:
    if found[what] != wanted:
        raise LookupError(f"{found[what]}, not {wanted}")
    return found


def _kilobytes_each(suites: Suites) -> float:
    parked = _as_many(suites["parked"], "count", 10_000)
    return (parked["gate_bytes_each"] + parked["valkey_bytes_each"]) / 1024


SQLITE, POSTGRES = "gate, SQLite", "gate, Postgres"
TARGETS = (
    _times(SQLITE, "noop", 1.0, 1.5),
    _times(POSTGRES, "noop", 0.5, 1.0),
    _tail(SQLITE),
    _tail(POSTGRES),
    _times(SQLITE, PREFECT, 40, 80),
    _times(POSTGRES, PREFECT, 40, 80),
    _times(SQLITE, PREFECT, 5, 10, clients=1),
    _times(POSTGRES, PREFECT, 5, 10, clients=1),
    _times(POSTGRES, "SKIP LOCKED", 0.7, 1.5),
    _times(POSTGRES, "counted rows", 10, 20),
    Target("release sent → the waiter has its answer, beside the commits, p50", 1.0, 0.5,
           lambda suites: middle(suites["handover"]["beside_ms"]), "ms", at_most=True),
    Target("served out of turn", 0, 0, lambda suites: suites["handover"]["out_of_turn"], "", at_most=True),
    Target("32 in line for three slots, of 3 ÷ (release → grant → claim)", 0.8, 0.95,
           lambda suites: middle(suites["handover"]["of_three"])),
    _deep("enqueue"),
    _deep("hand-over"),
    _deep("renew"),
    _in_redis("position"),
    _in_redis("cancel"),
    _dead("leases"),
    _dead("waiters"),
    Target("10,000 parked: memory each, gate's and its Valkey's", 24, 16, _kilobytes_each, "KB", at_most=True),
    Target("10,000 parked: the others' throughput", 0.9, 0.95,
           lambda suites: _as_many(suites["parked"], "count", 10_000)["others"]),
    Target("`gate serve` ready, warm", 1.5, 1.0, lambda suites: middle(suites["starting"]["ready_s"]), "s", at_most=True),
)  # fmt: skip
