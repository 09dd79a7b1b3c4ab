"""The identity of a Redis, which shows that the data of a pool may have gone back.

It is the run id and the replication id, `RUN:REPLICATION`. Neither survives a restart or a failover. In a cluster the epoch of the
primary follows, `RUN:REPLICATION@EPOCH`: a primary that takes a slot over has a higher epoch than each one that had the slot before.
So a primary to which a slot comes back is told from one that has missed that the slot left it.
"""

from __future__ import annotations

from collections.abc import Iterable


def life(identity: str) -> str:
    """Return the part that changes with each restart and each failover, without the epoch of the cluster."""
    return identity.partition("@")[0]


def cluster_epoch(identity: str) -> int:
    """Return the epoch of the primary in its cluster; 0 for a Redis that is in no cluster."""
    return int(identity.partition("@")[2] or 0)


def was_left(identity: str, current: str, former: Iterable[str]) -> bool:
    """Tell whether a Redis is one that the servers have left for another.

    Args:
        identity: Identity of that Redis.
        current: Identity of the one that has the pool, as SQL knows it.
        former: Identities of those that had it before.

    Returns:
        False too for a primary of a cluster to which the slot of the pool has come back.
    """
    if life(identity) == life(current) or life(identity) not in {life(one) for one in former}:
        return False
    comes_back = cluster_epoch(identity) > cluster_epoch(current)  # guard: slot-that-comes-back-is-loaded
    return not comes_back


def left(current: str, former: tuple[str, ...], new: str) -> tuple[str, ...]:
    """Return the former identities of a pool that is going to be loaded in another Redis, the newest first.

    Args:
        current: Identity of the Redis that has the pool; empty before the first load.
        former: Identities of those that had it before.
        new: Identity of the one that gets it.
    """
    if not current or life(current) == life(new):
        return former
    return (current, *(one for one in former if life(one) != life(current)))
