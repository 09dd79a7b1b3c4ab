"""Which server ticks which pool, and since when a server has been present."""

from __future__ import annotations

from gate.coordination.pool_owners import PoolOwners
from gate.coordination.presence import BREAK_S, FRESH_S, Presence
from gate.ledger import ServerRow
from gate.ledger.transitions import servers
from gate.workers import server_beat

POOLS = [f"p{number}" for number in range(400)]


def row(server: str, lives: bool = True, started_at: int = 1) -> ServerRow:
    return ServerRow(server, "1.0", started_at, 1, 0.0, 0, lives)


def owned(owners: dict[str, PoolOwners]) -> dict[str, list[str]]:
    return {pool: [server for server, one in owners.items() if one.owns(pool)] for pool in POOLS}


def test_each_pool_has_one_owner_among_four_servers_and_each_server_a_fair_part() -> None:
    owners = {server: PoolOwners(server) for server in "abcd"}
    for one in owners.values():
        one.take(map(row, "abcd"))
    found = owned(owners)
    assert all(len(servers) == 1 for servers in found.values())
    parts = [sum(servers == [server] for servers in found.values()) for server in "abcd"]
    assert min(parts) > 60 and max(parts) < 140, parts


def test_the_pools_of_a_dead_server_go_to_the_others_and_no_other_pool_moves() -> None:
    owners = {server: PoolOwners(server) for server in "ab"}
    died: list[bool] = []
    owners["a"].on_change.append(died.append)
    for one in owners.values():
        one.take(map(row, "abc"))
    before = owned(owners)
    for one in owners.values():
        one.take([row("a"), row("b"), row("c", lives=False)])
    after = owned(owners)
    assert all(after[pool] == servers for pool, servers in before.items() if servers)
    assert all(len(servers) == 1 for servers in after.values())
    assert died == [False, True]


def test_a_server_that_stops_in_order_has_not_died_and_one_that_starts_again_has() -> None:
    died: list[bool] = []
    one = PoolOwners("a")
    one.on_change.append(died.append)
    one.take([row("a"), row("b")])
    one.take([row("a"), row("b", started_at=2)])
    one.take([row("a")])
    assert died == [False, True, False]


def test_a_dead_server_is_known_within_five_seconds() -> None:
    """Its row is written before it dies, and read by the others with each of their heartbeats."""
    assert servers.DEAD_AFTER_S + server_beat.EVERY_S <= 4.5, "half a second is left for a slow commit"
    assert servers.DEAD_AFTER_S >= 3 * server_beat.EVERY_S, "a heartbeat that is late is no death"


def test_a_break_ends_a_presence() -> None:
    now = [100.0]
    presence = Presence(lambda: now[0])
    assert presence.since() is None
    presence.looked(is_good=True)
    for _ in range(5):
        now[0] += 1
        presence.looked(is_good=True)
    assert presence.since() == 100
    now[0] += FRESH_S + 0.1
    assert presence.since() is None, "the last look is too old to prove anything"
    now[0] += BREAK_S
    presence.looked(is_good=True)
    assert presence.since() == now[0]
    presence.looked(is_good=False)
    assert presence.since() is None
