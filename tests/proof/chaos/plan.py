"""What the whole consists of: which faults, how often, on which stores. A row is one run; long ones are several."""

from __future__ import annotations

from dataclasses import dataclass

from tests.proof.chaos.scene import Options

DEADLINE_S = 3600
"""No run takes longer; one that does is stopped, and stands in the results as that."""


@dataclass(frozen=True, slots=True)
class Row:
    """What of docs/reliability.md `runs` are together; `counts` says what one of their `times` is."""

    promise: str
    counts: str
    runs: tuple[Options, ...]


def run(
    fault: str, times: int, seed: int, stores: str = "valkey postgres", servers: int = 1, *,
    clients: int = 20, seconds: float = 0, calls: int = 0, away: float = 5,
) -> Options:  # fmt: skip
    redis, sql = stores.split()
    return Options(fault, times, clients, seconds, seed, redis, sql, servers, calls, away)


PG2, DEBIAN = {"stores": "valkey postgres", "servers": 2}, {"stores": "redis sqlite"}
BOTH_DEBIAN = {"stores": "redis postgres", "servers": 2}
MOODS = {
    "away": "refuses connections", "refusing": "answers 503", "hanging": "does not answer", "slow": "answers slowly",
    "limiting": "answers two requests a second only", "lying": "says that tasks have ended which run",
    "forgetting": "denies tasks that run, once or for good",
}  # fmt: skip
"""What a provider does, by its name in the faults."""
SMALLEST = {"stores": "embedded sqlite"}

PLAN = (
    Row("many clients, no fault", "calls", (run("none", 0, 1, **PG2, clients=50, calls=20_000),)),
    Row("`kill -9` of gate, 50 clients", "kills", (
        run("kill", 70, 1, **PG2, clients=50, seconds=20),
        run("kill", 65, 2, **BOTH_DEBIAN, clients=50, seconds=20),
        run("kill-only", 65, 3, **SMALLEST, clients=50, seconds=90),
    )),
    Row("gate exits before and after each script, each commit, each call to a tool: 80 points, 20 times each (the owner's refund: 7 times)", "exits", (
        run("exits", 7, 1, clients=5), run("exits", 7, 2, **DEBIAN, clients=5), run("exits", 6, 3, **SMALLEST, clients=5),
    )),
    Row("`kill -9` of Redis", "kills", (run("kill-redis", 100, 1, **SMALLEST, seconds=120),)),
    Row("FLUSHALL", "times", (run("flush", 10, 1, **PG2, seconds=30), run("flush", 10, 2, **DEBIAN, seconds=30))),
    Row("Redis comes back empty", "times", (run("empty", 5, 1, **BOTH_DEBIAN, seconds=20), run("empty", 5, 2, **DEBIAN, seconds=20))),
    Row("Redis comes back with an older snapshot", "times", (
        run("snapshot", 5, 1, **PG2, seconds=20), run("snapshot", 5, 2, **DEBIAN, seconds=20),
    )),
    Row("failover to a replica that lags", "failovers", (
        run("failover", 25, 1, **PG2, seconds=60), run("failover", 25, 2, **DEBIAN, seconds=60),
    )),
    Row("SIGSTOP past the leases", "times", (run("stop", 10, 1, **PG2, seconds=20), run("stop", 10, 2, **BOTH_DEBIAN, seconds=20))),
    Row("Redis lost and, at the same moment, a server killed or stopped, or Postgres crashed", "times", (run("storm", 20, 1, **PG2, seconds=60),)),
    Row("pools are made, used and deleted, the clock of Redis steps by a minute; every other time a server is killed", "times", (
        run("moves", 60, 1, **PG2, seconds=20), run("moves", 60, 2, **BOTH_DEBIAN, seconds=20),
    )),
    Row("SQL away for 60 s", "times", (
        run("sql-away", 8, 1, **PG2, seconds=20, away=60),
        run("sql-hangs", 6, 2, **BOTH_DEBIAN, seconds=20, away=60),
        run("sql-locked", 6, 3, **SMALLEST, seconds=20, away=60),
    )),
    Row("SQL answers but refuses writes for 20 s: it is read-only", "times", (
        run("sql-refuses", 5, 1, **PG2, seconds=20, away=20), run("sql-refuses", 5, 2, **BOTH_DEBIAN, seconds=20, away=20),
    )),
    Row("a pool's row is held for 10 s", "times", (run("row-locked", 10, 1, **PG2, seconds=20, away=10),)),
    Row("a batch with some rows that SQL refuses", "times", (
        run("bad-row", 10, 1, **PG2, seconds=20), run("bad-row", 10, 2, **DEBIAN, seconds=20),
    )),
    Row("every tenth reply of Redis is lost", "lost replies", (
        run("replies", 0, 1, **PG2, calls=5_000), run("replies", 0, 2, **DEBIAN, calls=5_000),
    )),
    Row("the outbox trimmed, deleted, poisoned", "times", (
        run("outbox", 18, 1, **PG2, seconds=10), run("outbox", 12, 2, **DEBIAN, seconds=10),
    )),
    Row("success, failure, cancel and expiry of one job at the same moment", "jobs", (
        run("ends", 1000, 1, **PG2), run("ends", 1000, 2, **DEBIAN),
    )),
    Row("the next waiter is cancelled at ± 5 ms of its grant", "cancels", (
        run("cancels", 2500, 1, **PG2), run("cancels", 2500, 2, **DEBIAN),
    )),
    Row("acquires at a queue with room for a tenth of them", "acquires", (
        run("full", 10_000, 1, **PG2), run("full", 10_000, 2, **SMALLEST),
    )),
    Row("callbacks come ten times, late, shuffled, contradictory; meanwhile 100,000 forged ones (all refused, none with a 5xx)", "jobs", (
        run("webhooks", 500, 1, **PG2, calls=50_000), run("webhooks", 500, 2, **SMALLEST, calls=50_000),
    )),
    Row("the owner's refund function fails half the time, and servers are killed", "kills", (
        run("owner-money", 300, 1, **PG2), run("owner-money", 300, 2, **BOTH_DEBIAN),
    )),
    *(
        Row(f"the provider {says}; each time one of two servers is killed", "times", (
            run(f"provider-{mood}", 8, seed, **PG2, clients=2, away=9),
        )) for seed, (mood, says) in enumerate(MOODS.items(), 1)
    ),
    Row("the provider does all of that in turn", "times", (
        run("provider", 3, 1, **BOTH_DEBIAN, clients=2, away=9), run("provider", 3, 2, **SMALLEST, clients=2, away=9),
    )),
    Row("an operator edits Redis by hand", "times", (run("operator", 4, 1, **DEBIAN, seconds=10),)),
    Row("Redis has no memory left", "times", (
        run("memory", 5, 1, **PG2, seconds=10), run("memory", 5, 2, **DEBIAN, seconds=10),
    )),
)  # fmt: skip
