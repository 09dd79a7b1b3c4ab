"""What gate is to reach, and whether it does: each target beside the figure that was measured for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.figures import middle, ratio

Suites = dict[str, Any]
"""What each suite found, by its name."""


@dataclass(frozen=True)
class Target:
    """`find` says the figure that is judged; it raises LookupError where that was not measured."""

    what: str
    must: float
    aim: float
    find: Callable[[Suites], float]
    unit: str = "×"
    at_most: bool = False
    """Whether less is better."""

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


def _against(mine: str, theirs: str, clients: int = 32) -> Callable[[Suites], float]:
    def find(suites: Suites) -> float:
        of = _pairs(suites, clients)
        return ratio(of[mine]["per_s"], of[theirs]["per_s"])

    return find


def _against_prefect(mine: str, clients: int) -> Callable[[Suites], float]:
    """The better of its databases, in each round."""

    def find(suites: Suites) -> float:
        of = _pairs(suites, clients)
        best = map(max, of["Prefect, SQLite"]["per_s"], of["Prefect, Postgres"]["per_s"])
        return ratio(of[mine]["per_s"], list(best))

    return find


def _tail(mine: str) -> Callable[[Suites], float]:
    def find(suites: Suites) -> float:
        of = _pairs(suites, 32)
        return ratio(of[mine]["p99_ms"], of["noop"]["p99_ms"])

    return find


def _deep(what: str) -> Callable[[Suites], float]:
    def find(suites: Suites) -> float:
        depths = suites["depth"]["depths"]
        return depths["10000"]["ms"][what] / depths["10"]["ms"][what]

    return find


def _redis_ms(what: str) -> Callable[[Suites], float]:
    return lambda suites: suites["depth"]["depths"]["10000"]["redis_us"][what] / 1000


def _dead(what: str, which: str) -> Callable[[Suites], float]:
    return lambda suites: suites["dead"][what][which] / 1000


def _kilobytes_each(suites: Suites) -> float:
    return (suites["parked"]["gate_bytes_each"] + suites["parked"]["valkey_bytes_each"]) / 1024


SQLITE, POSTGRES = "gate, SQLite", "gate, Postgres"
TARGETS = (
    Target("pairs/s of the no-op's: SQLite", 1.0, 1.5, _against(SQLITE, "noop")),
    Target("pairs/s of the no-op's: Postgres", 0.5, 1.0, _against(POSTGRES, "noop")),
    Target("p99 of the no-op's: SQLite", 1.0, 0.7, _tail(SQLITE), at_most=True),
    Target("p99 of the no-op's: Postgres", 1.0, 0.7, _tail(POSTGRES), at_most=True),
    Target("pairs/s of Prefect's, its better database, 32 clients: SQLite", 40, 80, _against_prefect(SQLITE, 32)),
    Target("pairs/s of Prefect's, its better database, 32 clients: Postgres", 40, 80, _against_prefect(POSTGRES, 32)),
    Target("pairs/s of Prefect's, its better database, 1 client: SQLite", 5, 10, _against_prefect(SQLITE, 1)),
    Target("pairs/s of Prefect's, its better database, 1 client: Postgres", 5, 10, _against_prefect(POSTGRES, 1)),
    Target("pairs/s of SKIP LOCKED's, same Postgres", 0.7, 1.5, _against(POSTGRES, "SKIP LOCKED")),
    Target("pairs/s of counted rows, same Postgres", 10, 20, _against(POSTGRES, "counted rows")),
    Target(
        "release sent → the waiter has its answer, beside the commits, p50",
        1.0,
        0.5,
        lambda suites: middle(suites["handover"]["beside_ms"]),
        "ms",
        True,
    ),
    Target("served out of turn", 0, 0, lambda suites: suites["handover"]["out_of_turn"], "", True),
    Target(
        "32 in line for three slots, of 3 ÷ (release → grant → claim)",
        0.8,
        0.95,
        lambda suites: middle(suites["handover"]["of_three"]),
    ),
    Target("10,000 waiting ÷ 10: enqueue", 1.2, 1.05, _deep("enqueue"), at_most=True),
    Target("10,000 waiting ÷ 10: hand-over", 1.2, 1.05, _deep("hand-over"), at_most=True),
    Target("10,000 waiting ÷ 10: renew", 1.2, 1.05, _deep("renew"), at_most=True),
    Target("position with 10,000 waiting, in Redis", 0.3, 0.2, _redis_ms("position"), "ms", True),
    Target("cancel with 10,000 waiting, in Redis", 0.3, 0.2, _redis_ms("cancel"), "ms", True),
    Target("one script with 100,000 dead leases, p99 of 200", 1.0, 0.5, _dead("leases", "p99_us"), "ms", True),
    Target("one script with 100,000 dead waiters, p99 of 200", 1.0, 0.5, _dead("waiters", "p99_us"), "ms", True),
    Target("10,000 parked: memory each, gate's and its Valkey's", 24, 16, _kilobytes_each, "KB", True),
    Target("10,000 parked: the others' throughput", 0.9, 0.95, lambda suites: suites["parked"]["others"]),
    Target("`gate serve` ready, warm", 1.5, 1.0, lambda suites: middle(suites["starting"]["ready_s"]), "s", True),
)
