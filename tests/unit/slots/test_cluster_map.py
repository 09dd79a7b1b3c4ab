"""Which primary has a slot, by the views of all nodes."""

from __future__ import annotations

from gate.slots.cluster_map import Claim, View, owners, slot_of, view

OLD, NEW, THIRD = ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3)


def claim(node_id: str, epoch: int, *slots: tuple[int, int]) -> Claim:
    return Claim(node_id, epoch, {"old": OLD, "new": NEW, "third": THIRD}[node_id], slots)


def seen_by(node_id: str, *claims: Claim) -> View:
    return View(node_id, claims, frozenset())


def test_primary_that_was_cut_off_loses_its_slots_to_the_higher_epoch() -> None:
    cut_off = seen_by("old", claim("old", 1, (0, 9)))
    others = seen_by("new", claim("new", 4, (0, 9)))
    assert owners([cut_off, others])[:10] == [NEW] * 10 == owners([others, cut_off])[:10]


def test_node_that_answers_speaks_for_itself() -> None:
    """A third node has not heard yet that slot 5 was moved, and knows a higher epoch of the node that had it."""
    late = seen_by("third", claim("old", 7, (0, 9)), claim("third", 3, (10, 12)))
    old, new = seen_by("old", claim("old", 7, (0, 4), (6, 9))), seen_by("new", claim("new", 6, (5, 5)))
    found = owners([late, old, new])
    assert found[4:7] == [OLD, NEW, OLD] and found[10] == THIRD


def test_node_that_is_away_keeps_its_slots_until_another_takes_them() -> None:
    assert owners([seen_by("new", claim("old", 1, (0, 9)), claim("new", 2, (10, 19)))])[:20] == [OLD] * 10 + [NEW] * 10


def test_slot_without_a_node_has_no_owner() -> None:
    assert owners([seen_by("new", claim("new", 2, (10, 19)))])[9:11] == [None, NEW]


def test_pools_keys_are_in_the_slot_that_redis_computes() -> None:
    assert slot_of("123456789") == 0x31C3, "the example of the specification of Redis Cluster"


def test_view_uses_the_host_that_the_cluster_wants_used() -> None:
    nodes = (
        "aa 10.0.0.1:7000@17000,one.example myself,master - 0 0 5 connected 0-99\n"
        "bb 10.0.0.2:7000@17000,two.example master - 0 0 6 connected 100-199 [150->-aa]\n"
        "cc 10.0.0.3:7000@17000 slave aa 0 0 5 connected\n"
        "dd :0@0 master,noaddr - 0 0 2 disconnected\n"
    )
    slots = [[0, 99, [b"one.example", 7000, b"aa", []]], [100, 199, [None, 7001, b"bb", []]]]
    seen = view(("asked.example", 7), nodes, slots)
    assert seen.node_id == "aa"
    assert seen.claims == (
        Claim("aa", 5, ("one.example", 7000), ((0, 99),)),
        Claim("bb", 6, ("asked.example", 7001), ((100, 199),)),
    )
    assert seen.nodes == {("one.example", 7000), ("asked.example", 7001), ("10.0.0.3", 7000)}
