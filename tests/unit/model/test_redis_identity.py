"""A Redis that was left for another, and a primary of a cluster to which a slot comes back."""

from __future__ import annotations

from gate.model.redis_identity import cluster_epoch, left, life, was_left


def test_single_redis_that_was_left_stays_left() -> None:
    assert was_left("run1:a", "run2:b", ("run1:a",))
    assert not was_left("run3:c", "run2:b", ("run1:a",))


def test_primary_that_missed_a_failover_is_left_whatever_its_epoch_was_then() -> None:
    """Its epoch may have gone up by slots of others before it was cut off."""
    assert was_left("run1:a@7", "run2:b@8", ("run1:a@5",))


def test_slot_may_come_back_under_a_higher_epoch() -> None:
    assert not was_left("run1:a@9", "run2:b@8", ("run1:a@5",))


def test_slot_that_goes_forth_and_back_fills_no_list() -> None:
    current, former = "", ()
    for epoch in range(1, 100):
        new = f"run{epoch % 2}:a@{epoch}"
        assert not was_left(new, current, former)
        current, former = new, left(current, former, new)
    assert former == ("run0:a@98", "run1:a@97")


def test_redis_that_has_the_pool_is_not_one_that_was_left() -> None:
    assert not was_left("run1:a@9", "run1:a@9", ("run2:b@8", "run1:a@5"))


def test_parts_of_an_identity() -> None:
    assert (life("r:a@12"), cluster_epoch("r:a@12")) == ("r:a", 12)
    assert (life("r:a"), cluster_epoch("r:a")) == ("r:a", 0)
