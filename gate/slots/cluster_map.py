"""Which primary of a Redis Cluster has which slots, by what all nodes say.

Each node has a view of the cluster, and a node that was cut off has an old one. redis-py believes the first node that answers. Here
all nodes are asked at once. What a node says of its own slots counts; what others say of it counts only if it does not answer. Of two
nodes that claim a slot the one with the higher epoch has it, as in the cluster itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

Address = tuple[str, int]
"""Host and port of a node."""
_GONE = frozenset({"noaddr", "handshake"})
"""Flags of nodes that nothing can be asked."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A primary as one view has it.

    Attributes:
        node_id: ID of the node.
        epoch: Its epoch.
        address: Where it is reached.
        slots: First and last slot of each range that it has.
    """

    node_id: str
    epoch: int
    address: Address
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as one node sees it.

    Attributes:
        node_id: ID of that node.
        claims: The primaries that have slots.
        nodes: Where each node is reached, replicas too.
    """

    node_id: str
    claims: tuple[Claim, ...]
    nodes: frozenset[Address]


def view(asked: Address, nodes: str, slots: Sequence[Any]) -> View:
    """Read the replies of a node.

    Args:
        asked: Host and port by which it was asked. Its host stands for a node whose host it does not know.
        nodes: Its reply to CLUSTER NODES, which has the epochs.
        slots: Its reply to CLUSTER SLOTS, which has the hosts as the cluster wants them used.
    """
    lines = [line.split(" ") for line in nodes.splitlines() if line]
    epochs = {line[0]: int(line[6]) for line in lines}
    reached: dict[str, Address] = {}
    ranges: dict[str, list[tuple[int, int]]] = {}
    for first, last, primary, *replicas in slots:
        for host, port, node_id, *_ in (primary, *replicas):
            reached[_text(node_id)] = (_text(host).strip("?") or asked[0], int(port))
        ranges.setdefault(_text(primary[2]), []).append((int(first), int(last)))
    me = next(line[0] for line in lines if "myself" in line[2].split(","))
    claims = [Claim(one, epochs.get(one, 0), reached[one], tuple(found)) for one, found in ranges.items()]
    others = {_plain(line[1]) for line in lines if line[0] not in reached and not _GONE.intersection(line[2].split(","))}
    return View(me, tuple(claims), frozenset({*reached.values(), *(one for one in others if one is not None)}))


def owners(views: Iterable[View]) -> list[Address | None]:
    """Return the address of the primary that has each slot; None for a slot that no node has."""
    known = list(views)
    answered = {one.node_id for one in known}
    claims = {
        (claim.epoch, claim)
        for one in known
        for claim in one.claims
        if claim.node_id == one.node_id or claim.node_id not in answered  # guard: node-knows-its-own-slots
    }
    found: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for _, claim in sorted(claims, key=lambda one: one[0]):
        for first, last in claim.slots:
            found[first : last + 1] = [claim.address] * (last + 1 - first)
    return found


@lru_cache(maxsize=4096)
def slot_of(pool: str) -> int:
    """Return the slot that has the keys of a pool."""
    return key_slot(f"gate:{{{pool}}}:slots".encode())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _plain(address: str) -> Address | None:
    """Read `HOST:PORT@BUS,NAME`."""
    host, _, port = address.partition("@")[0].rpartition(":")
    return (host, int(port)) if host and port.isdigit() and port != "0" else None
